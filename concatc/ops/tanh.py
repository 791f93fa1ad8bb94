"""``tanh`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr, tanh
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise


class Tanh(Pointwise):
    """``y = tanh(x)``, elementwise; NaN stays NaN.

    Shapes: any -> the same.  Gradient: ``dx = dy * (1 - y^2)``.
    """

    example = "h = tanh(x)"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(np.tanh(xs[0]))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.tanh_grad(ys[0], dys[0])]

    def scalar(self, *x: Expr) -> Expr:
        return tanh(x[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),))


class TanhGrad(Pointwise):
    """``dx = dy * (1 - y^2)``."""

    internal = True
    operands = ("y", "dy")

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.asarray(dy * (1 - y * y))]

    def scalar(self, *x: Expr) -> Expr:
        y, dy = x
        return dy * (1.0 - y * y)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 3), f32(4, 3)))
