"""``causal_mask``: scores of later positions become minus infinity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref, select
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_float


class CausalMask(Op):
    """``y[.., i, j] = x[.., i, j] if j <= i else -inf``: position ``i`` sees itself and what comes before it.

    Shapes: ``[.., t, t]`` -> the same.  A softmax over the last axis gives the masked positions the weight 0; no row
    is masked whole (Vaswani et al. 2017, section 3.2.3).  Gradient: ``dy`` where ``j <= i``, else 0
    (``causal_mask_grad``).
    """

    example = "scores = causal_mask(matmul(q, k, transpose_b=true))"

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        check_float("causal_mask", x)
        if x.rank < 2 or x.shape[-1] != x.shape[-2]:
            raise ShapeError(f"causal_mask needs last two axes of one size, positions by positions; {{0}} is {x}")
        return [x]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        return [np.where(_visible(x.shape[-1]), x, x.dtype.type(-np.inf))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.causal_mask_grad(dys[0]) if needs[0] else None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield _masked(xs[0], ys[0], float("-inf"))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        # Finite differences of minus infinity are not a number; a test of its own compares the gradient.
        yield Sample(cls(), (f32(4, 4),), differentiable=(False,))
        yield Sample(cls(), (f32(2, 2, 3, 3),), differentiable=(False,))
        yield Sample(cls(), (f32(2, 1, 1),))


class CausalMaskGrad(Op):
    """``dx[.., i, j] = dy[.., i, j] if j <= i else 0``."""

    internal = True
    operands = ("dy",)

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (dy,) = xs
        return [np.where(_visible(dy.shape[-1]), dy, dy.dtype.type(0))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield _masked(xs[0], ys[0], 0.0)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(2, 3, 3),))


def _visible(positions: int) -> np.ndarray:
    return np.tri(positions, dtype=bool)


def _masked(x: Ref, y: Ref, other: float) -> Piece:
    def element(*at: Expr) -> Expr:
        i, j = at[-2:]
        return select(j <= i, x[at], other)

    return pointwise(y, element)
