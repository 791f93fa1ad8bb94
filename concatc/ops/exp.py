"""``exp``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr, exp
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise


class Exp(Pointwise):
    """``y = e^x``, elementwise; infinite above about 88.7 in f32, NaN stays NaN.

    Shapes: any -> the same.  Gradient: ``dx = dy * y``.
    """

    example = "h = exp(x)"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(np.exp(xs[0]))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.mul(dys[0], ys[0])]

    def scalar(self, *x: Expr) -> Expr:
        return exp(x[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),))
