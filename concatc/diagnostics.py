"""Where something stands in a source text, and what to tell a user about it.

Every error that a user can cause is a :class:`Diagnostic`; all diagnostics of one run are raised together as one
:class:`ConcatcError`.  Text of the form

    tiny.cnet:3:9: error: concat inputs must agree off axis 1
        c = concat(a, b, axis=1)
            ^^^^^^^^^^^^^^^^^^^^
    note: a is tensor<2x4xf32>, from line 1; b is tensor<3x4xf32>, from line 2
    help: axis=0 would join these shapes

is made here and nowhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Loc:
    """A range in a source file; lines and columns count from 1, ``end_column`` is exclusive."""

    file: str
    line: int
    column: int
    end_line: int = 0
    end_column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message: what is wrong, where, what was found (notes) and what to do (help)."""

    message: str
    loc: Loc | None = None
    notes: tuple[str, ...] = ()
    help: str | None = None
    severity: Severity = "error"

    def render(self, sources: Mapping[str, str] | None = None) -> str:
        """Return the diagnostic as text, with the source line and a caret where the source is known."""
        head = f"{self.loc}: " if self.loc else ""
        lines = [f"{head}{self.severity}: {_LONG_WORD.sub(_shortened, self.message)}"]
        if self.loc and sources and self.loc.file in sources:
            lines += _excerpt(self.loc, sources[self.loc.file])
        lines += [f"note: {note}" for note in self.notes]
        if self.help:
            lines.append(f"help: {self.help}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        where: dict[str, Any] = {}
        if self.loc:
            where = {"file": self.loc.file, "line": self.loc.line, "column": self.loc.column}
        return {
            "severity": self.severity,
            "message": self.message,
            **where,
            "notes": list(self.notes),
            "help": self.help,
        }


EXCERPT_COLUMNS = 160
_LONG_WORD = re.compile(r"\w{120,}")


def _shortened(word: re.Match[str]) -> str:
    return f"{word.group()[:80]}.."


def _excerpt(loc: Loc, text: str) -> list[str]:
    rows = text.split("\n")
    if not 1 <= loc.line <= len(rows):
        return []
    raw = rows[loc.line - 1].rstrip("\r")
    indent = len(raw) - len(raw.lstrip())
    row = raw[indent:].rstrip()
    start = max(loc.column - 1 - indent, 0)
    end = loc.end_column - 1 - indent if loc.end_line == loc.line else len(row)
    width = max(min(end, len(row)) - start, 1)
    first = max(0, start - EXCERPT_COLUMNS // 2) if len(row) > EXCERPT_COLUMNS else 0
    row = row[first : first + EXCERPT_COLUMNS]
    width = min(width, max(EXCERPT_COLUMNS - (start - first), 1))
    lead = "".join("\t" if ch == "\t" else " " for ch in row[: start - first])
    return ["    " + row, "    " + lead.ljust(start - first) + "^" * width]


class ConcatcError(Exception):
    """One or more diagnostics that end a run.  ``sources`` maps file names to their text, for excerpts."""

    def __init__(
        self, diagnostics: Iterable[Diagnostic] | Diagnostic | str, sources: Mapping[str, str] | None = None
    ) -> None:
        if isinstance(diagnostics, str):
            diagnostics = Diagnostic(diagnostics)
        if isinstance(diagnostics, Diagnostic):
            diagnostics = [diagnostics]
        self.diagnostics = list(diagnostics)
        self.sources = dict(sources or {})
        super().__init__(self.render())

    def render(self) -> str:
        """Return all diagnostics as text."""
        return "\n".join(d.render(self.sources) for d in self.diagnostics)

    def __str__(self) -> str:
        return self.render()


class UsageError(ConcatcError):
    """The call is wrong (a file, an option, an argument), not the net."""


class ConcatcWarning(UserWarning):
    """Something that is probably not meant: in a net, such as an input that nothing reads, or a cache of no use."""


@dataclass
class Sink:
    """Collects diagnostics so that one run reports all of them."""

    sources: dict[str, str] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    limit: int = 100

    def error(self, message: str, loc: Loc | None = None, notes: Iterable[str] = (), help: str | None = None) -> None:
        """Record an error; past ``limit`` errors the run ends at once."""
        self.diagnostics.append(Diagnostic(message, loc, tuple(notes), help))
        if len(self.errors) >= self.limit:
            self.raise_if_errors()

    def warning(self, message: str, loc: Loc | None = None, notes: Iterable[str] = (), help: str | None = None) -> None:
        """Record a warning."""
        self.diagnostics.append(Diagnostic(message, loc, tuple(notes), help, "warning"))

    @property
    def errors(self) -> list[Diagnostic]:
        """The recorded errors."""
        return [d for d in self.diagnostics if d.severity == "error"]

    @property
    def warnings(self) -> list[Diagnostic]:
        """The recorded warnings."""
        return [d for d in self.diagnostics if d.severity == "warning"]

    def raise_if_errors(self) -> None:
        """Raise one :class:`ConcatcError` with all recorded errors, in source order, if there are any."""
        if not self.errors:
            return
        order = sorted(self.errors, key=lambda d: (d.loc.file, d.loc.line, d.loc.column) if d.loc else ("", 0, 0))
        raise ConcatcError(order, self.sources)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean `x`?`` for the known name nearest to ``name``, or None."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None
