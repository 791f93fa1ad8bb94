"""Cuts a sum over the rows of an image in blocks of rows: what is packed of a block stays in the nearest caches.

    for n:                                                    for n:
      q[i, j, o] = dy[n, o, i, j]                               for blocks of rows r:
      s[c, a, b, o] += q[i, j, o] * p[c, i + a, j + b]    ->      q[i, j, o] = dy[n, o, 4 r + i, j]       i < 4
                       over i, j                                  s[c, a, b, o] += q[i, j, o] * p[c, 4 r + i + a, j + b]

A weight gradient reads all of an image anew for each few taps and channels that are summed in registers: from the
second cache, if the image fits there.  Blocks are of equal size, so there is no rest.
"""

from __future__ import annotations

from dataclasses import replace

from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.expr import Axis, Expr, Load, Ref, rebuild
from concatc.loops.pieces import Piece
from concatc.loops.program import Buffer, Program, Statement

# An image of more bytes than the first number is cut in blocks of at most so many as the second says.
WORTH_BYTES, BLOCK_BYTES = 1 << 20, 1 << 17
SHORTEST = 64  # the least number of products that are summed at a time


def block_of_rows(rows: Axis, columns: Axis, lanes: Axis, dtype: str) -> int | None:
    """How many rows make a block; None where an image need not be cut, or cannot."""
    row_bytes = columns.extent * lanes.extent * ELEMENT_BYTES[dtype]
    if rows.extent * row_bytes <= WORTH_BYTES:
        return None
    sizes = [n for n in range(1, rows.extent) if rows.extent % n == 0 and n * row_bytes <= BLOCK_BYTES]
    block = max(sizes, default=0)
    return block if block * columns.extent >= SHORTEST else None


def cut_rows(fold: Statement, rows: Axis, count: int) -> Axis:
    """Let the fold, which runs inside of a loop over images, sum ``count`` rows at a time; the axis over blocks."""
    block, row = Axis(f"{rows.name}b", rows.extent // count), Axis(rows.name, count, "reduce")
    piece = fold.piece
    image, *axes = (row if axis is rows else axis for axis in piece.axes)
    value = rebuild(piece.value, lambda e: block * count + row if e is rows else None)
    fold.piece = replace(piece, axes=(image, block, *axes), value=value)
    fold.inner = block
    fold.static += [row]
    return block


def pack_rows(program: Program, fold: Statement, load: Load, block: Axis) -> None:
    """Pack what ``load`` reads of a block of rows in front of the fold, channels innermost.

    ``load`` is of an image as it lies: ``x[n, c, block * count + row, j]``.
    """
    source, (image, channel, _, column) = fold.buffer(load.ref), load.at
    (row,) = (a for a in fold.piece.reduce if a is not column)
    n, b, i, j, c = (
        _like(axis, name) for axis, name in zip((image, block, row, column, channel), "nbijc", strict=True)
    )
    target = Buffer(load.ref.type.with_shape(tuple(a.extent for a in (n, b, i, j, c))), f"{source.name}packed")
    x, p = Ref("operand", 0, load.ref.type), Ref("result", 0, target.type)
    piece = Piece(p, (n, b, i, j, c), (n, b, i, j, c), x[n, c, b * i.extent + i, j])
    refs = {("operand", 0): source, ("result", 0): target}
    statement = Statement(piece, target, refs, static=[i, j], outer=n, inner=b, apart=True)
    target.writers.append(statement)
    program.statements.insert(program.statements.index(fold), statement)
    ref = Ref("operand", 1 + max(number for kind, number in fold.refs if kind == "operand"), target.type)
    fold.refs = {**fold.refs, (ref.kind, ref.index): target}
    read = ref[image, block, row, column, channel]
    value = rebuild(fold.piece.value, lambda e: read if e == load else None)
    fold.piece = replace(fold.piece, value=value)


def _like(axis: Expr, name: str) -> Axis:
    assert isinstance(axis, Axis)
    return Axis(name, axis.extent)
