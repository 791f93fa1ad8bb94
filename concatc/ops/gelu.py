"""``gelu`` and its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Expr, erf, exp, tanh
from concatc.op import Builder, Sample, f32
from concatc.ops._pointwise import Pointwise

Approximate = Literal["none", "tanh"]

# tanh(C * (x + CUBIC * x^3)) stands for erf(x / sqrt 2): Hendrycks & Gimpel 2016, section 2.
C = math.sqrt(2 / math.pi)
CUBIC = 0.044715


class Gelu(Pointwise):
    """``y = x * Phi(x)``, Phi the normal distribution function (Hendrycks & Gimpel 2016); NaN stays NaN.

    ``approximate="none"`` is ``x / 2 * (1 + erf(x / sqrt 2))``; ``"tanh"`` is
    ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))``.
    Shapes: any -> the same.  Gradient: ``dx = dy * (Phi(x) + x * Phi'(x))``.
    """

    example = "h = x |> linear(64) |> gelu"
    approximate: Approximate = "none"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        return [np.asarray(x * _phi(x, self.approximate), x.dtype)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.gelu_grad(xs[0], dys[0], approximate=self.approximate)]

    def scalar(self, *x: Expr) -> Expr:
        return x[0] * _phi_expr(x[0], self.approximate)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),))
        yield Sample(cls(approximate="tanh"), (f32(3, 5),))


class GeluGrad(Pointwise):
    """``dx = dy * (Phi(x) + x * Phi'(x))``."""

    internal = True
    operands = ("x", "dy")
    approximate: Approximate = "none"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, dy = xs
        phi = _phi(x, self.approximate)
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        if self.approximate == "tanh":
            density = 2 * phi * (1 - phi) * C * (1 + 3 * CUBIC * x * x)
        return [np.asarray(dy * (phi + x * density), x.dtype)]

    def scalar(self, *x: Expr) -> Expr:
        v, dy = x
        phi = _phi_expr(v, self.approximate)
        if self.approximate == "tanh":
            # phi = (1 + t) / 2, so 1 - t^2 = 4 phi (1 - phi).
            return dy * (phi + v * (phi * (1.0 - phi) * (v * v * (6 * C * CUBIC) + 2 * C)))
        return dy * (phi + v * exp(v * v * -0.5) * (1 / math.sqrt(2 * math.pi)))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 3), f32(4, 3)))
        yield Sample(cls(approximate="tanh"), (f32(4, 3), f32(4, 3)))


_erf = np.frompyfunc(math.erf, 1, 1)


def _phi(x: np.ndarray, approximate: Approximate) -> np.ndarray:
    if approximate == "tanh":
        return np.asarray(0.5 * (1 + np.tanh(C * (x + CUBIC * x * x * x))))
    return np.asarray(0.5 * (1 + np.asarray(_erf(x.astype(np.float64) / math.sqrt(2)), np.float64)))


def _phi_expr(x: Expr, approximate: Approximate) -> Expr:
    if approximate == "tanh":
        return (tanh((x + x * x * x * CUBIC) * C) + 1.0) * 0.5
    return (erf(x * math.sqrt(0.5)) + 1.0) * 0.5
