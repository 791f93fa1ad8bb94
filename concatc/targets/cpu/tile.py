"""Chooses how a nest is vectorised and unrolled: the vector axis, and how many rows live in registers.

    y[i, o] += x[i, k] * w[o, k]      vector k (a sum along lanes), 4 rows of i times 4 of o
    y[i, o] += x[i, k] * w[k, o]      vector o, 2 vectors of o times 8 rows of i

Of all choices it takes the one with the least estimated time a multiplication: loads are shared by the rows that do
not index them, and what a tile computes beyond the end of an axis is lost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from concatc.ir.core import Operation
from concatc.ir.types import ELEMENT_BYTES
from concatc.targets.cpu.guards import TAPS, conjuncts, jumps
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.near import MOST_VECTORS
from concatc.targets.cpu.nest import Nest, NestAxis, condition_of, constant_of
from concatc.targets.cpu.phased_taps import PhasedTaps

ROWS = (2, 3, 4, 6, 8, 12)
VECTORS = (1, 2, 3, 4, 5, 6)

# Estimated cost of a load, in fused multiply-adds.
CONTIGUOUS, MASKED, BROADCAST = 1.0, 1.3, 0.6
GATHER_LANE = 0.8  # per lane
SHUFFLE = 1.0  # of a vector of which some elements are taken, or of its mask
FAR = 2.0  # times as much: vectors of rows that lie apart, as images of a batch do
AGAIN = 0.7  # what a tap reads beside another one: it lies in the nearest cache
ZIP = 2.0  # a vector stored in turn with others: a shuffle and a store
TRANSPOSE = 1.0  # of each of the log2(lanes) shuffles of a vector
STEP = 2.0  # of an iteration of the innermost loop
LATENCY = 8.0  # multiplications that must be in flight
SHORT = 9  # terms
TIGHT = 1.1  # where sums and vectors that rows share leave no registers free
# What an extent that is known at run time is taken for.
UNKNOWN_EXTENTS = (12, 16, 24, 32, 48, 64, 96, 128)
UNKNOWN_EXTENT = 64
ZIPPED = (2, 4)  # so many vectors can be stored in turn, element by element
KNOWN = 1 << 12  # points of a guard that are tried
WRITTEN_OUT = 128  # at most so many multiplications in the innermost loop


@dataclass(frozen=True)
class Tile:
    """``lanes`` elements of ``vector`` in a register, ``rows[axis]`` iterations of the other axes at a time.

    ``rows[vector]`` is the number of vectors; it is 1 where ``vector`` is a reduce axis.  ``taps`` are reduce axes that
    are written out: their loops cost nothing, and guards that depend on them are computed outside.  Without ``vector``
    there are no lanes: a stage without loops of its own.  With ``across`` a square of vectors is transposed before it
    is stored: its rows become the lanes.  Along ``zipped`` rows lie between the lanes and are stored in turn with them.
    ``rest`` is the tile of the vectors behind the last whole tile, where these are fewer.
    """

    vector: NestAxis | None
    lanes: int
    rows: dict[NestAxis, int]
    taps: tuple[NestAxis, ...] = ()
    across: NestAxis | None = None
    zipped: NestAxis | None = None
    rest: Tile | None = None

    def row(self, axis: NestAxis) -> int:
        """How many iterations (or vectors) of an axis are in flight."""
        return self.rows.get(axis, 1)

    @property
    def spread(self) -> list[NestAxis]:
        """The axes of which several iterations are in registers or lanes."""
        return spread_over(self.vector, self.rows)


def spread_over(vector: NestAxis | None, rows: Mapping[NestAxis, int]) -> list[NestAxis]:
    """The axes of which several iterations are in registers or lanes."""
    return [axis for axis, n in rows.items() if n > 1 or axis is vector]


SCALAR = Tile(None, 1, {})


def choose_tiles(stages: Sequence[Nest], host: Host) -> dict[Nest, Tile] | None:
    """The tile of each stage; None where one has no axis that is worth a vector."""
    tiles = {nest: choose_tile(nest, host) if nest.axes else SCALAR for nest in stages}
    found = {nest: tile for nest, tile in tiles.items() if tile is not None}
    return found if len(found) == len(tiles) else None


def choose_tile(nest: Nest, host: Host) -> Tile | None:
    """The best tile; None where no axis is worth a vector."""
    best: tuple[float, Tile] | None = None
    room = (28 if host.embedded else 24) if host.registers >= 32 else 12
    width = host.vector_bytes // ELEMENT_BYTES[nest.dtype]
    loads, phases = _loads(nest), _Phases(nest)
    for vector in nest.axes:
        if vector.extent is not None and vector.extent < 2:
            continue
        lanes = width
        while vector.extent is not None and lanes // 2 >= vector.extent:
            lanes //= 2
        model = _CostModel(nest, vector, lanes, host, loads, phases)
        for rows in _candidates(nest, vector, lanes, room, model.phases.axes()):
            cost = model.cost(rows)
            if best is None or cost < best[0] * (1 - 1e-9):
                best = (cost, Tile(vector, lanes, rows, zipped=model.zipped_in(rows)))
        across = _across(nest, vector)
        if across is not None:
            rows = {vector: 1, across: lanes}
            model.per_result = TRANSPOSE * math.log2(max(lanes, 2))
            cost = model.cost(rows)
            if best is None or cost < best[0] * (1 - 1e-9):
                best = (cost, Tile(vector, lanes, rows, across=across))
    return _complete(nest, best[1]) if best is not None else None


def _complete(nest: Nest, tile: Tile) -> Tile:
    tile = replace(tile, taps=_taps(nest, tile))
    assert tile.vector is not None
    _, left = _vectors_in(nest, tile.vector, tile.lanes, tile.row(tile.vector))
    # Its outer axes are looped over anew, but each of them runs over the same rows.
    return replace(tile, rest=replace(tile, rows={**tile.rows, tile.vector: left})) if left else tile


def _vectors_in(nest: Nest, vector: NestAxis, lanes: int, count: int) -> tuple[int, int]:
    """How many whole tiles of ``count`` vectors a sum has along an axis, and how many vectors are left if fewer.

    None are left where these are computed as a whole tile: where the extent is not known, or there is no other.
    """
    if vector.extent is None or vector.reduce or nest.term is None or constant_of(vector.lower) != 0:
        return 0, 0
    whole, left = divmod(-(-vector.extent // lanes), count)
    return (whole, left) if whole else (0, 0)


def _across(nest: Nest, vector: NestAxis) -> NestAxis | None:
    """The axis along which a map stores that loads along ``vector``; None where it is the same, or there is none."""
    if nest.term is not None or nest.folds or not nest.stores:
        return None
    if any(nest.lane_step(vector, load.operands[0], load.operands[1:]) not in (0, 1) for load in nest.loads()):
        return None
    stores = [(store.operands[1], store.operands[2:]) for store in nest.stores]
    if any(nest.lane_step(vector, memory, at) == 1 for memory, at in stores):
        return None
    others = [axis for axis in nest.parallel if axis is not vector]
    found = [axis for axis in others if all(nest.lane_step(axis, memory, at) == 1 for memory, at in stores)]
    return found[0] if found else None


def _zipped(nest: Nest, vector: NestAxis) -> NestAxis | None:
    """The axis whose few iterations lie between results that are neighbours along ``vector``: ``y[2 * j + s]``."""
    stores = [(store.operands[1], store.operands[2:]) for store in nest.stores]
    for axis in nest.parallel:
        if axis is vector or axis.extent not in ZIPPED or not stores:
            continue
        steps = [(nest.lane_step(axis, m, at), nest.lane_step(vector, m, at)) for m, at in stores]
        if all(inner == 1 and outer == axis.extent for inner, outer in steps):
            return axis
    return None


def _taps(nest: Nest, tile: Tile) -> tuple[NestAxis, ...]:
    size = math.prod(tile.rows.values())
    guarded = frozenset[NestAxis]().union(*(nest.axes_of(guard) for guard in nest.conditions()))
    taps: list[NestAxis] = []
    loop = False  # whether there is one inside
    for axis in reversed(nest.reduce):
        if axis is tile.vector:
            continue
        if axis.extent is None or not 1 <= axis.extent <= TAPS:
            loop = True
            continue
        if loop and axis not in guarded:
            continue  # around a loop it would be code that gains nothing: no guard becomes known
        if jumps(nest, axis, tile.spread):
            continue  # its iterations are left out where the loop meets an edge
        if size * axis.extent <= WRITTEN_OUT:
            size *= axis.extent
            taps.append(axis)
    return tuple(taps)


def _candidates(
    nest: Nest, vector: NestAxis, lanes: int, room: int, edges: Collection[NestAxis]
) -> Iterator[dict[NestAxis, int]]:
    # Inner axes first: of equal tiles the one whose rows lie close in memory is taken.
    others = [a for a in reversed(nest.parallel) if a is not vector and a.extent != 1]
    if nest.term is None:
        # A map shares few loads between rows: a few vectors hide what latency there is.
        yield from ({vector: n} for n in VECTORS if _fits(vector, n * lanes, lanes))
        return
    for n in VECTORS if not vector.reduce else VECTORS[:1]:
        if not _fits(vector, n * lanes, lanes):
            continue
        yield {vector: n}
        for axis in others:
            # All of an axis, where guards are then known.
            more = [axis.extent] if axis in edges and axis.extent is not None else []
            choices = dict.fromkeys((*_rows(axis), *more))
            yield from ({vector: n, axis: r} for r in choices if n * r <= room and _fits(axis, r, 1))
        # The taps of a weight gradient, all together: they read what is in the nearest cache, each in its place.
        taps = {a: a.extent for a in others if a.extent is not None and a.extent <= TAPS}
        if len(taps) > 1:
            for axis, r in itertools.product([a for a in others if a not in taps], (1, *ROWS)):
                if n * r * math.prod(taps.values()) <= room and _fits(axis, r, 1):
                    yield {vector: n, axis: r, **taps}
        for first, second in itertools.combinations(others, 2):
            for r, q in itertools.product(_rows(first), _rows(second)):
                if n * r * q <= room and _fits(first, r, 1) and _fits(second, q, 1):
                    yield {vector: n, first: r, second: q}


def _rows(axis: NestAxis) -> Sequence[int]:
    """Iterations of an axis that may be in flight together: all of it, if it is short."""
    short = axis.extent is not None and 1 < axis.extent <= ROWS[-1] and axis.extent not in ROWS
    return (*ROWS, axis.extent) if short and axis.extent is not None else ROWS


def _fits(axis: NestAxis, tile: int, unit: int) -> bool:
    # A tile may overhang an axis by less than one unit.
    most = axis.extent if axis.extent is not None else axis.most
    return most is None or tile < most + unit


def _extent(axis: NestAxis) -> int:
    return axis.extent or axis.most or UNKNOWN_EXTENT


def _used(axis: NestAxis, step: int) -> float:
    """Which part of the tiles along an axis is used."""
    known = axis.extent or axis.most or axis.expected
    extents = UNKNOWN_EXTENTS if known is None else (known,)
    return sum(n / (-(-n // step) * step) for n in extents) / len(extents)


class _CostModel:
    """Estimated cost of one useful multiplication of one lane, for one choice of the vector axis."""

    def __init__(
        self, nest: Nest, vector: NestAxis, lanes: int, host: Host, loads: Sequence[_Load], phases: _Phases
    ) -> None:
        self.nest, self.vector, self.lanes = nest, vector, lanes
        # Of many registers a compiler fills some ahead with elements for all lanes, where these need registers.
        self.registers = host.registers - (6 if host.registers >= 32 and not host.embedded else 3)
        self.loads = [(load_cost(nest, vector, lanes, load.op), load.apart) for load in loads]
        terms = math.prod(_extent(a) for a in nest.reduce)
        # Sums of few terms are written out: there is no loop, and nothing waits for them.
        written_out = nest.term is not None and terms <= SHORT
        self.step, self.chain = (0.0, 0.0) if written_out else (STEP, LATENCY)
        if vector.reduce:
            # Sums along lanes, once a result: cheap where many terms are added.
            self.per_result = 4.0 * lanes / terms
        else:
            self.per_result = sum(_store_cost(nest, vector, lanes, store) for store in nest.stores) / terms
        self.zipped = _zipped(nest, vector) if nest.term is not None else None
        self.per_zipped = ZIP * len(nest.stores) / terms
        self.phases = phases
        self.phased = None if vector.reduce else PhasedTaps.of(nest)
        self.all_registers = host.registers

    def zipped_in(self, rows: Mapping[NestAxis, int]) -> NestAxis | None:
        """The axis that is stored in turn with the lanes, if all of it is in flight."""
        whole = self.zipped is not None and rows.get(self.zipped) == self.zipped.extent
        return self.zipped if whole else None

    def cost(self, rows: Mapping[NestAxis, int]) -> float:
        """The cost of one multiplication of a lane that is of use."""
        cost = self._of_tile(rows)
        of_use: float = math.prod(rows.values()) * self.lanes
        whole, left = _vectors_in(self.nest, self.vector, self.lanes, rows[self.vector])
        if left:
            assert self.vector.extent is not None
            cost = whole * cost + self._of_tile({**rows, self.vector: left})
            of_use *= self.vector.extent / (rows[self.vector] * self.lanes)
        else:
            of_use *= _used(self.vector, self.lanes * rows[self.vector])
        for axis, n in rows.items():
            if axis is not self.vector:
                of_use *= _used(axis, n)
        return cost / of_use

    def _of_tile(self, rows: Mapping[NestAxis, int]) -> float:
        accumulators = math.prod(rows.values())
        per_result = self.per_zipped if self.zipped_in(rows) is not None else self.per_result
        cost = self.step + accumulators * (self.phases.met(rows) + per_result)
        held = vectors = 0
        # Tiles that fit are chosen among those of fewer sums: what rows share for all lanes takes registers, too.
        fits = any(axis.expected is not None for axis in rows)
        for each, axes in self.loads:
            count = 1
            for axis, n in rows.items():
                if axis in axes:
                    elements, iterations = axes[axis]
                    count *= -(-n * elements // iterations)
            apart = self.vector in axes and any(n > 1 and a in axes and self._lies_apart(a) for a, n in rows.items())
            cost += each * count * (FAR if apart else 1.0)
            held += count if (self.vector in axes or fits) and count < accumulators else 0
            vectors += count if self.vector in axes else 0
        if accumulators + held > self.registers:
            cost *= TIGHT
        if self.phased is not None:
            cost = self.phased.cost(cost, accumulators, vectors, self.all_registers, WRITTEN_OUT)
        # Fewer chains than the latency of an addition leave the pipes idle.
        return max(cost, self.chain * self.phases.met(rows))

    def _lies_apart(self, axis: NestAxis) -> bool:
        """Whether rows along a parallel axis may be far from each other, and few."""
        return not self.vector.reduce and axis is not self.vector and axis.extent is None and axis.most is None


class _Phases:
    """Which part of the multiplications is made: guards say what a phase of a stride, or an edge, leaves out."""

    def __init__(self, nest: Nest) -> None:
        self.parts: list[tuple[frozenset[NestAxis], float]] = []
        self.nest = nest
        for guard in dict.fromkeys(part for condition in nest.conditions() for part in conjuncts(condition)):
            axes = nest.axes_of(guard)
            extents = [a.extent or 0 for a in axes]
            if axes and 0 < math.prod(extents) <= KNOWN:
                points = itertools.product(*(range(n) for n in extents))
                met = sum(nest.known(guard, dict(zip(axes, point, strict=True))) != 0 for point in points)
                self.parts.append((axes, met / math.prod(extents)))

    def axes(self) -> frozenset[NestAxis]:
        """The axes of the result on which it depends."""
        return frozenset(a for axes, _ in self.parts for a in axes if not a.reduce)

    def met(self, rows: Mapping[NestAxis, int]) -> float:
        """The part that is made where these rows are in flight, and the taps are written out."""
        return math.prod(part for axes, part in self.parts if self._is_left_out(axes, rows))

    def _is_left_out(self, axes: frozenset[NestAxis], rows: Mapping[NestAxis, int]) -> bool:
        if all(a.reduce or rows.get(a) == a.extent for a in axes):
            return True
        return all(a not in rows for a in axes) and any(jumps(self.nest, a, list(rows)) for a in axes if a.reduce)


def load_cost(nest: Nest, vector: NestAxis, lanes: int, load: Operation) -> float:
    """The cost of one load of a tile."""
    if vector not in nest.axes_of(load.result):
        return BROADCAST
    step = nest.lane_step(vector, load.operands[0], load.operands[1:])
    if step == 0:
        return BROADCAST
    if step == 1:
        near = AGAIN if _is_tap(nest, load) else 1.0
        return near * (CONTIGUOUS if condition_of(load) is None else MASKED)
    if step is not None and 0 < step <= MOST_VECTORS:
        masks = 0.0 if condition_of(load) is None else SHUFFLE
        return math.ceil(step) * (CONTIGUOUS + SHUFFLE + masks)
    return GATHER_LANE * lanes


@dataclass(frozen=True)
class _Load:
    """A load, and for each axis that it depends on how many elements so many iterations read, at most one each."""

    op: Operation
    apart: Mapping[NestAxis, tuple[int, int]]


def _loads(nest: Nest) -> list[_Load]:
    """What all choices for a nest share."""
    return [_Load(op, {a: _apart(nest, op, a) for a in nest.axes_of(op.result)}) for op in nest.loads()]


def _apart(nest: Nest, load: Operation, axis: NestAxis) -> tuple[int, int]:
    """Elements and iterations: fewer than one lies between those of neighbouring iterations in ``x[i // 2]``."""
    steps = [nest.step(index, axis) for index in load.operands[1:]]
    return min(Fraction(1), max(Fraction(1) if step is None else abs(step) for step in steps)).as_integer_ratio()


def _is_tap(nest: Nest, load: Operation) -> bool:
    """Whether an index adds one of a few iterations of the result to a place in the sum: ``x[i + a]`` for ``y[a]``."""
    taps = [a for a in nest.parallel if a.extent is not None and 1 < a.extent <= TAPS]
    for index in load.operands[1:]:
        axes = nest.axes_of(index)
        if any(a in axes for a in taps) and any(a in axes for a in nest.reduce):
            return True
    return False


def _store_cost(nest: Nest, vector: NestAxis, lanes: int, store: Operation) -> float:
    step = nest.lane_step(vector, store.operands[1], store.operands[2:])
    return 1.0 if step == 1 else 2.0 * lanes
