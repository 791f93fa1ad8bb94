"""``share``: a blob over a number of elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, share_of
from concatc.op import Builder, Sample, ShapeError, f32
from concatc.ops._pointwise import Pointwise


class Share(Pointwise):
    """``y = x / count``: what each of ``count`` elements gets of the gradient of their mean.

    Shapes: any -> the same.  Gradient: ``dx = dy / count``.  Unlike the factor of ``mul_scalar``, ``count`` follows
    from shapes: it is no part of the code, which therefore serves every batch size.
    """

    internal = True
    count: int

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        if self.count < 1:
            raise ShapeError(f"share: `count` must be at least 1, not {self.count}")
        return super().infer(xs)

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(xs[0] * xs[0].dtype.type(1 / self.count))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.share(dys[0], count=self.count)]

    def scalar(self, *x: Expr) -> Expr:
        return x[0] * share_of(self.count, x[0].dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(count=7), (f32(3, 5),))
        yield Sample(cls(count=1), (f32(),))
