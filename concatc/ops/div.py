"""``div``: the elementwise quotient of two blobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Broadcasting, Data, sum_to


class Div(Broadcasting):
    """``y = a / b``, elementwise; also written ``a / b``.  Division by 0 gives an infinity, 0 / 0 gives NaN.

    Shapes: equal; or of equal rank with size 1 where an operand is repeated; or one of them ``[]``.
    Gradient: ``da = dy / b``, ``db = -dy * y / b``, each summed over the axes along which the operand was repeated.
    """

    example = "h = div(x, y)  # or x / y"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b = xs
        return [np.asarray(a / b)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        left, right = xs
        quotient = b.div(dys[0], right)
        return [
            sum_to(b, quotient, left) if needs[0] else None,
            b.neg(sum_to(b, b.mul(quotient, ys[0]), right)) if needs[1] else None,
        ]

    def scalar(self, *x: Expr) -> Expr:
        return x[0] / x[1]

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5)), _data((3, 5), (3, 5)))
        yield Sample(cls(), (f32(3, 1), f32(1, 5)), _data((3, 1), (1, 5)))
        yield Sample(cls(), (f32(2, 3), f32()), _data((2, 3), ()))
        yield Sample(cls(), (f32(), f32(2, 3)), _data((), (2, 3)))


def _data(a: tuple[int, ...], b: tuple[int, ...]) -> Data:
    return lambda rng: [rng.normal(size=a), rng.choice([-1.0, 1.0], size=b) * rng.uniform(0.5, 2.0, size=b)]
