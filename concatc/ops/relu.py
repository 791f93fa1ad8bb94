"""``relu`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref, maximum, select
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, f32


class Relu(Op):
    """``y = max(x, 0)``, elementwise; NaN stays NaN.

    Shapes: any -> the same.  The gradient at ``x = 0`` is 0.
    """

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.maximum(xs[0], 0)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.relu_grad(ys[0], dys[0])]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield pointwise(ys[0], lambda *i: maximum(xs[0][i], 0.0))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5),), data=lambda rng: [_away_from_zero(rng, (3, 5))])


class ReluGrad(Op):
    """``dx = 0 where y <= 0 else dy``: the gradient of ``relu`` from its result."""

    internal = True
    operands = ("y", "dy")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[1]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.where(y <= 0, np.zeros_like(dy), dy)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        y, dy = xs
        yield pointwise(ys[0], lambda *i: select(y[i] <= 0.0, 0.0, dy[i]))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 3), f32(4, 3)))


def _away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = rng.normal(size=shape)
    return np.asarray(np.sign(x) * (np.abs(x) + 0.1))
