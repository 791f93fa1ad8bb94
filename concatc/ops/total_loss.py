"""``total_loss``: the weighted sum of the losses of a net, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, ShapeError, f32


class TotalLoss(Op):
    """``y = sum_k loss_k * loss_weights[k]``, added from the first to the last.

    Shapes: ``k`` losses of shape ``[]``, then ``loss_weights``, ``[k]`` -> ``[]``.
    Gradient: ``dloss_k = dy * loss_weights[k]``; the weights are run-time scalars and get none.
    """

    internal = True
    operands = ("*losses", "loss_weights")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        *losses, weights = xs
        _check_losses(losses)
        if weights.shape != (len(losses),) or weights.dtype != losses[0].dtype:
            raise ShapeError(f"total_loss of {len(losses)} losses needs as many weights, not {weights}")
        return [losses[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        *losses, weights = xs
        total = losses[0] * weights[0]
        for loss, weight in zip(losses[1:], weights[1:], strict=True):
            total = total + loss * weight
        return [np.asarray(total)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        grads = b.total_loss_grad(dys[0], xs[-1])
        losses = grads if isinstance(grads, list) else [grads]
        return [*(d if need else None for d, need in zip(losses, needs, strict=False)), None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        *losses, weights = xs

        def total() -> Expr:
            value: Expr = losses[0][()] * weights[0]
            for k, loss in enumerate(losses[1:], 1):
                value = value + loss[()] * weights[k]
            return value

        yield pointwise(ys[0], total)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(), f32(1)), differentiable=(True, False))
        yield Sample(cls(), (f32(), f32(), f32(), f32(3)), differentiable=(True, True, True, False))


class TotalLossGrad(Op):
    """``dloss_k = dy * loss_weights[k]``, one result for each loss."""

    internal = True
    operands = ("dy", "loss_weights")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        dy, weights = xs
        _check_losses([dy])
        return [dy] * weights.shape[0]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        dy, weights = xs
        return [np.asarray(dy * w) for w in weights]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        dy, weights = xs
        for k, y in enumerate(ys):
            yield Piece(y, (), (), dy[()] * weights[k])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(), f32(1)))
        yield Sample(cls(), (f32(), f32(3)))


def _check_losses(losses: Sequence[TensorType]) -> None:
    for k, loss in enumerate(losses):
        if loss.rank != 0 or not loss.is_float:
            raise ShapeError(f"a loss is one number; {{{k}}} is {loss}", help="take the mean or the sum of it")
