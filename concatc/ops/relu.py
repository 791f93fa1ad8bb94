"""``relu`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr, maximum, select
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise, normal_away_from


class Relu(Pointwise):
    """``y = max(x, 0)``, elementwise; NaN stays NaN.

    Shapes: any -> the same.  The gradient at ``x = 0`` is 0.
    """

    example = "h = x |> linear(64) |> relu"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.maximum(xs[0], 0)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.relu_grad(ys[0], dys[0])]

    def scalar(self, *x: Expr) -> Expr:
        return maximum(x[0], 0.0)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),), data=normal_away_from(0.0, (3, 5)))


class ReluGrad(Pointwise):
    """``dx = 0 where y <= 0 else dy``: the gradient of ``relu`` from its result."""

    internal = True
    operands = ("y", "dy")

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.where(y <= 0, np.zeros_like(dy), dy)]

    def scalar(self, *x: Expr) -> Expr:
        y, dy = x
        return select(y <= 0.0, 0.0, dy)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 3), f32(4, 3)))
