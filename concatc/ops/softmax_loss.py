"""``softmax_loss``: cross-entropy of integer labels under the softmax of scores, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, Size, cast, exp, log, maximum, select, share_of, wrap
from concatc.loops.pieces import Piece, axes_for, temp
from concatc.op import Builder, Op, Sample, f32, i32
from concatc.ops._checks import check_axis, check_float, check_labels, twice, without
from concatc.ops._softmax import row_axes, row_stages

Reduction = Literal["mean", "valid", "sum"]


class SoftmaxLoss(Op):
    """``loss = sum over rows of (log sum_c exp(x[c]) - x[label]) / n``: cross-entropy with integer labels.

    The classes lie along ``axis``; a row is what the other axes index.  ``reduction`` chooses ``n``:

    - ``"mean"``: the number of rows, ignored ones included (so that joined batches split with constant weights);
    - ``"valid"``: the number of rows whose label is not ``ignore``, at least 1 (PyTorch's mean; Caffe's VALID);
    - ``"sum"``: 1.

    A row whose label is ``ignore`` adds nothing and gets no gradient.  Shapes: ``x`` ``[.., classes, ..]`` (float),
    ``label`` ``[.., ..]`` (integer, 0 to classes - 1 or ``ignore``) -> ``[]``.  A label out of range is an error at
    run time.  The largest score of a row is subtracted first, so no finite score overflows.  NaN in a row that
    counts makes the loss NaN.  The loss of no rows is 0.
    Gradient: ``dx[c] = dy / n * (softmax(x)[c] - (c == label))``.
    """

    example = "loss softmax_loss(logits, label)"
    operands = ("x", "label")
    axis: int = 1
    reduction: Reduction = "mean"
    ignore: int | None = None

    @classmethod
    def doubt(cls, xs: Sequence[Value]) -> tuple[str, str] | None:
        return twice("softmax_loss", "softmax", xs[0])

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, label = xs
        check_float("softmax_loss", x)
        check_axis("softmax_loss", self.axis, x)
        check_labels("softmax_loss", x, label, self.axis)
        return [x.with_shape(())]

    def index_bounds(self, xs: Sequence[TensorType]) -> dict[int, tuple[int, int | None]]:
        return {1: (xs[0].shape[self.axis], self.ignore)}

    def row_factor(self, xs: Sequence[TensorType]) -> float | None:
        if self.axis == 0 or (self.reduction == "valid" and self.ignore is not None):
            return None  # the number of valid labels is known at run time only
        return 1.0 if self.reduction == "sum" else 1.0 / max(xs[1].numel, 1)

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, label = xs
        rows = np.moveaxis(x, self.axis, -1)
        valid = np.ones(label.shape, bool) if self.ignore is None else label != self.ignore
        top = np.max(rows, axis=-1, initial=-np.inf)
        total = np.log(np.sum(np.exp(rows - top[..., None]), axis=-1, dtype=x.dtype)) + top
        score = np.sum(np.where(np.arange(rows.shape[-1]) == label[..., None], rows, 0), axis=-1, dtype=x.dtype)
        loss = np.sum(np.where(valid, total - score, 0), dtype=x.dtype)
        return [np.asarray(loss / x.dtype.type(_count(self.reduction, valid)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, label = xs
        if not needs[0]:
            return [None, None]
        dx = b.softmax_loss_grad(x, label, dys[0], axis=self.axis, reduction=self.reduction, ignore=self.ignore)
        return [dx, None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, label = xs
        top, total, stages = row_stages(x, self.axis)
        yield from stages
        rows = row_axes(x, self.axis, "reduce")
        index = cast(label[rows], "index")
        inside = (index >= 0) & (index < Size(x.shape[self.axis]))
        # A label out of range is reported by the run-time check; here it must only not touch memory.
        score = x.load((*rows[: self.axis], index, *rows[self.axis :]), where=inside)
        loss = _where_valid(label[rows], self.ignore, log(total[rows]) + top[rows] - score)
        if self.reduction != "valid" or self.ignore is None:
            yield Piece(ys[0], rows, (), _shared(self.reduction, loss, label), combine="add")
            return
        loss_sum, valid = temp(2, (), x.dtype), temp(3, (), x.dtype)
        yield Piece(loss_sum, rows, (), loss, combine="add")
        yield _valid_piece(valid, label, rows, self.ignore)
        yield Piece(ys[0], (), (), loss_sum[()] / maximum(valid[()], 1.0))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 5), i32(4)), _data((4, 5), 1))
        yield Sample(cls(reduction="sum"), (f32(4, 5), i32(4)), _data((4, 5), 1))
        yield Sample(cls(ignore=-1), (f32(6, 3), i32(6)), _data((6, 3), 1, ignore=-1))
        yield Sample(cls(reduction="valid", ignore=2), (f32(6, 3), i32(6)), _data((6, 3), 1, ignore=2))
        yield Sample(cls(reduction="valid"), (f32(2, 3, 2, 2), i32(2, 2, 2)), _data((2, 3, 2, 2), 1))
        yield Sample(cls(axis=2), (f32(2, 3, 4), i32(2, 3)), _data((2, 3, 4), 2))
        yield Sample(cls(axis=0), (f32(3, 2), i32(2)), _data((3, 2), 0))
        yield Sample(cls(), (f32(0, 3), i32(0)), _data((0, 3), 1))


class SoftmaxLossGrad(Op):
    """``dx[c] = dy / n * (softmax(x)[c] - (c == label))``, 0 in ignored rows; softmax is computed anew."""

    internal = True
    operands = ("x", "label", "dy")
    axis: int = 1
    reduction: Reduction = "mean"
    ignore: int | None = None

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, label, _ = xs
        check_axis("softmax_loss_grad", self.axis, x)
        check_labels("softmax_loss_grad", x, label, self.axis)
        return [x]

    def index_bounds(self, xs: Sequence[TensorType]) -> dict[int, tuple[int, int | None]]:
        return {1: (xs[0].shape[self.axis], self.ignore)}

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, label, dy = xs
        rows = np.moveaxis(x, self.axis, -1)
        valid = np.ones(label.shape, bool) if self.ignore is None else label != self.ignore
        e = np.exp(rows - np.max(rows, axis=-1, initial=-np.inf, keepdims=True))
        p = e / np.sum(e, axis=-1, keepdims=True, dtype=x.dtype)
        p = p - (np.arange(rows.shape[-1]) == label[..., None])
        scale = dy / x.dtype.type(_count(self.reduction, valid))
        return [np.moveaxis(np.where(valid[..., None], p * scale, 0), -1, self.axis).astype(x.dtype)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, label, dy = xs
        top, total, stages = row_stages(x, self.axis)
        yield from stages
        scale: Expr = dy[()]
        if self.reduction == "valid" and self.ignore is not None:
            valid = temp(2, (), x.dtype)
            yield _valid_piece(valid, label, row_axes(x, self.axis, "reduce"), self.ignore)
            scale = scale / maximum(valid[()], 1.0)
        else:
            scale = _shared(self.reduction, scale, label)
        at = axes_for(x.shape)
        rows = without(at, self.axis)
        p = exp(x[at] - top[rows]) / total[rows]
        hit = cast(label[rows], "index").eq(at[self.axis])
        yield Piece(
            ys[0], at, at, _where_valid(label[rows], self.ignore, (p - select(hit, wrap(1.0, x.dtype), 0.0)) * scale)
        )

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 5), i32(4), f32()), _data((4, 5), 1, dy=True))
        yield Sample(cls(reduction="valid", ignore=1), (f32(6, 3), i32(6), f32()), _data((6, 3), 1, 1, dy=True))
        yield Sample(cls(axis=0, reduction="sum"), (f32(3, 2), i32(2), f32()), _data((3, 2), 0, dy=True))


def _count(reduction: Reduction, valid: np.ndarray) -> int:
    if reduction == "sum":
        return 1
    return max(int(np.count_nonzero(valid)) if reduction == "valid" else valid.size, 1)


def _shared(reduction: Reduction, value: Expr, label: Ref) -> Expr:
    """``value`` over the number of labels, which the reduction divides by."""
    return value if reduction == "sum" else value * share_of(max(label.type.numel, 1), value.dtype)


def _where_valid(label: Expr, ignore: int | None, value: Expr) -> Expr:
    return value if ignore is None else select(label.ne(ignore), value, 0.0)


def _valid_piece(valid: Ref, label: Ref, rows: tuple[Axis, ...], ignore: int) -> Piece:
    one = wrap(1.0, valid.dtype)
    return Piece(valid, rows, (), select(label[rows].ne(ignore), one, 0.0), combine="add")


def _data(
    shape: tuple[int, ...], axis: int, ignore: int | None = None, dy: bool = False
) -> Callable[[np.random.Generator], list[np.ndarray]]:
    def make(rng: np.random.Generator) -> list[np.ndarray]:
        label = np.asarray(rng.integers(0, shape[axis], size=without(shape, axis)), np.int32)
        if ignore is not None:
            label.flat[::3] = ignore
        return [rng.normal(size=shape), label, *([rng.normal(size=())] if dy else [])]

    return make
