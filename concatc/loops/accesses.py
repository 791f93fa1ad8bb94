"""Which elements of memory a statement reads, as far as loops need to know.

    y[i, j] = max(x[i, j], 0) * s[j + 1]   ->   x at (i, j);  s at (something computed from j)

Reads through inlined values count as reads of what those are computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from concatc.loops.expr import Axis, Const, Expr, Load, children
from concatc.loops.program import Buffer, Statement


@dataclass(frozen=True)
class Computed:
    """An index that is more than an axis; ``axes`` are those it depends on, ``gathered`` whether through memory."""

    axes: tuple[Axis, ...]
    gathered: bool = False


Place = Axis | Const | Computed
Access = tuple[Buffer, tuple[Place, ...]]


class Accesses:
    """The elements of memory that statements read, looking through inlined values."""

    def __init__(self) -> None:
        self._direct: dict[Statement, list[Access]] = {}
        self._through: dict[Statement, list[Access]] = {}

    def direct(self, statement: Statement) -> list[Access]:
        """The loads in the piece itself."""
        if statement not in self._direct:
            piece = statement.piece
            exprs = [piece.value, *piece.at, *(e for e in (piece.where, piece.index) if e is not None)]
            self._direct[statement] = [
                (statement.buffer(load.ref), tuple(place_of(i) for i in load.at)) for load in _all_loads(exprs)
            ]
        return self._direct[statement]

    def of(self, statement: Statement) -> list[Access]:
        """All loads from buffers that are not inlined."""
        if statement not in self._through:
            found: list[Access] = []
            for buffer, at in self.direct(statement):
                if not buffer.inlined:
                    found.append((buffer, at))
                    continue
                (writer,) = buffer.writers
                place = dict(zip(writer.piece.axes, at, strict=True))
                found += [(b, tuple(_substitute(p, place) for p in places)) for b, places in self.of(writer)]
            self._through[statement] = list(dict.fromkeys(found))
        return self._through[statement]


def _all_loads(exprs: Sequence[Expr]) -> Iterator[Load]:
    # Shared subexpressions are visited once: expressions are graphs, and walking them as trees may take for ever.
    seen: set[int] = set()
    stack = list(reversed(exprs))
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Load):
            yield node
        stack.extend(reversed(children(node)))


def place_of(index: Expr) -> Place:
    """An index as a place."""
    if isinstance(index, Axis | Const):
        return index
    axes: dict[Axis, None] = {}
    gathered = False
    stack: list[Expr] = [index]
    while stack:
        node = stack.pop()
        if isinstance(node, Axis):
            axes[node] = None
        gathered |= isinstance(node, Load)
        stack.extend(reversed(children(node)))
    return Computed(tuple(axes), gathered)


def _substitute(place: Place, by: dict[Axis, Place]) -> Place:
    if isinstance(place, Axis):
        return by[place]
    if isinstance(place, Const):
        return place
    axes: dict[Axis, None] = {}
    gathered = place.gathered
    for axis in place.axes:
        inner = by[axis]
        if isinstance(inner, Axis):
            axes[inner] = None
        elif isinstance(inner, Computed):
            axes.update(dict.fromkeys(inner.axes))
            gathered |= inner.gathered
    return Computed(tuple(axes), gathered)
