"""``max_pool`` and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import NUMPY_DTYPES, TensorType
from concatc.loops.expr import Axis, Ref, cast, select
from concatc.loops.pieces import Piece, axes_for
from concatc.loops.windows import guarded
from concatc.op import Builder, CallSite, Sample, f32
from concatc.ops._pooling import Pair, PoolOp, covering_axes, if_reached


class MaxPool(PoolOp):
    """``y[n, c, i, j] = max of x[n, c, i * stride - pad + a, j * stride - pad + b]`` over ``a, b`` in ``0..kernel``,
    elements outside the image as minus infinity.  NaN wins.

    Shapes: ``[n, c, h, w]`` -> ``[n, c, h', w']`` with ``h' = (h + 2 pad - kernel) // stride + 1``; with ``ceil=true``
    the division rounds up, and a last window that would start at or beyond ``h + pad`` is dropped.  These are PyTorch's
    sizes.  Caffe rounds up, and drops the last window only where there is padding: it differs for strides greater than
    the kernel, where it keeps a window without elements.  ``stride`` defaults to ``kernel``; ``kernel``, ``stride`` and
    ``pad`` (less than the kernel) are a number or a pair ``[height, width]``.

    The op has a second result, ``index``: ``a * kernel width + b`` of the maximum, the first one in row order at ties;
    i8 where a window has at most 128 places, else i32.  The gradient goes to that element alone (``max_pool_grad``);
    where a window holds nothing but minus infinity, to its first place, which may be padding.
    """

    example = "h = image |> max_pool(3, stride=2, pad=1)"
    operands = ("x",)
    size = "kernel"

    @classmethod
    def build(
        cls,
        site: CallSite,
        *xs: Value,
        kernel: Pair,
        stride: Pair | None = None,
        pad: Pair = (0, 0),
        ceil: bool = False,
    ) -> Value:
        op = cls(kernel=kernel, stride=kernel if stride is None else stride, pad=pad, ceil=ceil)
        return site.b.emit(op, xs)[0]

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        y = self.pooled(xs[0])
        return [y, TensorType(y.shape, self.place_dtype)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        image = x.shape[2:]
        canvas = np.full((*x.shape[:2], *self.canvas(image)), -np.inf, x.dtype)
        canvas[:, :, *self.inner(image)] = x
        counts = [slide.count for slide in self.slides(image)]
        y = np.full((*x.shape[:2], *counts), -np.inf, x.dtype)
        index = np.zeros(y.shape, NUMPY_DTYPES[self.place_dtype])
        for (a, b), window in self.taps(image):
            value = canvas[:, :, *window]
            better = (value > y) | (np.isnan(value) & ~np.isnan(y))
            y = np.where(better, value, y)
            index = np.where(better, index.dtype.type(a * self.kernel[1] + b), index)
        return [y, index]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        if dys[0] is None:
            return [None]
        return [b.max_pool_grad(ys[1], dys[0], image=xs[0].shape[2:], **self.geometry())]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        rows, columns = self.slides(x.shape[2:])
        n, c, i, j = axes_for(ys[0].shape)
        a, b = Axis("a", rows.kernel, "reduce"), Axis("b", columns.kernel, "reduce")
        value = guarded(x, (n, c), (rows.source(i, a), columns.source(j, b)), other=float("-inf"))
        axes, at = (n, c, i, j, a, b), (n, c, i, j)
        yield Piece(ys[0], axes, at, value, combine="max")
        yield Piece(ys[1], axes, at, value, combine="argmax", index=cast(a * columns.kernel + b, ys[1].dtype))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for op, shape in (
            (cls(kernel=(2, 2), stride=(2, 2)), (2, 3, 4, 4)),
            (cls(kernel=(3, 3), stride=(2, 2), pad=(1, 1)), (1, 2, 7, 6)),
            (cls(kernel=(3, 2), stride=(1, 1), pad=(1, 0)), (1, 2, 4, 3)),
            (cls(kernel=(3, 3), stride=(2, 2), ceil=True), (1, 1, 6, 8)),
            (cls(kernel=(2, 3), stride=(3, 4), pad=(1, 2), ceil=True), (1, 1, 5, 7)),
            (cls(kernel=(3, 5), stride=(3, 5)), (2, 1, 3, 5)),
            (cls(kernel=(2, 2), stride=(2, 2)), (0, 3, 4, 4)),
            (cls(kernel=(16, 8), stride=(2, 3)), (1, 1, 18, 9)),
            (cls(kernel=(3, 43), stride=(1, 1)), (1, 2, 4, 44)),
        ):
            yield Sample(op, (f32(*shape),), data=_without_ties(shape))


class MaxPoolGrad(PoolOp):
    """``dx[n, c, i, j] = sum of dy`` over the windows whose maximum, by ``index``, is the element.

    In gather form: each element asks the windows that cover it, so nothing is scattered.  ``image`` is the height and
    width of x.
    """

    internal = True
    operands = ("index", "dy")
    image: Pair

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        dy = xs[1]
        return [dy.with_shape((*dy.shape[:2], *self.image))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        index, dy = xs
        dx = np.zeros((*dy.shape[:2], *self.canvas(self.image)), dy.dtype)
        for (a, b), window in self.taps(self.image):
            dx[:, :, *window] += np.where(index == a * self.kernel[1] + b, dy, dy.dtype.type(0))
        return [np.ascontiguousarray(dx[:, :, *self.inner(self.image)])]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        index, dy = xs
        rows, columns = slides = self.slides(self.image)
        n, c, i, j = axes_for(ys[0].shape)
        loops, (r, s) = covering_axes(slides)
        windows = (rows.covering(i, r), columns.covering(j, s))
        (o, _), (p, _) = windows
        position = (i + rows.pad - o * rows.stride) * columns.kernel + (j + columns.pad - p * columns.stride)
        # As i32: of a window that does not cover the element the position may be beyond those of i8.
        chosen = cast(guarded(index, (n, c), windows, other=-1), "i32").eq(cast(position, "i32"))
        value = if_reached(slides, (o, p), (i, j), select(chosen, guarded(dy, (n, c), windows), 0.0))
        yield Piece(ys[0], (n, c, i, j, *loops), (n, c, i, j), value, combine="add" if loops else "store")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for sample in MaxPool.samples():
            assert isinstance(sample.op, MaxPool)
            x, (y, index) = sample.types[0], sample.op.infer(sample.types)
            op = cls(image=(x.shape[2], x.shape[3]), **sample.op.geometry())
            yield Sample(op, (index, y), data=_index_and_gradient(sample))


def _without_ties(shape: tuple[int, ...]) -> Callable[[np.random.Generator], list[np.ndarray]]:
    def data(rng: np.random.Generator) -> list[np.ndarray]:
        numel = int(np.prod(shape))
        return [rng.permutation(numel).reshape(shape) * (4.0 / max(numel, 1)) - 2.0]

    return data


def _index_and_gradient(sample: Sample) -> Callable[[np.random.Generator], list[np.ndarray]]:
    def data(rng: np.random.Generator) -> list[np.ndarray]:
        y, index = sample.op.reference(*sample.operands(rng))
        return [index, rng.normal(size=y.shape)]

    return data
