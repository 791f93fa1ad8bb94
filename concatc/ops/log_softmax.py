"""``log_softmax`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.loops.expr import Axis, Ref, exp, log
from concatc.loops.pieces import Piece, axes_for, temp
from concatc.op import Builder
from concatc.ops._checks import without
from concatc.ops._softmax import AlongAxis, AlongAxisGrad, row_axes, row_stages


class LogSoftmax(AlongAxis):
    """``y[c] = x[c] - log sum_k exp(x[k])`` along ``axis``.

    Shapes: any -> the same.  The largest score of a row is subtracted first, so no finite score overflows; a row that
    holds a NaN, or only -inf, is NaN.  Gradient: ``dx[c] = dy[c] - exp(y[c]) * sum_k dy[k]``.
    """

    example = "h = log_softmax(logits)"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        shifted = x - np.max(x, axis=self.axis, keepdims=True, initial=-np.inf)
        return [np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=self.axis, keepdims=True, dtype=x.dtype)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.log_softmax_grad(ys[0], dys[0], axis=self.axis)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        top, total, stages = row_stages(x, self.axis)
        yield from stages
        at = axes_for(x.shape)
        rows = without(at, self.axis)
        yield Piece(ys[0], at, at, x[at] - top[rows] - log(total[rows]))


class LogSoftmaxGrad(AlongAxisGrad):
    """``dx[c] = dy[c] - exp(y[c]) * sum_k dy[k]`` along ``axis``."""

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        y, dy = xs
        return [np.asarray(dy - np.exp(y) * np.sum(dy, axis=self.axis, keepdims=True, dtype=y.dtype))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        y, dy = xs
        rows, c = row_axes(y, self.axis), Axis("c", y.shape[self.axis], "reduce")
        along = temp(0, without(y.shape, self.axis), y.dtype)
        yield Piece(along, (*rows, c), rows, dy[(*rows[: self.axis], c, *rows[self.axis :])], combine="add")
        at = axes_for(y.shape)
        yield Piece(ys[0], at, at, dy[at] - exp(y[at]) * along[without(at, self.axis)])
