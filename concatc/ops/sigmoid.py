"""``sigmoid`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr, exp
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise


class Sigmoid(Pointwise):
    """``y = 1 / (1 + exp(-x))``: the logistic function; NaN stays NaN, and no finite ``x`` gives anything but 0 to 1.

    Shapes: any -> the same.  Gradient: ``dx = dy * y * (1 - y)``.
    """

    example = "h = x * sigmoid(y)"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        return [np.asarray(1 / (1 + np.exp(-x)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.sigmoid_grad(ys[0], dys[0])]

    def scalar(self, *x: Expr) -> Expr:
        return 1.0 / (1.0 + exp(-x[0]))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),))
        yield Sample(
            cls(),
            (
                f32(
                    0,
                ),
            ),
        )


class SigmoidGrad(Pointwise):
    """``dx = dy * y * (1 - y)``."""

    internal = True
    operands = ("y", "dy")

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.asarray(dy * y * (1 - y))]

    def scalar(self, *x: Expr) -> Expr:
        y, dy = x
        return dy * y * (1.0 - y)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 3), f32(4, 3)))
