"""``sigmoid_loss``: binary cross-entropy of scores, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, absolute, exp, log1p, maximum, share_of
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, f32
from concatc.ops._checks import check_float, check_same_shape, twice
from concatc.ops._pointwise import Data

Reduction = Literal["mean", "batch", "sum"]


class SigmoidLoss(Op):
    """``loss = sum of (max(x, 0) - x * target + log(1 + exp(-|x|))) / n``: binary cross-entropy of ``sigmoid(x)``.

    ``reduction`` chooses ``n``: ``"mean"`` the number of elements (PyTorch), ``"batch"`` the size of axis 0 (Caffe),
    ``"sum"`` 1.  Shapes: ``x`` and ``target`` alike, floats, targets from 0 to 1 -> ``[]``.  No finite score overflows;
    NaN propagates.  The loss of nothing is 0.
    Gradient: ``dx = dy / n * (sigmoid(x) - target)``, ``dtarget = -dy / n * x``.
    """

    example = "loss sigmoid_loss(x, y)"
    operands = ("x", "target")
    reduction: Reduction = "mean"

    @classmethod
    def doubt(cls, xs: Sequence[Value]) -> tuple[str, str] | None:
        return twice("sigmoid_loss", "sigmoid", xs[0])

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_float("sigmoid_loss", *xs)
        check_same_shape("sigmoid_loss", xs)
        return [xs[0].with_shape(())]

    def row_factor(self, xs: Sequence[TensorType]) -> float | None:
        return 1.0 / _count(self.reduction, xs[0].shape) if xs[0].rank else None

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, target = xs
        loss = np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x)))
        return [np.asarray(np.sum(loss, dtype=x.dtype) / x.dtype.type(_count(self.reduction, x.shape)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, target = xs
        dx = b.sigmoid_loss_grad(x, target, dys[0], reduction=self.reduction) if needs[0] else None
        if not needs[1]:
            return [dx, None]
        share = b.share(dys[0], count=_count(self.reduction, x.shape))
        return [dx, b.mul(x, b.neg(share))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        at = tuple(Axis(f"i{d}", n, "reduce") for d, n in enumerate(xs[0].shape))
        x, target = xs[0][at], xs[1][at]
        loss = maximum(x, 0.0) - x * target + log1p(exp(-absolute(x)))
        yield Piece(ys[0], at, (), _shared(self.reduction, loss, xs[0]), combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5)), _data((3, 5)))
        yield Sample(cls(reduction="batch"), (f32(3, 2, 2), f32(3, 2, 2)), _data((3, 2, 2)))
        yield Sample(cls(reduction="sum"), (f32(4), f32(4)), _data((4,)))
        yield Sample(cls(), (f32(0, 2), f32(0, 2)))


class SigmoidLossGrad(Op):
    """``dx = dy / n * (sigmoid(x) - target)``."""

    internal = True
    operands = ("x", "target", "dy")
    reduction: Reduction = "mean"

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_same_shape("sigmoid_loss_grad", xs[:2])
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, target, dy = xs
        p = 1 / (1 + np.exp(-x))
        return [np.asarray((p - target) * (dy / x.dtype.type(_count(self.reduction, x.shape))))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, target, dy = xs
        scale = _shared(self.reduction, dy[()], x)
        yield pointwise(ys[0], lambda *i: (1.0 / (1.0 + exp(-x[i])) - target[i]) * scale)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5), f32()))
        yield Sample(cls(reduction="batch"), (f32(3, 5), f32(3, 5), f32()))


def _count(reduction: Reduction, shape: tuple[int, ...]) -> int:
    counted = {"mean": math.prod(shape), "batch": shape[0] if shape else 1, "sum": 1}
    return max(counted[reduction], 1)


def _shared(reduction: Reduction, value: Expr, x: Ref) -> Expr:
    """``value`` over the number that the reduction divides by."""
    return value if reduction == "sum" else value * share_of(_count(reduction, x.shape), x.dtype)


def _data(shape: tuple[int, ...]) -> Data:
    return lambda rng: [3 * rng.normal(size=shape), rng.uniform(size=shape)]
