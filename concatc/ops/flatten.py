"""``flatten``: the last axes joined into one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece
from concatc.op import Builder, Op, Sample, f32
from concatc.ops._checks import check_axis
from concatc.ops._reshape import reshape_piece


class Flatten(Op):
    """Join the axes from ``axis`` on into one, in row-major order.

    Shapes: ``[n0, .., n_axis, .., n_last]`` -> ``[n0, .., n_axis * .. * n_last]``.  Gradient: ``dy``, reshaped back.
    """

    example = "logits = image |> conv(16, kernel=3) |> global_avg_pool |> flatten |> linear(10)"
    axis: int = 1

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        check_axis("flatten", self.axis, x)
        return [x.with_shape((*x.shape[: self.axis], math.prod(x.shape[self.axis :])))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        return [x.reshape(*x.shape[: self.axis], math.prod(x.shape[self.axis :])).copy()]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.reshape(dys[0], shape=xs[0].shape)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield reshape_piece(ys[0], xs[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(2, 3, 4, 2),))
        yield Sample(cls(axis=0), (f32(2, 3),))
        yield Sample(cls(axis=2), (f32(2, 3, 4),))
        yield Sample(cls(), (f32(0, 3, 2),))
