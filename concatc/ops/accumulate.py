"""``accumulate``: the sum of the contributions to one gradient.  Its transpose is ``split``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, ShapeError, f32


class Accumulate(Op):
    """Add the operands, from the first to the last: ``((x0 + x1) + x2) + ..``; that order is kept by every target.

    Shapes: all the same -> the same.
    """

    internal = True
    operands = ("*xs",)

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        if any(x != xs[0] for x in xs):
            raise ShapeError("accumulate needs contributions of one type")
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        total = np.array(xs[0])
        for x in xs[1:]:
            total += x
        return [total]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [dys[0] if need else None for need in needs]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        def total(*i: Expr) -> Expr:
            value: Expr = xs[0][i]
            for x in xs[1:]:
                value = value + x[i]
            return value

        yield pointwise(ys[0], total)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(2, 3), f32(2, 3), f32(2, 3)))
