"""Lets a sum over images add up in scratch memory, image by image, in parts that do not depend on the threads.

    dw[o] += sum of f[n, o, i]       over n, i
    ->
    for part in 0 .. 4:                                    parts may run at the same time
      s[part, o] = 0
      for n in part * N / 4 .. (part + 1) * N / 4:
        s[part, o] += sum of f[n, o, i]                    over i
    dw[o] = s[0, o] + s[1, o] + s[2, o] + s[3, o]

The order in which is added follows from the sizes alone, so results have the same bits for any number of threads.  How
many parts there are is part of the code and follows from how large the sums are: scratch memory holds one for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from concatc.ir.types import ELEMENT_BYTES, FLOATS, TensorType
from concatc.loops.expr import Axis, Const, Expr, Load, Ref, rebuild
from concatc.loops.pieces import Piece, pointwise
from concatc.loops.program import Buffer, Program, Statement

# How many parts sums of so many bytes have, at the most.
SMALL, LARGE = (1 << 18, 4), (1 << 22, 2)
IMAGES = 36  # parts of large sums take no more memory than so many images


def parts_for(size_bytes: int, factors: Sequence[Load]) -> int:
    """How many parts the sums of a weight may have; 1 where they take much memory beside images that are read."""
    most, parts = SMALL
    if size_bytes <= most:
        return parts
    most, parts = LARGE
    image_bytes = sum(math.prod(x.ref.shape[1:]) * ELEMENT_BYTES[x.dtype] for x in factors)
    return parts if size_bytes <= most and parts * size_bytes <= IMAGES * image_bytes else 1


def sum_in_turn(
    program: Program, fold: Statement, image: Axis, parts: int, order: Sequence[Sequence[int]] | None = None
) -> None:
    """Let a sum over ``image`` add up in scratch memory, one iteration of that axis after the other, in ``parts``.

    The scratch memory holds the axes of the sum in another ``order`` where one is given, those of a group as one axis;
    its last axis is the innermost loop.  A statement behind the outer loop reads it.
    """
    program.parts = parts
    target, piece = fold.target, fold.piece
    order = order if order is not None else [(d,) for d in range(target.type.rank)]
    shape = tuple(math.prod(target.type.shape[d] for d in group) for group in order)
    sums = Sums(program, f"{target.name}_sums", shape, target.type.dtype)
    outer = Axis(image.name, image.extent)
    flat = [piece.at[d] for group in order for d in group]
    parallel = [axis for axis in piece.parallel if not flat or axis is not flat[-1]]
    last = [axis for axis in piece.parallel if axis not in parallel]
    reduce = [axis for axis in piece.reduce if axis is not image]

    def place(at: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(_as_one([at[d] for d in group], [target.type.shape[d] for d in group]) for group in order)

    at = place(piece.at)
    fold.piece = replace(
        piece,
        axes=(outer, *parallel, *last, *reduce),
        value=rebuild(piece.value, lambda e: outer if e is image else None),
    )
    fold.outer = outer
    sums.add_up(fold, at)

    y = Ref("result", 0, target.type)
    read = pointwise(y, lambda *i: sums.total(place(i)))
    store = Statement(read, target, {("operand", 0): sums.buffer, ("result", 0): target}, apart=True)
    target.writers, target.inlined = [store], True
    program.statements.insert(program.statements.index(fold) + 1, store)


class Sums:
    """Sums over images in scratch memory, for each part of the outer loop."""

    def __init__(self, program: Program, name: str, shape: Sequence[int], dtype: str) -> None:
        self.program = program
        self.part = Axis("part", program.parts) if program.parts > 1 else None
        self.buffer = Buffer(TensorType((*self._leading(program.parts), *shape), dtype), name)
        self.shape = tuple(shape)

    def _leading(self, index: int) -> tuple[int, ...]:
        return () if self.part is None else (index,)

    def add_up(self, fold: Statement, at: tuple[Expr, ...]) -> None:
        """Let a fold inside of the outer loop add to the sums, which are 0 before it."""
        made, piece = self.buffer, fold.piece
        mine = () if self.part is None else (self.part,)
        target = replace(piece.target, type=made.type)
        fold.piece = replace(piece, target=target, at=(*mine, *at))
        fold.refs = {**fold.refs, (piece.target.kind, piece.target.index): made}
        fold.target, fold.apart, fold.repeated, fold.part = made, True, True, self.part
        axes = tuple(Axis(f"z{d}", extent) for d, extent in enumerate(self.shape))
        zero = Const(0.0 if made.type.dtype in FLOATS else 0, made.type.dtype)
        first = Statement(Piece(Ref("result", 0, made.type), axes, (*mine, *axes), zero), made, {("result", 0): made})
        first.outer, first.apart, first.clears, first.part = fold.outer, True, True, self.part
        made.writers = [first, fold]
        self.program.statements.insert(self.program.statements.index(fold), first)

    def total(self, at: Sequence[Expr]) -> Expr:
        """An element of the sums of all parts, as operand 0."""
        x = Ref("operand", 0, self.buffer.type)
        if self.part is None:
            return x[tuple(at)]
        value: Expr = x[(Const(0, "index"), *at)]
        for part in range(1, self.program.parts):
            value = value + x[(Const(part, "index"), *at)]
        return value


def _as_one(at: Sequence[Expr], extents: Sequence[int]) -> Expr:
    """The row-major number of indices that lie behind each other."""
    number = at[0]
    for index, extent in zip(at[1:], extents[1:], strict=True):
        number = number * extent + index
    return number
