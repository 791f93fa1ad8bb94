"""``avg_pool`` and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Const, Expr, Ref, cast, maximum
from concatc.loops.pieces import Piece, axes_for
from concatc.loops.windows import Slide, guarded
from concatc.op import Builder, CallSite, Sample, f32
from concatc.ops._pooling import Pair, PoolOp, covering_axes, if_reached


class AvgPoolOp(PoolOp, abstract=True):
    """The divisors, which ``avg_pool`` and its gradient share."""

    count_include_pad: bool = True

    def divisors(self, image: Sequence[int]) -> np.ndarray:
        """The number of elements of each window, ``[h', w']``."""
        rows, columns = (
            np.array([slide.extent_of(k, self.count_include_pad) for k in range(slide.count)])
            for slide in self.slides(image)
        )
        return np.outer(rows, columns)

    def share(self, slides: Sequence[Slide], windows: Sequence[Expr], dtype: str) -> Expr:
        """One over the number of elements of a window, as an expression."""
        rows, columns = (slide.extent(o, self.count_include_pad) for slide, o in zip(slides, windows, strict=True))
        if isinstance(rows, Const) and isinstance(columns, Const):
            return Const(1.0 / (rows.value * columns.value), dtype)
        # The gradient also asks for windows that are not there, behind a guard: those must not divide by 0.
        return 1.0 / cast(maximum(rows * columns, 1), dtype)


class AvgPool(AvgPoolOp):
    """``y[n, c, i, j] = 1/m sum of x[n, c, i * stride - pad + a, j * stride - pad + b]`` over ``a, b`` in
    ``0..kernel``, elements outside the image left out.

    ``m`` is the number of elements of the window that lie in the padded image (padding counts, what a last window of
    ``ceil=true`` has beyond it does not: Caffe's and PyTorch's rule); with ``count_include_pad=false`` only elements of
    the image count.

    Shapes: as in ``max_pool``, ``[n, c, h, w]`` -> ``[n, c, h', w']`` with ``h' = (h + 2 pad - kernel) // stride + 1``;
    with ``ceil=true`` the division rounds up, and a last window that would start at or beyond ``h + pad`` is dropped.
    ``stride`` defaults to ``kernel``; ``kernel``, ``stride`` and ``pad`` (less than the kernel) are a number or a pair
    ``[height, width]``.

    Gradient: ``dx[n, c, i, j]`` is the sum of ``dy / m`` over the windows that cover the element.
    """

    example = "h = image |> avg_pool(2)"
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
        count_include_pad: bool = True,
    ) -> Value:
        stride = kernel if stride is None else stride
        op = cls(kernel=kernel, stride=stride, pad=pad, ceil=ceil, count_include_pad=count_include_pad)
        return site.b.emit(op, xs)[0]

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [self.pooled(xs[0])]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        image = x.shape[2:]
        canvas = np.zeros((*x.shape[:2], *self.canvas(image)), x.dtype)
        canvas[:, :, *self.inner(image)] = x
        divisors = self.divisors(image)
        total = np.zeros((*x.shape[:2], *divisors.shape), x.dtype)
        for _, window in self.taps(image):
            total += canvas[:, :, *window]
        return [total / divisors.astype(x.dtype)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        geometry = {**self.geometry(), "count_include_pad": self.count_include_pad}
        return [b.avg_pool_grad(dys[0], image=xs[0].shape[2:], **geometry)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        rows, columns = slides = self.slides(x.shape[2:])
        n, c, i, j = axes_for(ys[0].shape)
        a, b = Axis("a", rows.kernel, "reduce"), Axis("b", columns.kernel, "reduce")
        image = guarded(x, (n, c), (rows.source(i, a), columns.source(j, b)))
        value = image * self.share(slides, (i, j), x.dtype)
        yield Piece(ys[0], (n, c, i, j, a, b), (n, c, i, j), value, combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(kernel=(2, 2), stride=(2, 2)), (f32(2, 3, 4, 4),))
        yield Sample(cls(kernel=(3, 3), stride=(2, 2), pad=(1, 1)), (f32(1, 2, 7, 6),))
        yield Sample(cls(kernel=(3, 2), stride=(1, 1), pad=(1, 0), count_include_pad=False), (f32(1, 2, 4, 3),))
        yield Sample(cls(kernel=(3, 3), stride=(2, 2), ceil=True), (f32(1, 1, 6, 8),))
        yield Sample(cls(kernel=(2, 3), stride=(3, 4), pad=(1, 2), ceil=True), (f32(1, 1, 5, 7),))
        yield Sample(
            cls(kernel=(3, 4), stride=(2, 2), pad=(2, 3), ceil=True, count_include_pad=False), (f32(1, 1, 4, 6),)
        )
        yield Sample(cls(kernel=(3, 5), stride=(3, 5)), (f32(2, 1, 3, 5),))
        yield Sample(cls(kernel=(2, 2), stride=(2, 2)), (f32(0, 3, 4, 4),))


class AvgPoolGrad(AvgPoolOp):
    """``dx[n, c, i, j] = sum of dy / m`` over the windows that cover the element, ``m`` as in ``avg_pool``.

    ``image`` is the height and width of x.
    """

    internal = True
    operands = ("dy",)
    image: Pair

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0].with_shape((*xs[0].shape[:2], *self.image))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (dy,) = xs
        share = dy / self.divisors(self.image).astype(dy.dtype)
        dx = np.zeros((*dy.shape[:2], *self.canvas(self.image)), dy.dtype)
        for _, window in self.taps(self.image):
            dx[:, :, *window] += share
        return [np.ascontiguousarray(dx[:, :, *self.inner(self.image)])]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (dy,) = xs
        rows, columns = slides = self.slides(self.image)
        n, c, i, j = axes_for(ys[0].shape)
        loops, (r, s) = covering_axes(slides)
        windows = (rows.covering(i, r), columns.covering(j, s))
        (o, _), (p, _) = windows
        value = guarded(dy, (n, c), windows) * self.share(slides, (o, p), dy.dtype)
        value = if_reached(slides, (o, p), (i, j), value)
        yield Piece(ys[0], (n, c, i, j, *loops), (n, c, i, j), value, combine="add" if loops else "store")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for sample in AvgPool.samples():
            assert isinstance(sample.op, AvgPool)
            x, (y,) = sample.types[0], sample.op.infer(sample.types)
            op = cls(
                image=(x.shape[2], x.shape[3]),
                count_include_pad=sample.op.count_include_pad,
                **sample.op.geometry(),
            )
            yield Sample(op, (y,))
