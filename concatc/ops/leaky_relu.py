"""``leaky_relu`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, select
from concatc.op import Builder, Sample, ShapeError, f32
from concatc.ops._pointwise import Pointwise, normal_away_from


class LeakyRelu(Pointwise):
    """``y = x where x > 0 else negative_slope * x`` (Maas et al. 2013); NaN stays NaN.

    Shapes: any -> the same.  ``negative_slope`` is at least 0, so that the gradient can be read off the result.
    Gradient: ``dx = dy where y > 0 else negative_slope * dy``; at 0 it is the slope of the negative side.
    """

    example = "h = leaky_relu(x, negative_slope=0.2)"
    size = "negative_slope"
    negative_slope: float = 0.01

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        if self.negative_slope < 0:
            raise ShapeError(f"leaky_relu: `negative_slope` must be at least 0, not {self.negative_slope}")
        return super().infer(xs)

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        return [np.where(x > 0, x, x * x.dtype.type(self.negative_slope))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.leaky_relu_grad(ys[0], dys[0], negative_slope=self.negative_slope)]

    def scalar(self, *x: Expr) -> Expr:
        return select(x[0] > 0.0, x[0], x[0] * self.negative_slope)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),), normal_away_from(0.0, (3, 5)))
        yield Sample(cls(negative_slope=0.2), (f32(2, 3, 2),), normal_away_from(0.0, (2, 3, 2)))
        yield Sample(cls(negative_slope=0.0), (f32(0, 3),))


class LeakyReluGrad(Pointwise):
    """``dx = dy where y > 0 else negative_slope * dy``."""

    internal = True
    operands = ("y", "dy")
    negative_slope: float = 0.01

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.where(y > 0, dy, dy * dy.dtype.type(self.negative_slope))]

    def scalar(self, *x: Expr) -> Expr:
        y, dy = x
        return select(y > 0.0, dy, dy * self.negative_slope)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(negative_slope=0.2), (f32(4, 3), f32(4, 3)))
