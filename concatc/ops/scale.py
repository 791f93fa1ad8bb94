"""``scale``: learned weights along an axis."""

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


class Scale(Op):
    """``y[.., c, ..] = x[.., c, ..] * weight[c] (+ bias[c])`` with ``c`` along ``axis``: Caffe's Scale layer.

    Shapes: ``[.., c, ..]`` -> the same; ``weight`` is ``[c]`` (one), ``bias`` is ``[c]`` (zero).
    Gradient: ``dx = dy * weight``; ``dweight[c]`` is the sum of ``dy * x`` over all other axes, ``dbias[c]`` of ``dy``.
    """

    example = "h = scale(image)  # one number a channel"
    params = ("weight", "bias")
    axis: int = 1

    @classmethod
    def build(cls, site: CallSite, *xs: Value, axis: int = 1) -> Value:
        (x,) = xs
        check_axis("scale", axis, x.tensor)
        if not site.has_param("weight"):
            raise ShapeError("scale has no meaning without `weight`", help="`bias` adds along an axis")
        y: Value = site.b.scale(x, site.param("weight", (x.shape[axis],), constant(1.0), x.dtype), axis=axis)
        if site.has_param("bias"):
            y = site.b.bias(y, site.param("bias", (x.shape[axis],), constant(0.0), x.dtype), axis=axis)
        return y

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, weight = xs
        check_axis("scale", self.axis, x)
        check_float("scale", x, weight)
        if weight.shape != (x.shape[self.axis],):
            raise ShapeError(
                f"scale along axis {self.axis} of {{0}}, {x}, needs {x.shape[self.axis]} weights, not {weight}"
            )
        return [x]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, weight = xs
        return [x * weight.reshape(-1, *(1,) * (x.ndim - 1 - self.axis))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, weight = xs
        others = tuple(d for d in range(len(x.shape)) if d != self.axis)
        return [
            b.scale(dys[0], weight, axis=self.axis) if needs[0] else None,
            b.sum(b.mul(dys[0], x), axes=others) if needs[1] else None,
        ]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield pointwise(ys[0], lambda *i: xs[0][i] * xs[1][i[self.axis]])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(axis=1), (f32(4, 3), f32(3)))
        yield Sample(cls(axis=1), (f32(2, 3, 2, 2), f32(3)))
        yield Sample(cls(axis=0), (f32(3), f32(3)))
