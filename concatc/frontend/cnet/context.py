"""What the parts of the elaborator share: the run, and one frame for each net or block that is being elaborated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from concatc.diagnostics import Loc, Sink
from concatc.frontend.cnet import ast, limits
from concatc.frontend.cnet.graph import Graph
from concatc.frontend.cnet.names import Analysis, BodyNames
from concatc.frontend.cnet.project import Unit
from concatc.frontend.cnet.values import show
from concatc.ir.core import Value


class Poisoned(Exception):
    """An error was reported; what depends on it is left out silently."""


class _Poison:
    """The value of a name whose statement failed."""


POISON = _Poison()


@dataclass
class Scope:
    """Names of a body, and the segments of the loops around it."""

    names: dict[str, Any] = field(default_factory=dict)
    segments: tuple[str, ...] = ()


@dataclass
class Frame:
    """One net, or one call of a block.

    ``base`` is the path of the call; ``layers`` are the layers that are being called, outermost first; ``calls`` is
    where it was called from; ``defaults`` holds the attributes of the ``default`` statements that have run.
    """

    unit: Unit
    names: BodyNames
    base: tuple[str, ...] = ()
    scopes: list[Scope] = field(default_factory=lambda: [Scope()])
    layers: tuple[object, ...] = ()
    calls: tuple[Loc, ...] = ()
    defaults: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def segments(self) -> tuple[str, ...]:
        """The path here: of the call, then of the loops."""
        return (*self.base, *self.scopes[-1].segments)

    def scope_of(self, name: str) -> Scope | None:
        """The scope that binds the name."""
        for scope in reversed(self.scopes):
            if name in scope.names:
                return scope
        return None

    def lookup(self, name: str) -> Any:
        """The value of a name, or None."""
        scope = self.scope_of(name)
        return None if scope is None else scope.names[name]

    def bind(self, name: str, value: Any) -> Scope:
        """Bind a name: where it is bound already, else in the innermost scope."""
        scope = self.scope_of(name) or self.scopes[-1]
        scope.names[name] = value
        return scope


@dataclass
class Run:
    """One elaboration.  ``widen`` makes every f32 an f64; ``doubtful`` counts the branches around that may not hold.

    ``decisions`` lists the numbers that decided something (a comparison, a rounding, a range, an index), in order:
    where two runs at other dims agree in them, they made the same net of other sizes.
    """

    sink: Sink
    analysis: Analysis
    graph: Graph
    train: bool
    widen: bool
    steps: int = 0
    depth: int = 0
    doubtful: int = 0
    decisions: list[tuple[Any, ...]] = field(default_factory=list)
    blobs: dict[str, Any] = field(default_factory=dict)  # by path: what `keep` finds
    param_calls: dict[str, tuple[int, tuple[object, ...]]] = field(default_factory=dict)

    def dtype(self, dtype: str) -> str:
        """The element type that a declaration of ``dtype`` gets."""
        return "f64" if self.widen and dtype == "f32" else dtype

    def report(
        self, frame: Frame | None, message: str, loc: Loc, notes: Iterable[str] = (), help: str | None = None
    ) -> None:
        """Record an error, once for each place, with the calls that lead there."""
        if any(known.loc == loc for known in self.sink.errors):
            return
        calls = frame.calls[::-1][:3] if frame is not None else ()
        self.sink.error(message, loc, [*notes, *(f"called from {call}" for call in calls)], help)

    def warn(self, message: str, loc: Loc, help: str) -> None:
        """Record a warning, once for each place."""
        if not any(known.loc == loc for known in self.sink.warnings):
            self.sink.warning(message, loc, help=help)

    def fail(
        self, frame: Frame | None, message: str, loc: Loc, notes: Iterable[str] = (), help: str | None = None
    ) -> Poisoned:
        """Record an error; raise what this returns to leave the statement."""
        self.report(frame, message, loc, notes, help)
        return Poisoned()

    def charge(self, frame: Frame, loc: Loc, steps: int = 1) -> None:
        """Count steps; past the limit the run ends."""
        self.steps += steps
        if self.steps > limits.STEPS:
            self.report(
                frame,
                f"this net takes more than {limits.STEPS} steps to build",
                loc,
                help="a net is built once for each iteration of its loops and each call of its blocks",
            )
            self.sink.raise_if_errors()

    def enter(self, frame: Frame, loc: Loc) -> None:
        """One level of nesting, which the caller leaves by ``depth -= 1``; too many are an error, not a crash."""
        if self.depth >= limits.DYNAMIC_DEPTH:
            raise self.fail(frame, "blocks and expressions are nested too deeply here", loc)
        self.depth += 1

    def source(self, loc: Loc) -> str:
        """The text of a range on one line; "" where it spans several."""
        rows = self.sink.sources.get(loc.file, "").split("\n")
        if loc.line != loc.end_line or not 1 <= loc.line <= len(rows):
            return ""
        return rows[loc.line - 1][loc.column - 1 : loc.end_column - 1]

    def blob_name(self, expr: ast.Expr | None, value: Value) -> str:
        """What a user calls a blob: its name, else its source text, else what makes it."""
        if isinstance(expr, ast.Reference):
            return ".".join(expr.parts)
        text = self.source(expr.loc) if expr is not None and not isinstance(expr, ast.Pipeline) else ""
        if 0 < len(text) <= 40:
            return f"`{text}`"
        if value.op is None:
            return str(value.attrs.get("cnet.name", value.name))
        if value.name and "." not in value.name:
            return value.name
        return f"the result of `{value.op.name.removeprefix('cnet.')}`"

    def blob_note(self, loc: Loc, blobs: Iterable[tuple[str, Value]]) -> str:
        """``a is tensor<2x4xf32>, from line 1; b is tensor<3x4xf32>, from line 2``."""
        parts: dict[str, None] = {}
        for name, value in blobs:
            where = self.graph.where(value)
            part = f"{name} is {value.type}"
            if where is not None:
                part += f", from line {where.line}" + (f" of {where.file}" if where.file != loc.file else "")
            parts[part] = None
        shown = list(parts)
        return "; ".join(shown[:8]) + (f"; and {len(shown) - 8} more" if len(shown) > 8 else "")

    def integer_problem(self, value: Any, expr_loc: Loc) -> tuple[str, str | None]:
        """For a number that is no integer: ``63 / 2 = 31.5``, and what helps."""
        text = self.source(expr_loc)
        shown = show(value)
        return (f"{text} = {shown}" if text and text != shown else shown), ("`//` rounds down" if "/" in text else None)
