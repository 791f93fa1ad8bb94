"""``max``: the elementwise maximum of two blobs, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref, maximum, select
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, f32
from concatc.ops._checks import check_float
from concatc.ops._pointwise import Broadcasting, Data, broadcast_shape, load_broadcast, sum_to


class Max(Broadcasting):
    """``y = a where a >= b else b``, elementwise; NaN where either is NaN.

    Shapes: equal; or of equal rank with size 1 where an operand is repeated; or one of them ``[]``.
    Gradient: ``dy`` goes to the operand that gave ``y``; at a tie to ``a`` alone (PyTorch halves it); where ``a`` is
    NaN to ``a``, where only ``b`` is to ``b``.
    """

    example = "h = max(x, y)"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b = xs
        return [np.asarray(np.maximum(a, b))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        left, right = xs
        return [
            sum_to(b, b.max_grad(left, right, dys[0], operand="a"), left) if needs[0] else None,
            sum_to(b, b.max_grad(left, right, dys[0], operand="b"), right) if needs[1] else None,
        ]

    def scalar(self, *x: Expr) -> Expr:
        return maximum(x[0], x[1])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 5), f32(3, 5)), _without_ties((3, 5), (3, 5)))
        yield Sample(cls(), (f32(3, 1), f32(1, 5)), _without_ties((3, 1), (1, 5)))
        yield Sample(cls(), (f32(2, 3), f32()), _without_ties((2, 3), ()))


class MaxGrad(Op):
    """``da = dy where a >= b or a is NaN else 0``; ``db`` is ``dy`` where ``da`` is not."""

    internal = True
    operands = ("a", "b", "dy")
    operand: Literal["a", "b"]

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_float("max_grad", *xs)
        return [xs[0].with_shape(broadcast_shape("max_grad", xs[0], xs[1]))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b, dy = xs
        first = (a >= b) | np.isnan(a)
        return [np.where(first if self.operand == "a" else ~first, dy, dy.dtype.type(0))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        def value(*i: Expr) -> Expr:
            a, b, dy = (load_broadcast(x, i) for x in xs)
            first = (a >= b) | a.ne(a)
            return select(first, dy, 0.0) if self.operand == "a" else select(first, 0.0, dy)

        yield pointwise(ys[0], value)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(operand="a"), (f32(3, 5), f32(3, 5), f32(3, 5)))
        yield Sample(cls(operand="b"), (f32(3, 1), f32(1, 5), f32(3, 5)))


def _without_ties(a: tuple[int, ...], b: tuple[int, ...]) -> Data:
    def make(rng: np.random.Generator) -> list[np.ndarray]:
        values = rng.permutation(int(np.prod(a)) + int(np.prod(b))) * 0.1 - 1.0
        return [values[: int(np.prod(a))].reshape(a), values[int(np.prod(a)) :].reshape(b)]

    return make
