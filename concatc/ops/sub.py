"""``sub``: the difference of two blobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Broadcasting, sum_to


class Sub(Broadcasting):
    """``y = a - b``, elementwise; also written ``a - b``.

    Shapes: equal; or of equal rank with size 1 where an operand is repeated; or one of them ``[]``.
    Gradient: ``da = dy``, ``db = -dy``, each summed over the axes along which the operand was repeated.
    """

    example = "h = sub(x, y)  # or x - y"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b = xs
        return [np.asarray(a - b)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        dy = dys[0]
        assert dy is not None
        # Negate after the sum: there are fewer elements.
        return [sum_to(b, dy, xs[0]) if needs[0] else None, b.neg(sum_to(b, dy, xs[1])) if needs[1] else None]

    def scalar(self, *x: Expr) -> Expr:
        return x[0] - x[1]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5)))
        yield Sample(cls(), (f32(3, 1), f32(1, 5)))
        yield Sample(cls(), (f32(), f32(2, 3)))
