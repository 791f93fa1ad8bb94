"""``conv_input_grad``: the gradient of a convolution with respect to its image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref
from concatc.loops.pieces import Piece
from concatc.loops.windows import guarded
from concatc.op import Sample, f32
from concatc.ops.conv import ConvOp, Pair, in_group


class ConvTransposed(ConvOp, abstract=True):
    """The linear map that is the transpose of ``conv``: it spreads each window over the image."""

    def spread(self, dy: np.ndarray, w: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Values: ``dy`` is ``[n, o, windows..]``, the result ``[n, c, size..]``."""
        n, _, *windows = dy.shape
        weight = w.reshape(self.groups, -1, *w.shape[1:])
        channels = self.groups * w.shape[1]
        dx = np.zeros((n, channels, size[0] + 2 * self.pad[0], size[1] + 2 * self.pad[1]), dy.dtype)
        grouped = self.grouped(dy)
        for (a, b), (rows, columns) in self.taps(w.shape[2:], windows):
            back = np.swapaxes(weight[..., a, b], -1, -2) @ grouped
            dx[:, :, rows, columns] += back.reshape(n, channels, *windows)
        (top, left), (height, width) = self.pad, size
        return np.ascontiguousarray(dx[:, :, top : top + height, left : left + width])

    def spread_piece(self, dy: Ref, w: Ref, dx: Ref) -> Piece:
        """The same in gather form: each image element sums over the windows that cover it."""
        group = self.group_axis()
        n, c = Axis("n", dx.shape[0]), Axis("c", dx.shape[1] // self.groups)
        i, j = Axis("i", dx.shape[2]), Axis("j", dx.shape[3])
        o = Axis("o", dy.shape[1] // self.groups, "reduce")
        a, b = Axis("a", w.shape[2], "reduce"), Axis("b", w.shape[3], "reduce")
        rows, columns = self.slides(dx.shape[2:], w.shape[2:], dy.shape[2:])
        channel = in_group(o, group, o.extent)
        window = guarded(dy, (n, channel), (rows.window(i, a), columns.window(j, b)))
        at = (n, in_group(c, group, c.extent), i, j)
        return Piece(dx, (n, *group, c, i, j, o, a, b), at, window * w[channel, c, a, b], combine="add")


class ConvInputGrad(ConvTransposed):
    """``dx[n, c, i, j] = sum_{o, a, b} dy[n, o, (i + pad - a * dilation) / stride, ..] * weight[o, c, a, b]``, over
    the taps for which the division has no remainder and the window exists.  ``image`` is the height and width of x.
    """

    internal = True
    operands = ("dy", "weight")
    image: Pair

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        dy, w = xs
        return [dy.with_shape((dy.shape[0], self.groups * w.shape[1], *self.image))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        dy, w = xs
        return [self.spread(dy, w, self.image)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        dy, w = xs
        yield self.spread_piece(dy, w, ys[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(image=(4, 5), pad=(1, 1)), (f32(2, 3, 4, 5), f32(3, 2, 3, 3)))
        yield Sample(cls(image=(7, 6), stride=(2, 3), pad=(1, 0)), (f32(1, 2, 4, 2), f32(2, 2, 3, 2)))
        yield Sample(cls(image=(8, 5), stride=(3, 3)), (f32(1, 1, 3, 2), f32(1, 2, 2, 2)))
        yield Sample(cls(image=(5, 5), pad=(2, 0), dilation=(2, 2)), (f32(1, 2, 5, 1), f32(2, 1, 3, 3)))
        yield Sample(cls(image=(5, 4), groups=2, stride=(2, 1)), (f32(1, 4, 2, 3), f32(4, 3, 2, 2)))
