"""``iota``: 0, 1, 2, .."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref, cast
from concatc.loops.pieces import Piece
from concatc.op import Builder, Op, Sample, ShapeError, i32


class Iota(Op):
    """``y[i] = i``, integers: the labels of an in-batch softmax, positions.

    Shapes: none -> ``[n]``, i32.
    """

    example = "places = iota(20) |> embedding(20, dim=16)"
    operands = ()
    size = "n"
    n: int

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        if self.n < 0:
            raise ShapeError(f"iota: `n` must be at least 0, not {self.n}")
        return [i32(self.n)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.arange(self.n, dtype=np.int32)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return []

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        i = Axis("i0", self.n)
        yield Piece(ys[0], (i,), (i,), cast(i, "i32"))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(n=5), ())
        yield Sample(cls(n=0), ())
