"""``bias``: one number added along an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.initial_values import constant
from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, CallSite, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_axis, check_float


class Bias(Op):
    """``y[.., c, ..] = x[.., c, ..] + bias[c]`` with ``c`` along ``axis``: Caffe's Bias layer over one axis.

    Shapes: ``[.., c, ..]`` -> the same; ``bias`` is ``[c]`` (zero).
    Gradient: ``dx = dy``; ``dbias[c]`` is the sum of ``dy`` over all other axes.
    """

    example = "h = bias(image)  # one number a channel"
    params = ("bias",)
    axis: int = 1

    @classmethod
    def build(cls, site: CallSite, *xs: Value, axis: int = 1) -> Value:
        (x,) = xs
        check_axis("bias", axis, x.tensor)
        if not site.has_param("bias"):
            raise ShapeError("bias without `bias` does nothing", help="leave out `bias=false`")
        y: Value = site.b.bias(x, site.param("bias", (x.shape[axis],), constant(0.0), x.dtype), axis=axis)
        return y

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, bias = xs
        check_axis("bias", self.axis, x)
        check_float("bias", x, bias)
        if bias.shape != (x.shape[self.axis],):
            raise ShapeError(
                f"bias along axis {self.axis} of {{0}}, {x}, needs {x.shape[self.axis]} numbers, not {bias}"
            )
        return [x]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, bias = xs
        return [x + bias.reshape(-1, *(1,) * (x.ndim - 1 - self.axis))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        others = tuple(d for d in range(len(xs[0].shape)) if d != self.axis)
        return [dys[0] if needs[0] else None, b.sum(dys[0], axes=others) if needs[1] else None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield pointwise(ys[0], lambda *i: xs[0][i] + xs[1][i[self.axis]])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(axis=1), (f32(4, 3), f32(3)))
        yield Sample(cls(axis=1), (f32(2, 3, 2, 2), f32(3)))
        yield Sample(cls(axis=0), (f32(3, 2), f32(3)))
        yield Sample(cls(axis=1), (f32(0, 3), f32(3)))
