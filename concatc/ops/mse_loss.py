"""``mse_loss``: the squared difference of two blobs, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, share_of
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, f32
from concatc.ops._checks import check_float, check_same_shape

Reduction = Literal["mean", "sum", "euclidean"]


class MseLoss(Op):
    """``loss = sum of (x - target)^2 / n``.

    ``reduction`` chooses ``n``: ``"mean"`` the number of elements (PyTorch), ``"sum"`` 1, ``"euclidean"`` twice the
    size of axis 0 (Caffe's EuclideanLoss).  Shapes: ``x`` and ``target`` alike -> ``[]``.  NaN propagates.  The loss
    of nothing is 0.  Gradient: ``dx = 2 * dy / n * (x - target)``, ``dtarget = -dx``.
    """

    example = "loss mse_loss(x, y)"
    operands = ("x", "target")
    reduction: Reduction = "mean"

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_float("mse_loss", *xs)
        check_same_shape("mse_loss", xs)
        return [xs[0].with_shape(())]

    def row_factor(self, xs: Sequence[TensorType]) -> float | None:
        return 1.0 / _count(self.reduction, xs[0].shape) if xs[0].rank else None

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, target = xs
        total = np.sum(np.square(x - target), dtype=x.dtype)
        return [np.asarray(total / x.dtype.type(_count(self.reduction, x.shape)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, target = xs
        dx = b.mse_loss_grad(x, target, dys[0], reduction=self.reduction) if needs[0] else None
        # With the operands exchanged it is the gradient of the target.
        dtarget = b.mse_loss_grad(target, x, dys[0], reduction=self.reduction) if needs[1] else None
        return [dx, dtarget]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, target = xs
        at = tuple(Axis(f"i{d}", n, "reduce") for d, n in enumerate(x.shape))
        difference = x[at] - target[at]
        yield Piece(ys[0], at, (), _shared(self.reduction, difference * difference, x), combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5)))
        yield Sample(cls(reduction="sum"), (f32(4), f32(4)))
        yield Sample(cls(reduction="euclidean"), (f32(3, 2, 2), f32(3, 2, 2)))
        yield Sample(cls(), (f32(0, 2), f32(0, 2)))


class MseLossGrad(Op):
    """``dx = 2 * dy / n * (x - target)``."""

    internal = True
    operands = ("x", "target", "dy")
    reduction: Reduction = "mean"

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_same_shape("mse_loss_grad", xs[:2])
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, target, dy = xs
        return [np.asarray((x - target) * (dy * x.dtype.type(2 / _count(self.reduction, x.shape))))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, target, dy = xs
        scale = _shared(self.reduction, dy[()] * 2.0, x)
        yield pointwise(ys[0], lambda *i: (x[i] - target[i]) * scale)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5), f32()))
        yield Sample(cls(reduction="euclidean"), (f32(3, 5), f32(3, 5), f32()))


def _count(reduction: Reduction, shape: tuple[int, ...]) -> int:
    counted = {"mean": math.prod(shape), "sum": 1, "euclidean": 2 * (shape[0] if shape else 1)}
    return max(counted[reduction], 1)


def _shared(reduction: Reduction, value: Expr, x: Ref) -> Expr:
    """``value`` over the number that the reduction divides by."""
    return value if reduction == "sum" else value * share_of(_count(reduction, x.shape), x.dtype)
