"""``softmax`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Axis, Ref, exp
from concatc.loops.pieces import Piece, axes_for, temp
from concatc.op import Builder
from concatc.ops._checks import without
from concatc.ops._softmax import AlongAxis, AlongAxisGrad, row_axes, row_stages


class Softmax(AlongAxis):
    """``y[c] = exp(x[c]) / sum_k exp(x[k])`` along ``axis``.

    Shapes: any -> the same.  The largest score of a row is subtracted first, so no finite score overflows; a row that
    holds a NaN, or only -inf, is NaN.  Gradient: ``dx[c] = y[c] * (dy[c] - sum_k dy[k] * y[k])``.
    """

    example = "p = softmax(logits)"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        e = np.exp(x - np.max(x, axis=self.axis, keepdims=True, initial=-np.inf))
        return [np.asarray(e / np.sum(e, axis=self.axis, keepdims=True, dtype=x.dtype))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.softmax_grad(ys[0], dys[0], axis=self.axis)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        top, total, stages = row_stages(x, self.axis)
        yield from stages
        at = axes_for(x.shape)
        rows = without(at, self.axis)
        yield Piece(ys[0], at, at, exp(x[at] - top[rows]) / total[rows])


class SoftmaxGrad(AlongAxisGrad):
    """``dx[c] = y[c] * (dy[c] - sum_k dy[k] * y[k])`` along ``axis``."""

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.asarray(y * (dy - np.sum(dy * y, axis=self.axis, keepdims=True, dtype=y.dtype)))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        y, dy = xs
        rows, c = row_axes(y, self.axis), Axis("c", y.shape[self.axis], "reduce")
        along = temp(0, without(y.shape, self.axis), y.dtype)
        row_at = (*rows[: self.axis], c, *rows[self.axis :])
        yield Piece(along, (*rows, c), rows, dy[row_at] * y[row_at], combine="add")
        at = axes_for(y.shape)
        yield Piece(ys[0], at, at, y[at] * (dy[at] - along[without(at, self.axis)]))
