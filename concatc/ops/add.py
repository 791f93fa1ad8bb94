"""``add`` of two blobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Broadcasting, sum_to


class Add(Broadcasting):
    """``y = a + b``, elementwise; also written ``a + b``.

    Shapes: equal; or of equal rank with size 1 where an operand is repeated; or one of them ``[]``.
    Gradient: ``da = dy``, ``db = dy``, each summed over the axes along which the operand was repeated.
    """

    example = "h = add(x, y)  # or x + y"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b = xs
        return [np.asarray(a + b)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        dy = dys[0]
        assert dy is not None
        return [sum_to(b, dy, x) if need else None for x, need in zip(xs, needs, strict=True)]

    def scalar(self, *x: Expr) -> Expr:
        return x[0] + x[1]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5)))
        yield Sample(cls(), (f32(3, 1), f32(1, 5)))
        yield Sample(cls(), (f32(2, 3, 4), f32()))
        yield Sample(cls(), (f32(), f32(2)))
        yield Sample(cls(), (f32(), f32()))
        yield Sample(cls(), (f32(0, 5), f32(1, 5)))
