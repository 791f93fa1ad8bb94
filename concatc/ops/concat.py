"""``concat``: join blobs along one axis.  Its transpose is ``slice``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece, axes_for
from concatc.op import Builder, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_axis


class Concat(Op):
    """Join blobs along ``axis``, in order.

    Shapes: ``[.., n_k, ..]`` for each input ``k`` -> ``[.., sum n_k, ..]``; all other axes must agree.
    """

    example = "h = concat(x, y, axis=1)"
    operands = ("*xs",)
    axis: int = 1

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        first = xs[0]
        check_axis("concat", self.axis, first)
        if any(x.rank != first.rank or x.dtype != first.dtype for x in xs):
            raise ShapeError("concat inputs must agree in rank and element type")
        total = sum(x.shape[self.axis] for x in xs)
        result = first.with_shape((*first.shape[: self.axis], total, *first.shape[self.axis + 1 :]))
        if any(_without(x.shape, self.axis) != _without(first.shape, self.axis) for x in xs):
            fits = [d for d in range(first.rank) if len({_without(x.shape, d) for x in xs}) == 1]
            raise ShapeError(
                f"concat inputs must agree off axis {self.axis}",
                help=f"axis={fits[0]} would join these shapes" if fits else None,
            )
        return [result]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.concatenate(xs, self.axis)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        sizes = tuple(x.shape[self.axis] for x in xs)
        if len(xs) == 1:
            return [dys[0]]
        slices = b.slice(dys[0], axis=self.axis, sizes=sizes)
        return [dx if need else None for dx, need in zip(slices, needs, strict=True)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        offsets = itertools.accumulate((x.shape[self.axis] for x in xs), initial=0)
        for x, offset in zip(xs, offsets, strict=False):
            axes = axes_for(x.shape)
            at = tuple(a + offset if d == self.axis else a for d, a in enumerate(axes))
            yield Piece(ys[0], axes, at, x[axes])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(axis=1), (f32(2, 3), f32(2, 1), f32(2, 4)))
        yield Sample(cls(axis=0), (f32(1, 2, 2), f32(3, 2, 2)))
        yield Sample(cls(axis=2), (f32(2, 2, 3), f32(2, 2, 1)))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]
