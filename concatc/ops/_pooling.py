"""What the pooling ops share: windows over height and width."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Const, Expr, all_of, select
from concatc.loops.windows import Slide, window_count
from concatc.op import Op, ShapeError
from concatc.ops._checks import check_float

Pair = tuple[int, int]


class PoolOp(Op, abstract=True):
    """Windows of ``kernel`` elements every ``stride`` over an image padded by ``pad``."""

    kernel: Pair
    stride: Pair
    pad: Pair = (0, 0)
    ceil: bool = False

    def geometry(self) -> dict[str, Any]:
        """The shared attributes, to hand on to the gradient op."""
        return {"kernel": self.kernel, "stride": self.stride, "pad": self.pad, "ceil": self.ceil}

    @property
    def place_dtype(self) -> str:
        """The element type of a place within a window, counted row by row."""
        return "i8" if self.kernel[0] * self.kernel[1] <= 128 else "i32"

    def slides(self, image: Sequence[int]) -> tuple[Slide, Slide]:
        """The windows along height and width."""
        y, x = (
            Slide(size, kernel, stride, pad, 1, window_count(size, kernel, stride, pad, ceil=self.ceil))
            for size, kernel, stride, pad in zip(image, self.kernel, self.stride, self.pad, strict=True)
        )
        return y, x

    def pooled(self, x: TensorType) -> TensorType:
        """The type of the result; raises :class:`ShapeError`."""
        if x.rank != 4:
            raise ShapeError(f"{self.name} reads [n, channels, height, width]; {{0}} is {x}, of rank {x.rank}")
        check_float(self.name, x)
        for name, numbers in (("kernel", self.kernel), ("stride", self.stride)):
            if min(numbers) < 1:
                raise ShapeError(f"{self.name}: `{name}` must be at least 1, not {min(numbers)}")
        for kernel, pad in zip(self.kernel, self.pad, strict=True):
            if not 0 <= pad < kernel:
                raise ShapeError(
                    f"{self.name}: `pad` must be at least 0 and less than the kernel; it is {pad} with kernel {kernel}"
                )
        counts = [slide.count for slide in self.slides(x.shape[2:])]
        if min(counts) < 1:
            sizes = f"{_by(x.shape[2:])} with pad {_by(self.pad)}"
            raise ShapeError(
                f"{self.name}: kernel {_by(self.kernel)} does not fit {{0}}, {sizes}",
                help="a smaller kernel or more padding",
            )
        return x.with_shape((*x.shape[:2], *counts))

    def canvas(self, image: Sequence[int]) -> Pair:
        """Height and width that hold the image, its padding and every whole window."""
        rows, columns = (
            max(slide.size + 2 * slide.pad, (slide.count - 1) * slide.stride + slide.kernel)
            for slide in self.slides(image)
        )
        return rows, columns

    def inner(self, image: Sequence[int]) -> tuple[slice, slice]:
        """Where the image lies on the canvas."""
        rows, columns = (slice(pad, pad + size) for size, pad in zip(image, self.pad, strict=True))
        return rows, columns

    def taps(self, image: Sequence[int]) -> Iterator[tuple[Pair, tuple[slice, slice]]]:
        """Each position within a window, row by row, and the slices of the canvas that it meets."""
        slides = self.slides(image)
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            rows, columns = (
                slice(t, t + (slide.count - 1) * slide.stride + 1, slide.stride)
                for t, slide in zip(tap, slides, strict=True)
            )
            yield (tap[0], tap[1]), (rows, columns)


def covering_axes(slides: Sequence[Slide]) -> tuple[tuple[Axis, ...], tuple[Expr, Expr]]:
    """The loops over the windows that cover one input, and their indices; no loop where at most one does."""
    indices: list[Expr] = []
    loops: list[Axis] = []
    for name, slide in zip(("r", "s"), slides, strict=True):
        if slide.overlap == 1:
            indices.append(Const(0, "index"))
            continue
        loops.append(Axis(name, slide.overlap, "reduce"))
        indices.append(loops[-1])
    return tuple(loops), (indices[0], indices[1])


def if_reached(slides: Sequence[Slide], windows: Sequence[Expr], image: Sequence[Expr], value: Expr) -> Expr:
    """``value`` where the element of the image lies within the windows, else 0."""
    reached = all_of(*(slide.reaches(o, i) for slide, o, i in zip(slides, windows, image, strict=True)))
    return value if reached is None else select(reached, value, 0.0)


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))
