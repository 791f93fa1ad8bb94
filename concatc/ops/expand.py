"""``expand``: repeat along axes.  Its transpose is ``sum``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, ShapeError, f32


class Expand(Op):
    """``y[i..] = x[i.. without axes]``: repeat ``x`` along ``axes`` until it has ``shape``.

    Shapes: ``shape`` less ``axes``, or ``shape`` with 1 at each of ``axes``, -> ``shape``.
    """

    internal = True
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        if any(not 0 <= a < len(self.shape) for a in self.axes) or any(n < 0 for n in self.shape):
            raise ShapeError(f"expand: {list(self.axes)} are not axes of the shape {list(self.shape)}")
        dropped = tuple(n for d, n in enumerate(self.shape) if d not in self.axes)
        kept = tuple(1 if d in self.axes else n for d, n in enumerate(self.shape))
        if x.shape not in (dropped, kept):
            raise ShapeError(f"expand of {{0}}, {x}, to {list(self.shape)} along axes {list(self.axes)} does not fit")
        return [x.with_shape(self.shape)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        if x.ndim != len(self.shape):
            x = np.expand_dims(x, self.axes)
        return [np.broadcast_to(x, self.shape).copy()]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        keepdims = len(xs[0].shape) == len(self.shape)
        return [b.sum(dys[0], axes=self.axes, keepdims=keepdims)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs

        def value(*i: Expr) -> Expr:
            if len(x.shape) == len(self.shape):
                return x[tuple(0 if d in self.axes else a for d, a in enumerate(i))]
            return x[tuple(a for d, a in enumerate(i) if d not in self.axes)]

        yield pointwise(ys[0], value)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(shape=(2, 3), axes=(0,)), (f32(3),))
        yield Sample(cls(shape=(2, 3, 4), axes=(0, 2)), (f32(1, 3, 1),))
        yield Sample(cls(shape=(2, 3), axes=(0, 1)), (f32(),))
        yield Sample(cls(shape=(0, 3), axes=(0,)), (f32(3),))
