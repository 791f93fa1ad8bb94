"""``rdiv_scalar``: a number divided by a blob."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise, positive


class RdivScalar(Pointwise):
    """``y = value / x``: what ``1 / x`` in the language means; infinite at 0 (NaN where ``value`` is 0 too).

    Shapes: any -> the same.  Gradient: ``dx = -dy * y / x``.
    """

    internal = True
    value: float

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(xs[0].dtype.type(self.value) / xs[0])]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.neg(b.div(b.mul(dys[0], ys[0]), xs[0]))]

    def scalar(self, *x: Expr) -> Expr:
        return self.value / x[0]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(value=0.3), (f32(3, 5),), positive((3, 5)))
