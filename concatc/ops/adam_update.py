"""Adam (Kingma & Ba 2015): the two moments and the parameters after one step.

Each op gives one result of the shape of the parameters, elementwise, so a plan may write it in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref, sqrt
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Op, Sample, f32
from concatc.ops.sgd_update import same_shapes

# Elements of `hyper`.  RATE is lr / (1 - beta1^t), ROOT is 1 / sqrt(1 - beta2^t): the runtime computes both each step.
RATE, BETA1, BETA2, EPSILON, DECAY, ROOT = range(6)
HYPER = 6


class AdamMoment(Op):
    """``m' = beta1 * m + (1 - beta1) * (g + decay * p)``.

    Shapes: ``p``, ``g``, ``m`` the same; ``hyper`` is ``[k]``, k at least 6 -> the same.
    """

    internal = True
    operands = ("p", "g", "m", "hyper")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [same_shapes(self.name, xs, HYPER)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        p, g, m, hyper = xs
        return [hyper[BETA1] * m + (1 - hyper[BETA1]) * (g + hyper[DECAY] * p)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        p, g, m, hyper = xs
        yield pointwise(ys[0], lambda *i: hyper[BETA1] * m[i] + (1.0 - hyper[BETA1]) * (g[i] + hyper[DECAY] * p[i]))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(7), f32(7), f32(7), f32(6)))


class AdamSecondMoment(Op):
    """``s' = beta2 * s + (1 - beta2) * (g + decay * p)^2``.

    Shapes: ``p``, ``g``, ``s`` the same; ``hyper`` is ``[k]``, k at least 6 -> the same.
    """

    internal = True
    operands = ("p", "g", "s", "hyper")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [same_shapes(self.name, xs, HYPER)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        p, g, s, hyper = xs
        return [hyper[BETA2] * s + (1 - hyper[BETA2]) * np.square(g + hyper[DECAY] * p)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        p, g, s, hyper = xs

        def moment(*i: Expr) -> Expr:
            gradient = g[i] + hyper[DECAY] * p[i]
            return hyper[BETA2] * s[i] + (1.0 - hyper[BETA2]) * (gradient * gradient)

        yield pointwise(ys[0], moment)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(7), f32(7), f32(7), f32(6)))


class AdamUpdate(Op):
    """``p' = p - rate * m' / (sqrt(s') * root + epsilon)`` with the new moments.

    ``rate = lr / (1 - beta1^t)`` and ``root = 1 / sqrt(1 - beta2^t)`` correct the bias of step ``t``.  Shapes: ``p``,
    ``m``, ``s`` the same; ``hyper`` is ``[k]``, k at least 6 -> the same.
    """

    internal = True
    operands = ("p", "m", "s", "hyper")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [same_shapes(self.name, xs, HYPER)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        p, m, s, hyper = xs
        return [p - hyper[RATE] * m / (np.sqrt(s) * hyper[ROOT] + hyper[EPSILON])]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        p, m, s, hyper = xs
        yield pointwise(ys[0], lambda *i: p[i] - hyper[RATE] * m[i] / (sqrt(s[i]) * hyper[ROOT] + hyper[EPSILON]))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(7), f32(7), f32(7), f32(6)), data=_moments)


def _moments(rng: np.random.Generator) -> list[np.ndarray]:
    # A second moment is a mean of squares, and the scalars of a running optimizer are positive.
    p, m = rng.normal(size=7), rng.normal(size=7)
    return [p, m, rng.uniform(0.1, 2.0, size=7), np.array([0.01, 0.9, 0.999, 1e-8, 0.0, 3.0])]
