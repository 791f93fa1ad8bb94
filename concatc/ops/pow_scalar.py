"""``pow_scalar``: a blob to a constant power."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, exp, log, sqrt, wrap
from concatc.op import Builder, Sample, ShapeError, f32
from concatc.ops._pointwise import Pointwise, normal_away_from, positive

LARGEST_PRODUCT = 64


class PowScalar(Pointwise):
    """``y = x ^ value``: what ``x ^ 3`` in the language means.

    Whole powers, -64 to 64, are products, 0.5 is a square root, others are ``exp(value * log(x))``, which is NaN for
    ``x < 0``.  ``x ^ 0`` is 1 for every ``x``, NaN included.
    Shapes: any -> the same.  Gradient: ``dx = dy * value * x ^ (value - 1)``; 0 where ``value`` is 0.
    """

    internal = True
    value: float

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        if self.value.is_integer() and abs(self.value) > LARGEST_PRODUCT:
            raise ShapeError(
                f"whole powers go from -{LARGEST_PRODUCT} to {LARGEST_PRODUCT}; {{0}} ^ {self.value:g} does not"
            )
        return super().infer(xs)

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(np.power(xs[0], xs[0].dtype.type(self.value)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        if self.value == 0:
            return [b.mul_scalar(dys[0], value=0.0)]
        if self.value == 1:
            return [dys[0]]
        power = xs[0] if self.value == 2 else b.pow_scalar(xs[0], value=self.value - 1)
        return [b.mul(dys[0], b.mul_scalar(power, value=self.value))]

    def scalar(self, *x: Expr) -> Expr:
        if self.value == 0.5:
            return sqrt(x[0])
        if not self.value.is_integer():
            return exp(log(x[0]) * self.value)
        power = _product(x[0], abs(int(self.value)))
        return 1.0 / power if self.value < 0 else power

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for value in (3.0, 2.0, -2.0, 1.0, 0.0, 7.0):
            yield Sample(cls(value=value), (f32(3, 5),), normal_away_from(0.0, (3, 5)))
        for value in (0.5, -0.5, 2.3):
            yield Sample(cls(value=value), (f32(3, 5),), positive((3, 5)))


def _product(x: Expr, times: int) -> Expr:
    """``x * x * .. * x`` by repeated squaring."""
    if times == 0:
        return wrap(1.0, x.dtype)
    if times == 1:
        return x
    half = _product(x, times // 2)
    return half * half if times % 2 == 0 else half * half * x
