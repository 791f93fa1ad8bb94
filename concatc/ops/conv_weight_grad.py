"""``conv_weight_grad``: the gradient of a convolution with respect to its weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref
from concatc.loops.pieces import Piece
from concatc.loops.windows import guarded
from concatc.op import Sample, f32
from concatc.ops.conv import ConvOp, Pair, in_group


class ConvWeightGrad(ConvOp):
    """``dw[o, c, a, b] = sum_{n, i, j} dy[n, o, i, j] * x[n, c, i * stride + a * dilation - pad, ..]``, with 0 for
    elements of x outside the image.  ``kernel`` is the height and width of the weight.
    """

    internal = True
    operands = ("dy", "x")
    kernel: Pair

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        dy, x = xs
        return [x.with_shape((dy.shape[1], x.shape[1] // self.groups, *self.kernel))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        dy, x = xs
        windows = dy.shape[2:]
        outputs, inputs = dy.shape[1] // self.groups, x.shape[1] // self.groups
        padded, grouped = self.padded(x), self.grouped(dy)
        dw = np.empty((self.groups, outputs, inputs, *self.kernel), dy.dtype)
        for (a, b), (rows, columns) in self.taps(self.kernel, windows):
            image = self.grouped(padded[:, :, rows, columns])
            dw[..., a, b] = (grouped @ np.swapaxes(image, -1, -2)).sum(axis=0)
        return [dw.reshape(dy.shape[1], inputs, *self.kernel)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        dy, x = xs
        (dw,) = ys
        group = self.group_axis()
        o, c = Axis("o", dw.shape[0] // self.groups), Axis("c", dw.shape[1])
        a, b = Axis("a", dw.shape[2]), Axis("b", dw.shape[3])
        n = Axis("n", dy.shape[0], "reduce")
        i, j = Axis("i", dy.shape[2], "reduce"), Axis("j", dy.shape[3], "reduce")
        rows, columns = self.slides(x.shape[2:], self.kernel, dy.shape[2:])
        channel = in_group(o, group, o.extent)
        image = guarded(x, (n, in_group(c, group, c.extent)), (rows.source(i, a), columns.source(j, b)))
        at = (channel, c, a, b)
        yield Piece(dw, (*group, o, c, a, b, n, i, j), at, dy[n, channel, i, j] * image, combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(kernel=(3, 3), pad=(1, 1)), (f32(2, 3, 4, 5), f32(2, 2, 4, 5)))
        yield Sample(cls(kernel=(3, 2), stride=(2, 3), pad=(1, 0)), (f32(1, 2, 4, 2), f32(1, 2, 7, 6)))
        yield Sample(cls(kernel=(3, 3), pad=(2, 0), dilation=(2, 2)), (f32(1, 2, 5, 1), f32(1, 1, 5, 5)))
        yield Sample(cls(kernel=(2, 2), groups=2, stride=(2, 1)), (f32(1, 4, 2, 3), f32(1, 6, 5, 4)))
