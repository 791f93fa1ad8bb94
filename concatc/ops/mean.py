"""``mean`` over axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref, share_of
from concatc.loops.pieces import Piece
from concatc.op import Builder, CallSite, Op, Sample, f32
from concatc.ops._checks import check_axes, check_float
from concatc.ops._reduce import fold_axes, reduced_shape


class Mean(Op):
    """``y[rest] = sum over axes of x / n``, ``n`` the number of elements summed; ``axes`` defaults to all of them.

    Shapes: ``x`` less ``axes``; ``keepdims=true`` leaves size 1 in their place.  The mean of nothing is 0.
    Gradient: ``dx = dy / n``, repeated along ``axes``.
    """

    example = "h = mean(image, axes=[2, 3])"

    axes: tuple[int, ...]
    keepdims: bool = False

    @classmethod
    def build(cls, site: CallSite, *xs: Value, axes: tuple[int, ...] | None = None, keepdims: bool = False) -> Value:
        (x,) = xs
        y: Value = site.b.mean(x, axes=tuple(range(x.tensor.rank)) if axes is None else axes, keepdims=keepdims)
        return y

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_axes("mean", self.axes, xs[0])
        check_float("mean", xs[0])
        return [xs[0].with_shape(reduced_shape(xs[0].shape, self.axes, self.keepdims))]

    def row_factor(self, xs: Sequence[TensorType]) -> float | None:
        folds_all = not self.keepdims and len(self.axes) == xs[0].rank > 0
        return 1.0 / max(xs[0].numel, 1) if folds_all else None

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        total = np.sum(x, axis=self.axes, keepdims=self.keepdims, dtype=x.dtype)
        return [np.asarray(total / x.dtype.type(self._count(x.shape)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        if not self.axes:
            return [dys[0]]
        share = b.share(dys[0], count=self._count(xs[0].shape))
        return [b.expand(share, shape=xs[0].shape, axes=self.axes)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        axes, at = fold_axes(x.shape, self.axes, self.keepdims)
        yield Piece(ys[0], axes, at, x[axes] * share_of(self._count(x.shape), x.dtype), combine="add")

    def _count(self, shape: tuple[int, ...]) -> int:
        return max(math.prod(shape[d] for d in self.axes), 1)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(axes=(0, 1)), (f32(3, 4),))
        yield Sample(cls(axes=(1,)), (f32(2, 3, 4),))
        yield Sample(cls(axes=(2, 0), keepdims=True), (f32(2, 3, 4),))
        yield Sample(cls(axes=()), (f32(2, 3),))
        yield Sample(cls(axes=(0,)), (f32(0, 3),))
