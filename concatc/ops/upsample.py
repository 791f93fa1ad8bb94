"""``upsample`` (nearest) and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref
from concatc.loops.pieces import Piece, axes_for, pointwise
from concatc.op import Builder, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_float

Pair = tuple[int, int]


class Upsample(Op):
    """``y[n, c, i, j] = x[n, c, i // factor, j // factor]``: nearest neighbour, by a whole factor.

    Shapes: ``[n, c, h, w]`` -> ``[n, c, factor h, factor w]``; ``factor`` is a number or a pair ``[height, width]``.
    Gradient: ``dx[n, c, i, j]`` is the sum of ``dy`` over the block that repeats the element.
    """

    example = "h = image |> upsample(2)"
    operands = ("x",)
    size = "factor"
    factor: Pair

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        if x.rank != 4:
            raise ShapeError(f"upsample reads [n, channels, height, width]; {{0}} is {x}, of rank {x.rank}")
        check_float("upsample", x)
        if min(self.factor) < 1:
            raise ShapeError(f"upsample: `factor` must be at least 1, not {min(self.factor)}")
        return [x.with_shape((*x.shape[:2], x.shape[2] * self.factor[0], x.shape[3] * self.factor[1]))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [xs[0].repeat(self.factor[0], axis=2).repeat(self.factor[1], axis=3)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.upsample_grad(dys[0], factor=self.factor)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        height, width = self.factor
        yield pointwise(ys[0], lambda n, c, i, j: xs[0][n, c, i // height, j // width])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(factor=(2, 2)), (f32(2, 2, 3, 2),))
        yield Sample(cls(factor=(1, 3)), (f32(1, 2, 3, 1),))


class UpsampleGrad(Op):
    """``dx[n, c, i, j] = sum of dy[n, c, factor i + a, factor j + b]`` over ``a, b`` in ``0..factor``."""

    internal = True
    operands = ("dy",)
    factor: Pair

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        n, c, h, w = xs[0].shape
        return [xs[0].with_shape((n, c, h // self.factor[0], w // self.factor[1]))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (dy,) = xs
        n, c, h, w = dy.shape
        blocks = dy.reshape(n, c, h // self.factor[0], self.factor[0], w // self.factor[1], self.factor[1])
        return [np.asarray(blocks.sum(axis=(3, 5)))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        height, width = self.factor
        n, c, i, j = axes_for(ys[0].shape)
        a, b = Axis("a", height, "reduce"), Axis("b", width, "reduce")
        value = xs[0][n, c, i * height + a, j * width + b]
        yield Piece(ys[0], (n, c, i, j, a, b), (n, c, i, j), value, combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(factor=(2, 2)), (f32(2, 2, 6, 4),))
        yield Sample(cls(factor=(1, 3)), (f32(1, 2, 3, 3),))
