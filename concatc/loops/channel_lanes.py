"""Lets a convolution of small images run with the channels of its result in the lanes of vectors.

    y[n, o, i, j] += x[n, c, i + a - 1, j + b - 1] * w[o, c, a, b]      over c, a, b
    ->
    f[k, cab, l] = w[32 k + l, c, a, b]                                  once a launch
    for n:
      s[k, q, l] += x[n, c, i + a - 1, j + b - 1] * f[k, cab, l]         over a, b, c; q = 8 i + j
      t[32 k + l, q] = s[k, q, l]                                        planar again
      y[n, o, i, j] = t[o, 8 i + j]

Vectors along rows of 7, 8 or 14 elements are partly empty, and what padding adds cannot be left out of them.  In lanes
that hold channels an element of the image is a scalar for all lanes, read where it lies: which taps fall beside the
image is known for each column when code is made, and for each row before the loop over channels, so these are left
out.  Windows may move by any stride.  A few vectors of channels (``l``) are together, for filters are read in order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

from concatc.ir.types import TensorType
from concatc.loops.affine import affine_of
from concatc.loops.expr import Axis, Const, Expr, Load, Ref, loads, rebuild
from concatc.loops.flat_rows import sums_read_behind
from concatc.loops.packing import is_contraction
from concatc.loops.pieces import Piece
from concatc.loops.program import Buffer, Program, Statement

LANES = 16  # elements of a vector, at the most
REGISTERS = 31  # for sums, a vector of filters for each of them, and an element of the image
MOST_COLUMNS, LEAST_COLUMNS = 14, 4  # of a row, all of which is in registers
LEAST_CHANNELS = 8  # that are summed over: fewer pay for no transposing
ENOUGH = 14  # sums in registers: fewer wait for each other, and for what they load
WORTH = 1.1  # lanes of channels must be used better by so much


@dataclass(frozen=True)
class ChannelLanes:
    """The axes of such a convolution and its loads; ``vectors`` of channels are together."""

    at: tuple[Axis, Axis, Axis, Axis]  # image, channel, row, column
    reduce: tuple[Axis, Axis, Axis]  # channels, taps
    x: Load
    w: Load
    vectors: int

    @property
    def lanes(self) -> int:
        """Channels that are together."""
        return self.vectors * LANES

    @property
    def blocks(self) -> int:
        """How often so many channels are taken."""
        return -(-self.at[1].extent // self.lanes)


def channel_lanes_of(fold: Statement) -> ChannelLanes | None:
    """How ``fold`` may run with its channels in lanes; None where it cannot, or where that would not pay."""
    piece = fold.piece
    if not is_contraction(piece) or piece.where is not None or len(piece.at) != 4 or len(piece.reduce) != 3:
        return None
    if set(piece.at) != set(piece.parallel) or len(loads(piece.value)) != 2:
        return None
    n, o, i, j = cast(tuple[Axis, Axis, Axis, Axis], piece.at)
    c, a, b = piece.reduce
    if c.extent < LEAST_CHANNELS or max(a.extent, b.extent) == 1:
        return None
    if not LEAST_COLUMNS <= j.extent <= MOST_COLUMNS:
        return None
    found = loads(piece.value)
    for x, w in (found, found[::-1]):
        if x.at[:2] != (n, c) or len(x.at) != 4 or w.where is not None or len(w.at) != 4:
            continue
        if set(w.at) != {o, c, a, b} or not (_moves(x.at[2], i, a) and _moves(x.at[3], j, b)):
            continue
        lanes = ChannelLanes((n, o, i, j), (c, a, b), x, w, _vectors(o.extent, j.extent))
        return lanes if _used(lanes) > WORTH * _used_along_rows(lanes) else None
    return None


def _moves(index: Expr, row: Axis, tap: Axis) -> bool:
    place = affine_of(index)
    return place is not None and {axis for axis, _ in place.factors} == {row, tap}


def _vectors(channels: int, columns: int) -> int:
    """How many vectors of channels leave the fewest lanes empty; of these the most."""
    most = max(k for k in range(1, REGISTERS) if k * columns + k + 1 <= REGISTERS)
    return min(range(1, most + 1), key=lambda k: (-(-channels // (k * LANES)) * k, -k))


def _used(lanes: ChannelLanes) -> float:
    sums = lanes.vectors * lanes.at[3].extent
    return lanes.at[1].extent / (lanes.blocks * lanes.lanes) * min(1.0, sums / ENOUGH)


def _used_along_rows(lanes: ChannelLanes) -> float:
    """Which part of what vectors along rows multiply is used: of lanes, and of taps."""
    _, _, i, j = lanes.at
    rows = i.extent * -(-j.extent // LANES) * LANES
    place = affine_of(lanes.x.at[3])
    stride = place.step(j) if place is not None else 1
    pitch = j.extent + (lanes.reduce[2].extent - 1) // stride
    flat = -(-((i.extent - 1) * pitch + j.extent) // LANES) * LANES
    inside = math.prod(
        _inside(lanes.x, m, row, tap) for m, row, tap in zip((2, 3), (i, j), lanes.reduce[1:], strict=True)
    )
    return inside * i.extent * j.extent / min(rows, flat)


def _inside(x: Load, m: int, row: Axis, tap: Axis) -> float:
    """The part of the taps of all rows that meets the image."""
    place = affine_of(x.at[m])
    assert place is not None
    met = sum(
        0 <= place.constant + place.step(row) * i + place.step(tap) * a < x.ref.shape[m]
        for i in range(row.extent)
        for a in range(tap.extent)
    )
    return met / (row.extent * tap.extent)


def put_channels_in_lanes(program: Program, fold: Statement, lanes: ChannelLanes) -> None:
    """Let the fold, which runs inside of a loop over images, sum with channels in lanes."""
    n, _, i, j = lanes.at
    c, a, b = lanes.reduce
    k, lane = Axis("k", lanes.blocks), Axis("l", lanes.lanes)
    filters, image = _filters(program, fold, lanes), _image(program, fold, lanes.x)
    pixels = i.extent * j.extent
    # Planar sums, which whatever stands behind reads; before these the sums with channels in lanes.
    shape, at = (n.extent, lanes.blocks * lanes.lanes, pixels), (n, k * lanes.lanes + lane, i * j.extent + j)
    sums_read_behind(program, fold, (shape, at), lambda t, *p: t[(p[0], p[1], p[2] * j.extent + p[3])])
    planar = fold.target
    sums = Buffer(TensorType((n.extent, k.extent, pixels, lane.extent), planar.type.dtype), f"{planar.name}_lanes")
    x, f = Ref("operand", 0, image.type), Ref("operand", 1, filters.type)
    value = replace(lanes.x, ref=x) * f[k, (c * a.extent + a) * b.extent + b, lane]
    axes, place = (n, k, i, j, lane, a, b, c), (n, k, i * j.extent + j, lane)
    fold.piece = Piece(Ref("result", 0, sums.type), axes, place, value, combine="add")
    fold.refs = {("operand", 0): image, ("operand", 1): filters, ("result", 0): sums}
    fold.target, sums.writers = sums, [fold]
    fold.static, fold.inner = [i, j, lane, a, b], k
    _transpose(program, fold, planar)


def _transpose(program: Program, fold: Statement, planar: Buffer) -> None:
    """``t[32 k + l, q] = s[k, q, l]``, behind the fold, which makes ``s``."""
    sums = fold.target
    n, k, q, lane = (Axis(name, extent) for name, extent in zip("nkql", sums.type.shape, strict=True))
    s, t = Ref("operand", 0, sums.type), Ref("result", 0, planar.type)
    piece = Piece(t, (n, k, lane, q), (n, k * lane.extent + lane, q), s[n, k, q, lane])
    refs = {("operand", 0): sums, ("result", 0): planar}
    statement = Statement(piece, planar, refs, static=[lane, q], outer=n, inner=k, apart=True)
    planar.writers = [statement]
    program.statements.insert(program.statements.index(fold) + 1, statement)


def _filters(program: Program, fold: Statement, lanes: ChannelLanes) -> Buffer:
    """``f[k, cab, l]``: the filters of a few vectors of channels, one behind the other."""
    w, o = lanes.w, lanes.at[1]
    k, lane = Axis("k", lanes.blocks), Axis("l", lanes.lanes)
    c, a, b = (Axis(axis.name, axis.extent) for axis in lanes.reduce)
    channel = k * lanes.lanes + lane
    by: dict[Expr, Expr] = {o: channel, **dict(zip(lanes.reduce, (c, a, b), strict=True))}
    at = tuple(rebuild(index, by.get) for index in w.at)
    source, dtype = fold.buffer(w.ref), w.dtype
    made = Buffer(TensorType((k.extent, c.extent * a.extent * b.extent, lane.extent), dtype), f"{source.name}_filters")
    x = Ref("operand", 0, w.ref.type)
    value = x.load(at, channel < o.extent, Const(0.0, dtype)) if o.extent % lanes.lanes else x[at]
    # Loops in the order of the weight: taps, or channels and taps, are one axis where they lie so.
    axes = (k, lane, c, a, b) if w.at[0] is o else (k, c, lane, a, b)
    piece = Piece(Ref("result", 0, made.type), axes, (k, (c * a.extent + a) * b.extent + b, lane), value)
    refs = {("operand", 0): source, ("result", 0): made}
    statement = Statement(piece, made, refs, static=[lane, a, b], apart=True)
    made.writers = [statement]
    program.statements.insert(program.statements.index(fold), statement)
    return made


def _image(program: Program, fold: Statement, x: Load) -> Buffer:
    """What the fold reads of one image: as it lies, or computed once where it is computed."""
    source = fold.buffer(x.ref)
    if not source.inlined:
        return source
    axes = tuple(Axis(f"p{m}", extent) for m, extent in enumerate(x.ref.shape))
    made = Buffer(source.type, f"{source.name}_image")
    piece = Piece(Ref("result", 0, made.type), axes, axes, Ref("operand", 0, x.ref.type)[axes])
    refs = {("operand", 0): source, ("result", 0): made}
    statement = Statement(piece, made, refs, outer=axes[0], apart=True)
    made.writers = [statement]
    program.statements.insert(program.statements.index(fold), statement)
    return made
