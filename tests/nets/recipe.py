"""A net as data that can be cut down: statements with named operands, written out as ``.cnet``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Blob:
    """A float blob."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Statement:
    """``targets = text``; ``{0}``, ``{1}`` in the text stand for the operands.

    Inputs and parameters are statements without operands, losses and outputs statements without targets.
    """

    text: str
    operands: tuple[str, ...] = ()
    targets: tuple[Blob, ...] = ()
    kind: str = "assign"  # input, param, layer, assign, result

    def line(self) -> str:
        body = self.text.format(*self.operands)
        if self.kind != "assign":
            return body
        return f"{', '.join(t.name for t in self.targets)} = {body}"


@dataclass(frozen=True)
class Recipe:
    """A whole net."""

    statements: tuple[Statement, ...]
    name: str = "random"

    def source(self) -> str:
        lines = [f"    {s.line()}" for s in self.statements]
        return "\n".join([f"net {self.name}() {{", *lines, "}"]) + "\n"

    @property
    def has_loss(self) -> bool:
        return any(s.kind == "result" and s.text.startswith("loss") for s in self.statements)

    def smaller(self) -> Iterator[Recipe]:
        """Recipes with less in them, the smallest first: without a statement and what needs it, or past it."""
        for k in range(len(self.statements)):
            yield self._without([k])
        for k, statement in enumerate(self.statements):
            yield from self._past(k, statement)

    def _without(self, numbers: Sequence[int]) -> Recipe:
        gone: dict[str, None] = {}
        kept = []
        for k, statement in enumerate(self.statements):
            if k in numbers or any(name in gone for name in statement.operands):
                gone.update((t.name, None) for t in statement.targets)
                continue
            kept.append(statement)
        return replace(self, statements=tuple(kept)).without_unused()

    def _past(self, number: int, statement: Statement) -> Iterator[Recipe]:
        """Let readers of a statement read an operand of the same shape instead."""
        shapes = {t.name: t.shape for s in self.statements for t in s.targets}
        for target in statement.targets:
            for operand in statement.operands:
                if shapes.get(operand) == target.shape:
                    renamed = tuple(_rename(s, target.name, operand) for s in self.statements)
                    yield replace(self, statements=renamed)._without([number])

    def without_unused(self) -> Recipe:
        """Without inputs, parameters and layers that nothing reads."""
        used = {name for s in self.statements for name in s.operands}
        kept = [
            s
            for s in self.statements
            if s.kind not in ("input", "param", "layer") or any(t.name in used for t in s.targets)
        ]
        return replace(self, statements=tuple(kept))


def _rename(statement: Statement, old: str, new: str) -> Statement:
    return replace(statement, operands=tuple(new if name == old else name for name in statement.operands))


def names(blobs: Iterable[Blob]) -> tuple[str, ...]:
    return tuple(blob.name for blob in blobs)
