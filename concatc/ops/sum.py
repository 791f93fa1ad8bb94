"""``sum`` over axes.  Its transpose is ``expand``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece
from concatc.op import Builder, CallSite, Op, Sample, f32
from concatc.ops._checks import check_axes, check_float
from concatc.ops._reduce import fold_axes, reduced_shape


class Sum(Op):
    """``y[rest] = sum over axes of x``; ``axes`` defaults to all of them.

    Shapes: ``x`` less ``axes``; ``keepdims=true`` leaves size 1 in their place.  A sum over nothing is 0.
    Gradient: ``dx = dy``, repeated along ``axes``.
    """

    example = "h = sum(x, axes=[1])"

    axes: tuple[int, ...]
    keepdims: bool = False

    @classmethod
    def build(cls, site: CallSite, *xs: Value, axes: tuple[int, ...] | None = None, keepdims: bool = False) -> Value:
        (x,) = xs
        y: Value = site.b.sum(x, axes=tuple(range(x.tensor.rank)) if axes is None else axes, keepdims=keepdims)
        return y

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_axes("sum", self.axes, xs[0])
        check_float("sum", xs[0])
        return [xs[0].with_shape(reduced_shape(xs[0].shape, self.axes, self.keepdims))]

    def row_factor(self, xs: Sequence[TensorType]) -> float | None:
        folds_all = not self.keepdims and len(self.axes) == xs[0].rank > 0
        return 1.0 if folds_all else None

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(np.sum(xs[0], axis=self.axes, keepdims=self.keepdims, dtype=xs[0].dtype))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        if not self.axes:
            return [dys[0]]
        return [b.expand(dys[0], shape=xs[0].shape, axes=self.axes)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        axes, at = fold_axes(xs[0].shape, self.axes, self.keepdims)
        yield Piece(ys[0], axes, at, xs[0][axes], combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(axes=(0, 1)), (f32(3, 4),))
        yield Sample(cls(axes=(1,)), (f32(2, 3, 4),))
        yield Sample(cls(axes=(0, 2), keepdims=True), (f32(2, 3, 4),))
        yield Sample(cls(axes=()), (f32(2, 3),))
        yield Sample(cls(axes=(0,)), (f32(0, 3),))
