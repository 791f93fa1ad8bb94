"""``reshape``: the same elements in another shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece
from concatc.op import Builder, CallSite, Op, Sample, ShapeError, f32
from concatc.ops._reshape import reshape_piece


class Reshape(Op):
    """The elements of ``x``, in row-major order, in ``shape``.  One size may be -1: what is left.

    Shapes: any -> ``shape``, of as many elements.  Gradient: ``dy``, reshaped back.
    """

    example = "h = reshape(x, [n, 4, 4])"
    size = "shape"
    shape: tuple[int, ...]

    @classmethod
    def build(cls, site: CallSite, *xs: Value, shape: tuple[int, ...]) -> Value:
        y: Value = site.b.reshape(xs[0], shape=_filled(tuple(shape), xs[0].tensor))
        return y

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        if any(n < 0 for n in self.shape) or math.prod(self.shape) != x.numel:
            raise ShapeError(
                f"reshape: {{0}} is {x}, of {x.numel} elements; {list(self.shape)} has {math.prod(self.shape)}"
            )
        return [x.with_shape(self.shape)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [xs[0].reshape(self.shape).copy()]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.reshape(dys[0], shape=xs[0].shape)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield reshape_piece(ys[0], xs[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(shape=(6, 4)), (f32(2, 3, 4),))
        yield Sample(cls(shape=(2, 3, 2, 2)), (f32(2, 3, 4),))
        yield Sample(cls(shape=(4, 1, 6)), (f32(6, 4),))
        yield Sample(cls(shape=(2, 12)), (f32(2, 1, 4, 3, 1),))
        yield Sample(cls(shape=()), (f32(1, 1),))
        yield Sample(cls(shape=(1,)), (f32(),))
        yield Sample(cls(shape=(3, 0)), (f32(0, 2),))


def _filled(shape: tuple[int, ...], x: TensorType) -> tuple[int, ...]:
    if -1 not in shape:
        return shape
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) > 1:
        raise ShapeError(f"reshape: only one size can be -1, not {shape.count(-1)} of {list(shape)}")
    if known == 0 or x.numel % known:
        raise ShapeError(f"reshape: {{0}} is {x}, of {x.numel} elements, which no size for -1 in {list(shape)} gives")
    return tuple(x.numel // known if n == -1 else n for n in shape)
