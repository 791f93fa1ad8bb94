"""Stochastic gradient descent: the velocity and the parameters after one step.

Each op gives one result of the shape of the parameters, elementwise, so a plan may write it in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Op, Sample, ShapeError, f32

# Elements of `hyper`: run-time scalars, so a new learning rate compiles nothing.
LR, MOMENTUM, DECAY = 0, 1, 2
HYPER = 3


class SgdVelocity(Op):
    """``v' = momentum * v + (g + decay * p)``, with ``hyper = [lr, momentum, decay, ..]``.

    Shapes: ``p``, ``g``, ``v`` the same; ``hyper`` is ``[k]``, k at least 3 -> the same.
    """

    internal = True
    operands = ("p", "g", "v", "hyper")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [same_shapes(self.name, xs, HYPER)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        p, g, v, hyper = xs
        return [hyper[MOMENTUM] * v + (g + hyper[DECAY] * p)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        p, g, v, hyper = xs
        yield pointwise(ys[0], lambda *i: hyper[MOMENTUM] * v[i] + (g[i] + hyper[DECAY] * p[i]))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(7), f32(7), f32(7), f32(3)))


class SgdUpdate(Op):
    """``p' = p - lr * (g + decay * p)``: plain gradient descent, with ``hyper = [lr, momentum, decay, ..]``.

    Shapes: ``p``, ``g`` the same; ``hyper`` is ``[k]``, k at least 3 -> the same.
    """

    internal = True
    operands = ("p", "g", "hyper")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [same_shapes(self.name, xs, HYPER)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        p, g, hyper = xs
        return [p - hyper[LR] * (g + hyper[DECAY] * p)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        p, g, hyper = xs
        yield pointwise(ys[0], lambda *i: p[i] - hyper[LR] * (g[i] + hyper[DECAY] * p[i]))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(7), f32(7), f32(3)))


class SgdMomentumUpdate(Op):
    """``p' = p - lr * v'`` with the new velocity; ``nesterov``: ``p' = p - lr * ((g + decay * p) + momentum * v')``.

    Nesterov's form is that of Sutskever et al. 2013 as PyTorch writes it.  Shapes: ``p``, ``g``, ``v`` the same;
    ``hyper`` is ``[k]``, k at least 3 -> the same.
    """

    internal = True
    operands = ("p", "g", "v", "hyper")
    nesterov: bool = False

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [same_shapes(self.name, xs, HYPER)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        p, g, v, hyper = xs
        direction = (g + hyper[DECAY] * p) + hyper[MOMENTUM] * v if self.nesterov else v
        return [p - hyper[LR] * direction]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        p, g, v, hyper = xs

        def updated(*i: Expr) -> Expr:
            ahead = (g[i] + hyper[DECAY] * p[i]) + hyper[MOMENTUM] * v[i]
            return p[i] - hyper[LR] * (ahead if self.nesterov else v[i])

        yield pointwise(ys[0], updated)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(7), f32(7), f32(7), f32(3)))
        yield Sample(cls(nesterov=True), (f32(7), f32(7), f32(7), f32(3)))


def same_shapes(op: str, xs: Sequence[TensorType], hyper: int) -> TensorType:
    """The type of an update's result; the last operand holds at least ``hyper`` scalars."""
    *tensors, scalars = xs
    if any(x != tensors[0] for x in tensors):
        raise ShapeError(f"{op} needs operands of one type")
    if scalars.rank != 1 or scalars.shape[0] < hyper or scalars.dtype != tensors[0].dtype:
        raise ShapeError(f"{op} needs at least {hyper} scalars of type {tensors[0].dtype}, not {scalars}")
    return tensors[0]
