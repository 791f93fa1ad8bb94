"""``sqrt``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr, sqrt
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise, positive


class Sqrt(Pointwise):
    """``y = sqrt(x)``, elementwise; NaN below 0 and at NaN.

    Shapes: any -> the same.  Gradient: ``dx = dy / (2 y)``, infinite at 0 (NaN where ``dy`` is 0 too).
    """

    example = "h = sqrt(square(x) + square(y))"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(np.sqrt(xs[0]))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.div(b.mul_scalar(dys[0], value=0.5), ys[0])]

    def scalar(self, *x: Expr) -> Expr:
        return sqrt(x[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),), positive((3, 5)))
