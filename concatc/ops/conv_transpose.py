"""``conv_transpose``: the transpose of a convolution as a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.initial_values import XAVIER
from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece
from concatc.op import Builder, CallSite, Sample, ShapeError, f32
from concatc.ops.conv import Pair, image_check
from concatc.ops.conv_input_grad import ConvTransposed


class ConvTranspose(ConvTransposed):
    """The transpose of ``conv``: each input element adds ``x * weight`` to the window that ``conv`` would read.

    ``y[n, o, i, j] = sum_{c, a, b} x[n, c, (i + pad - a * dilation) / stride, ..] * weight[c, o, a, b] (+ bias[o])``,
    over the taps for which the division has no remainder and the element exists.

    Shapes: ``[n, c, h, w]`` -> ``[n, channels, h', w']`` with
    ``h' = (h - 1) stride - 2 pad + dilation (kernel - 1) + 1 + output_pad``; ``weight`` is
    ``[c, channels / groups, kernel, kernel]`` (xavier; its fan-in is ``c / groups kernel^2 / stride^2``, the products
    in one output), ``bias`` is ``[channels]`` (zero).  ``output_pad`` (less than the stride) adds rows below and
    columns to the right, for the sizes that a strided ``conv`` maps to the same.  The conventions are PyTorch's.

    Gradients: ``dx = conv(dy, weight)``, ``dweight = conv_weight_grad(x, dy)`` (Dumoulin & Visin 2016, section 4).
    """

    example = "h = image |> conv_transpose(8, kernel=2, stride=2)"
    operands = ("x",)
    size = "channels"
    params = ("weight", "bias")
    output_pad: Pair = (0, 0)

    @classmethod
    def build(
        cls,
        site: CallSite,
        *xs: Value,
        channels: int,
        kernel: Pair,
        stride: Pair = (1, 1),
        pad: Pair = (0, 0),
        output_pad: Pair = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
    ) -> Value:
        (x,) = xs
        op = cls(stride=stride, pad=pad, output_pad=output_pad, dilation=dilation, groups=groups)
        op.check_call(x.tensor, channels, kernel)
        shape = (x.shape[1], channels // groups, *kernel)
        fan_in = max(1, x.shape[1] // groups * kernel[0] * kernel[1] // (stride[0] * stride[1]))
        weight = site.param("weight", shape, XAVIER, x.dtype, fan_in=fan_in)
        return op.emit_biased(site, x, weight, channels)

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, w = xs
        image_check("conv_transpose", x)
        if w.rank != 4:
            raise ShapeError(f"conv_transpose: a weight is [inputs, channels, height, width], not {w}")
        self.check(xs, w.shape[2:])
        if w.shape[0] != x.shape[1]:
            raise ShapeError(f"conv_transpose: {{0}} has {x.shape[1]} channels, but its weight {w} reads {w.shape[0]}")
        if x.shape[1] % self.groups:
            raise ShapeError(f"conv_transpose: {x.shape[1]} channels cannot be cut into {self.groups} groups")
        if any(not 0 <= extra < stride for extra, stride in zip(self.output_pad, self.stride, strict=True)):
            raise ShapeError(
                f"conv_transpose: `output_pad` must be at least 0 and less than the stride; "
                f"it is {list(self.output_pad)} with stride {list(self.stride)}"
            )
        sizes = tuple(
            (n - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1 + extra
            for n, stride, pad, dilation, kernel, extra in zip(
                x.shape[2:], self.stride, self.pad, self.dilation, w.shape[2:], self.output_pad, strict=True
            )
        )
        if min(sizes) < 1:
            raise ShapeError(
                f"conv_transpose of {{0}}, {x.shape[2]}x{x.shape[3]}, would have the size {sizes[0]}x{sizes[1]}",
                help="a smaller pad, or a larger kernel",
            )
        return [x.with_shape((x.shape[0], w.shape[1] * self.groups, *sizes))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, w = xs
        return [self.spread(x, w, self.infer([TensorType(v.shape) for v in xs])[0].shape[2:])]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, w = xs
        # dw before dx: it reads x for the last time, so dx may take the bytes of x.
        dw = b.conv_weight_grad(x, dys[0], kernel=w.shape[2:], **self.geometry()) if needs[1] else None
        dx = b.conv(dys[0], w, **self.geometry()) if needs[0] else None
        return [dx, dw]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, w = xs
        yield self.spread_piece(x, w, ys[0])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(stride=(2, 2)), (f32(2, 3, 3, 2), f32(3, 2, 2, 2)))
        yield Sample(cls(pad=(1, 1)), (f32(1, 2, 4, 3), f32(2, 3, 3, 3)))
        yield Sample(cls(stride=(3, 2), pad=(1, 0), output_pad=(2, 1)), (f32(1, 2, 3, 2), f32(2, 2, 3, 2)))
        yield Sample(cls(dilation=(2, 1), stride=(1, 2), pad=(2, 1)), (f32(1, 1, 4, 3), f32(1, 2, 3, 4)))
        yield Sample(cls(groups=2, stride=(2, 2)), (f32(1, 4, 2, 3), f32(4, 3, 3, 1)))
