"""What is packed of an image that a contraction reads through windows: with its halo, and in the order it is read.

    pad 1          x[c, i + a - 1]  where inside          p[c, u] = x[c, u - 1] where inside, else 0      at i + a
    stride 2       x[c, 2 i + a - 1]                      p[c, s, u] = x[c, 2 u + s - 1]         at a % 2, i + a // 2
    its gradient   dy[o, (i + 1 - a) / 2]  where whole    p[o, u] = dy[o, u / 2] where whole, else 0      at i - a + ..

The halo is part of what is packed, so the contraction loads without guards, and neighbours in the result read
neighbours: of windows that move by ``s`` elements each ``s``-th element lies side by side, and a gradient that
leaves ``s - 1`` of ``s`` elements out reads zeros there.  Where the place of a load is no such sum of loop indices the
image is packed as it lies, and the guard stays with the contraction's load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.loops.affine import Affine, affine_of
from concatc.loops.expr import Arith, Axis, Const, Expr, Load, Ref, all_of, axes_of, rebuild


@dataclass(frozen=True)
class _Place:
    """An index of the load: what it is computed from (``core``, itself but for strided gradients), from ``low`` on.

    ``column`` is the axis of the result along which it moves by ``stride`` elements, if that is more than one.
    """

    core: Expr
    affine: Affine
    column: Axis | None
    stride: int

    @property
    def low(self) -> int:
        return self.affine.least

    @property
    def extent(self) -> int:
        """How many neighbours it reads, in each phase."""
        return -(-(self.affine.greatest - self.low + 1) // self.stride)

    @property
    def phases(self) -> int:
        """How many phases of the stride its taps read."""
        taps = (
            self.affine.greatest - self.low - (self.column.extent - 1 if self.column is not None else 0) * self.stride
        )
        return min(self.stride, taps + 1)


class Halo:
    """The part of space that a load reads: the shape of what is packed, its values, and how the load reads it.

    ``shape`` is that of the source, but for the axes that ``static`` numbers; phases of strides stand before all of
    those.  ``parallel`` are the axes of the contraction's result.
    """

    def __init__(self, load: Load, parallel: Sequence[Axis]) -> None:
        self.load = load
        self.places = self._places(parallel)
        self.phases = [m for m, place in self.places.items() if place.stride > 1]
        source = load.ref.shape
        lead = [n for m, n in enumerate(source) if m not in self.places]
        # Indices that move are the last ones, or nothing moves.
        moving = [place.extent for place in self.places.values()]
        self.shape = (*lead, *(self.places[m].phases for m in self.phases), *moving)
        self.static = range(len(lead), len(self.shape))

    @property
    def strided(self) -> bool:
        """Whether windows move by more than one element, forward or in a gradient: as it lies it is read with gaps."""
        return bool(self.phases) or any(place.core != self.load.at[m] for m, place in self.places.items())

    def value(self, x: Ref, axes: Sequence[Axis]) -> Expr:
        """What is packed at ``axes``, one for each of ``shape``."""
        if not self.places:
            return x[tuple(axes)]
        count = len(axes) - len(self.places)
        phase = dict(zip(self.phases, axes[count - len(self.phases) : count], strict=True))
        by: dict[Expr, Expr] = {}
        for (m, place), axis in zip(self.places.items(), axes[count:], strict=True):
            by[place.core] = (axis * place.stride + phase[m] if m in phase else axis) + place.low
        lead = axes[: len(self.load.at) - len(self.places)]
        at = (*lead, *(rebuild(self.load.at[m], by.get) for m in self.places))
        guard = rebuild(self.load.where, by.get) if self.load.where is not None else None
        beyond = [at[m] < self.load.ref.shape[m] for m in self.phases]
        other = self.load.other if self.load.other is not None else Const(0.0, x.dtype)
        return x.load(at, all_of(guard, *beyond), other)

    def read(self, packed: Ref, order: Sequence[int]) -> Load:
        """The load of what was packed, whose axis ``m`` is axis ``order[m]`` here."""
        if not self.places:
            return replace(self.load, ref=packed, at=tuple(self.load.at[m] for m in order))
        at: list[Expr] = [index for m, index in enumerate(self.load.at) if m not in self.places]
        rests = {m: self.places[m].affine.without(self.places[m].column, -self.places[m].low) for m in self.phases}
        at += [r % self.places[m].stride if self.places[m].phases > 1 else Const(0, "index") for m, r in rests.items()]
        for m, place in self.places.items():
            if m in rests:
                assert place.column is not None
                at.append(place.column + rests[m] // place.stride if place.phases > 1 else place.column)
            else:
                at.append(place.affine.shifted(-place.low))
        return packed[tuple(at[m] for m in order)]

    def _places(self, parallel: Sequence[Axis]) -> dict[int, _Place]:
        """The indices that move; none where the image is packed as it lies."""
        load = self.load
        moved = [m for m, index in enumerate(load.at) if not isinstance(index, Axis | Const)]
        found = {m: _place(load.at[m], parallel) for m in moved}
        places = {m: place for m, place in found.items() if place is not None}
        if len(places) < len(found) or moved != list(range(len(load.at) - len(moved), len(load.at))):
            return {}
        if load.where is None:
            return places if any(place.stride > 1 for place in places.values()) else {}
        # The guard must be one of the indices that move, so that it can be said of what is packed.
        marks: dict[Expr, Expr] = {place.core: Const(m, "index") for m, place in places.items()}
        return {} if axes_of(rebuild(load.where, marks.get)) else places


def _place(index: Expr, parallel: Sequence[Axis]) -> _Place | None:
    core = _core(index)
    affine = affine_of(core) if core is not None else None
    if core is None or affine is None or not affine.is_simple:
        return None
    columns = [axis for axis in parallel if affine.step(axis) and axis.extent > 1]
    stride = affine.step(columns[0]) if len(columns) == 1 else 1
    # What moves with the window is counted in windows; the taps must not lead back from there.
    if stride > 1 and core == index and all(f >= 0 for _, f in affine.factors):
        return _Place(core, affine, columns[0], stride)
    return _Place(core, affine, None, 1)


def _core(index: Expr) -> Expr | None:
    """The sum of loop indices that an index is computed from: itself, or what is divided in it."""
    affine = affine_of(index)
    if affine is not None and affine.is_simple:
        return index
    if not isinstance(index, Arith) or index.op not in ("add", "sub", "floordiv"):
        return None
    return _core(index.args[0]) if isinstance(index.args[1], Const) else None
