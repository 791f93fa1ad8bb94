"""Splits the gradient of a strided convolution, and a transposed convolution, into phases of the stride.

    dx[c, i] += dy[o, (i + 1 - a) / 2] * w[o, c, a]           where that divides, 3 taps a
    ->
    t[c, r, 2 i' + s ..]   i = 2 i' + r:
    t[c, i', r] += dy[o, i' - a' + (r + 1) / 2] * w[o, c, 2 a' + (r + 1) % 2]        2 taps a', where w has that tap
    dx[c, i] = t[c, i / 2, i % 2]

Each element of the result meets only one of ``stride`` taps along each axis, and which these are depends on the phase
alone.  So loops run over the taps of a phase, neighbours of a phase read neighbours, and what a phase does not meet is
left out when code is made: both phases and taps are written out there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.loops.affine import affine_of
from concatc.loops.expr import Arith, Axis, Const, Expr, Load, Ref, all_of, axes_of, rebuild
from concatc.loops.flat_rows import flat_rows_of, run_over_rows, sums_read_behind
from concatc.loops.packing import Packed
from concatc.loops.program import Program, Statement

MOST = 4  # phases of both axes


@dataclass(frozen=True)
class _Spread:
    """Along one axis: result ``axis`` meets windows ``(axis + ahead - tap) / stride - back``, if that divides."""

    axis: Axis
    tap: Axis
    stride: int
    ahead: int
    back: int


@dataclass(frozen=True)
class Phases:
    """How a fold spreads windows along rows and columns."""

    load: Load
    rows: _Spread
    columns: _Spread


def phases_of(fold: Statement, load: Load) -> Phases | None:
    """How ``fold`` spreads windows that it reads with ``load``; None where it has no strides, or not both axes."""
    piece = fold.piece
    if len(piece.at) < 3 or len(load.at) < 3:
        return None
    found = [_spread(index, axis, piece.reduce) for index, axis in zip(load.at[-2:], piece.at[-2:], strict=True)]
    rows, columns = found
    if rows is None or columns is None or not 1 < rows.stride * columns.stride <= MOST or columns.stride == 1:
        return None
    moving = {rows.axis, rows.tap, columns.axis, columns.tap}
    if any(moving & set(axes_of(i)) for i in (*load.at[:-2], *piece.at[:-2])):
        return None
    return Phases(load, rows, columns)


def _spread(index: Expr, axis: Expr, reduce: tuple[Axis, ...]) -> _Spread | None:
    back = 0
    if isinstance(index, Arith) and index.op == "sub" and isinstance(index.args[1], Const):
        back, index = int(index.args[1].value), index.args[0]
    if not (isinstance(index, Arith) and index.op == "floordiv" and isinstance(index.args[1], Const)):
        return None
    place = affine_of(index.args[0])
    taps = [term for term, _ in place.factors if term is not axis] if place is not None else []
    if place is None or len(taps) != 1 or not isinstance(axis, Axis) or place.step(axis) != 1:
        return None
    (tap,) = taps
    if not isinstance(tap, Axis) or tap not in reduce or place.step(tap) != -1:
        return None
    return _Spread(axis, tap, int(index.args[1].value), place.constant, back)


def split_phases(program: Program, fold: Statement, phases: Phases, outer: int) -> None:
    """Let the fold run over phases, on windows that are packed inside of its loop over index ``outer`` of the load.

    It sums into scratch memory ``[.., phase of rows, rows, columns and their phase]``.
    """
    over_rows, over_columns = _Split(phases.rows, "r"), _Split(phases.columns, "s")
    by: dict[Expr, Expr] = {}
    guards: dict[Axis, Expr] = {}
    for split in (over_rows, over_columns):
        by[split.spread.tap] = split.met
        if split.spread.tap.extent % split.spread.stride:
            guards[split.spread.tap] = split.met < split.spread.tap.extent
    load = _within(phases.load, (over_rows.read, over_columns.read))

    def rewritten(e: Expr) -> Expr | None:
        if e == phases.load:
            return load
        if not isinstance(e, Load):
            return by.get(e)
        where = [rebuild(e.where, by.get)] if e.where is not None else []
        where += [guards[tap] for i in e.at for tap in axes_of(i) if tap in guards]
        other = e.other if e.other is not None else Const(0.0, e.dtype)
        return e.ref.load(tuple(rebuild(i, by.get) for i in e.at), all_of(*where), other)

    piece, target = fold.piece, fold.target
    gone = (phases.rows.axis, phases.columns.axis, phases.rows.tap, phases.columns.tap)
    kept = [axis for axis in piece.axes if axis not in gone]
    r, s = over_rows.phase, over_columns.phase
    row, column = over_rows.window, over_columns.window
    axes = [*(x for x in kept if x.kind == "parallel"), r, s, row, column]
    axes += [*(x for x in kept if x.kind == "reduce"), over_rows.tap, over_columns.tap]
    fold.piece = replace(piece, axes=tuple(axes), value=rebuild(piece.value, rewritten))
    fold.static = [r, s, row, column]
    packed = Packed(fold, load)
    flat = flat_rows_of(fold, load, packed.read, (row, column))
    packed.insert(program, outer)

    *lead, _, _ = piece.at
    place: Expr = row * column.extent + column
    pitch, extent = column.extent, row.extent * column.extent
    if flat is not None:
        place, pitch, extent = run_over_rows(fold, flat), flat.pitch, flat.extent
    shape = (*target.type.shape[:-2], r.extent, extent * s.extent)

    def in_order(x: Ref, *i: Expr) -> Expr:
        return x[(*i[:-2], i[-2] % r.extent, i[-2] // r.extent * (pitch * s.extent) + i[-1])]

    sums_read_behind(program, fold, (shape, (*lead, r, place * s.extent + s)), in_order)


class _Split:
    """Loops over windows, over a phase, and over the taps that this meets."""

    def __init__(self, spread: _Spread, name: str) -> None:
        stride = spread.stride
        self.spread = spread
        self.window = Axis(spread.axis.name, -(-spread.axis.extent // stride))
        self.phase = Axis(name, stride)
        self.tap = Axis(spread.tap.name, -(-spread.tap.extent // stride), "reduce")
        whole, ahead = divmod(spread.ahead, stride)
        self.met = self.tap * stride + (self.phase + ahead) % stride
        self.read = self.window - self.tap + (self.phase + ahead) // stride + (whole - spread.back)


def _within(load: Load, places: Sequence[Expr]) -> Load:
    """The load at other rows and columns, guarded where these may lie outside."""
    where: list[Expr] = []
    for place, size in zip(places, load.ref.shape[-2:], strict=True):
        affine = affine_of(place)
        assert affine is not None
        where += [place >= 0] if affine.least < 0 else []
        where += [place < size] if affine.greatest >= size else []
    other = load.other if load.other is not None else Const(0.0, load.dtype)
    return load.ref.load((*load.at[:-2], *places), all_of(*where), other)
