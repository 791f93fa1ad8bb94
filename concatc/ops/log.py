"""``log``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr, log
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise, positive


class Log(Pointwise):
    """``y = ln x``, elementwise; -inf at 0, NaN below 0 and at NaN.

    Shapes: any -> the same.  Gradient: ``dx = dy / x``.
    """

    example = "h = log(exp(x) + 1)"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(np.log(xs[0]))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.div(dys[0], xs[0])]

    def scalar(self, *x: Expr) -> Expr:
        return log(x[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),), positive((3, 5)))
