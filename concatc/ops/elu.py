"""``elu`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, expm1, select
from concatc.op import Builder, Sample, ShapeError, f32
from concatc.ops._pointwise import Pointwise, normal_away_from


class Elu(Pointwise):
    """``y = x where x > 0 else alpha * (exp(x) - 1)`` (Clevert et al. 2016), accurate near 0 too; NaN stays NaN.

    Shapes: any -> the same.  ``alpha`` is at least 0, so that the gradient can be read off the result.
    Gradient: ``dx = dy where y > 0 else dy * (y + alpha)``; at 0 it is that of the negative side, ``alpha``.
    """

    example = "h = elu(x)"
    size = "alpha"
    alpha: float = 1.0

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        if self.alpha < 0:
            raise ShapeError(f"elu: `alpha` must be at least 0, not {self.alpha}")
        return super().infer(xs)

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        return [np.where(x > 0, x, x.dtype.type(self.alpha) * np.expm1(x))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.elu_grad(ys[0], dys[0], alpha=self.alpha)]

    def scalar(self, *x: Expr) -> Expr:
        return select(x[0] > 0.0, x[0], expm1(x[0]) * self.alpha)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),), normal_away_from(0.0, (3, 5)))
        yield Sample(cls(alpha=0.5), (f32(7),), normal_away_from(0.0, (7,)))


class EluGrad(Pointwise):
    """``dx = dy where y > 0 else dy * (y + alpha)``."""

    internal = True
    operands = ("y", "dy")
    alpha: float = 1.0

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.where(y > 0, dy, dy * (y + y.dtype.type(self.alpha)))]

    def scalar(self, *x: Expr) -> Expr:
        y, dy = x
        return select(y > 0.0, dy, dy * (y + self.alpha))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(alpha=0.5), (f32(4, 3), f32(4, 3)))
