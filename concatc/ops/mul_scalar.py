"""``mul_scalar``: a blob times a number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise


class MulScalar(Pointwise):
    """``y = x * value``: what ``x * 2`` and ``x / 2`` in the language mean.

    Shapes: any -> the same.  Gradient: ``dx = dy * value``.
    """

    internal = True
    value: float

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(xs[0] * xs[0].dtype.type(self.value))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.mul_scalar(dys[0], value=self.value)]

    def scalar(self, *x: Expr) -> Expr:
        return x[0] * self.value

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(value=0.3), (f32(3, 5),))
