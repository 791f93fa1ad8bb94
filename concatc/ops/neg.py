"""``neg``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise


class Neg(Pointwise):
    """``y = -x``, elementwise.

    Shapes: any -> the same.  Gradient: ``dx = -dy``.
    """

    example = "h = neg(x)  # or -x"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(-xs[0])]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.neg(dys[0])]

    def scalar(self, *x: Expr) -> Expr:
        return -x[0]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),))
        yield Sample(cls(), (f32(),))
