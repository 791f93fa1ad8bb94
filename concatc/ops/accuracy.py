"""``accuracy``: how many rows have their label among the best scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, Size, cast, maximum, select, share_of, wrap
from concatc.loops.pieces import Piece, temp
from concatc.op import Builder, Op, Sample, ShapeError, f32, i32
from concatc.ops._checks import check_axis, check_float, check_labels, without
from concatc.ops._pointwise import Data
from concatc.ops._softmax import row_axes


class Accuracy(Op):
    """The fraction of rows whose label is among the ``top`` largest scores along ``axis``.

    Of equal scores the lower class is the better one, so ``top=1`` says whether the label is the argmax.  A row whose
    label has the score NaN is wrong, and any other NaN counts as better.  Rows with the label ``ignore`` do not
    count; the accuracy of no rows is 0.
    Shapes: ``x`` ``[.., classes, ..]`` (float), ``label`` ``[.., ..]`` (integer) -> ``[]``.  It has no gradient.
    """

    example = "output accuracy(logits, label) as top1"
    operands = ("x", "label")
    axis: int = 1
    top: int = 1
    ignore: int | None = None

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, label = xs
        check_axis("accuracy", self.axis, x)
        check_float("accuracy", x)
        check_labels("accuracy", x, label, self.axis)
        if not 1 <= self.top <= x.shape[self.axis]:
            raise ShapeError(f"accuracy: `top` is 1 to {x.shape[self.axis]}, the classes of {{0}}, not {self.top}")
        return [x.with_shape(())]

    def index_bounds(self, xs: Sequence[TensorType]) -> dict[int, tuple[int, int | None]]:
        return {1: (xs[0].shape[self.axis], self.ignore)}

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, label = xs
        rows = np.moveaxis(x, self.axis, -1)
        valid = np.ones(label.shape, bool) if self.ignore is None else label != self.ignore
        inside = (label >= 0) & (label < rows.shape[-1])
        at = np.where(inside, label, 0)[..., None]
        score = np.where(inside[..., None], np.take_along_axis(rows, at, -1), 0)
        classes = np.arange(rows.shape[-1])
        ties = (rows == score) & (classes < label[..., None])
        better = np.where(rows <= score, ties, classes != label[..., None])
        right = (np.sum(better, axis=-1) < self.top) & valid
        return [np.asarray(int(np.count_nonzero(right)) / max(int(np.count_nonzero(valid)), 1), x.dtype)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        if not needs[0]:
            return [None, None]
        raise ShapeError(
            "accuracy has no gradient, and a loss depends on it",
            help="`softmax_loss` has one; `output` reports an accuracy",
        )

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, label = xs
        one = wrap(1.0, x.dtype)
        rows, c = row_axes(x, self.axis), Axis("c", x.shape[self.axis], "reduce")
        better = temp(0, label.shape, x.dtype)
        index = cast(label[rows], "index")
        inside = (index >= 0) & (index < Size(x.shape[self.axis]))
        score = x.load((*rows[: self.axis], index, *rows[self.axis :]), where=inside)
        other = x[(*rows[: self.axis], c, *rows[self.axis :])]
        tie = select(other.eq(score) & (c < index), one, 0.0)
        yield Piece(better, (*rows, c), rows, select(other <= score, tie, select(c.ne(index), one, 0.0)), combine="add")
        right, count = temp(1, (), x.dtype), temp(2, (), x.dtype)
        folded = row_axes(x, self.axis, "reduce")
        hit = select(better[folded] < float(self.top), one, 0.0)
        if self.ignore is None:
            yield Piece(right, folded, (), hit, combine="add")
            yield Piece(ys[0], (), (), right[()] * share_of(max(label.type.numel, 1), x.dtype))
            return
        valid: Expr = label[folded].ne(self.ignore)
        yield Piece(right, folded, (), select(valid, hit, 0.0), combine="add")
        yield Piece(count, folded, (), select(valid, one, 0.0), combine="add")
        yield Piece(ys[0], (), (), right[()] / maximum(count[()], 1.0))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        flags = (False, False)
        yield Sample(cls(), (f32(7, 5), i32(7)), _data((7, 5), 1), flags)
        yield Sample(cls(top=3), (f32(7, 5), i32(7)), _data((7, 5), 1), flags)
        yield Sample(cls(ignore=-1), (f32(7, 5), i32(7)), _data((7, 5), 1, ignore=-1), flags)
        yield Sample(cls(axis=1), (f32(2, 3, 2, 2), i32(2, 2, 2)), _data((2, 3, 2, 2), 1), flags)
        yield Sample(cls(), (f32(0, 3), i32(0)), _data((0, 3), 1), flags)


def _data(shape: tuple[int, ...], axis: int, ignore: int | None = None) -> Data:
    def make(rng: np.random.Generator) -> list[np.ndarray]:
        label = np.asarray(rng.integers(0, shape[axis], size=without(shape, axis)), np.int32)
        if ignore is not None:
            label.flat[::3] = ignore
        return [rng.normal(size=shape), label]

    return make
