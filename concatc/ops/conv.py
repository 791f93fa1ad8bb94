"""``conv``: two-dimensional convolution (cross-correlation) of ``[n, c, h, w]`` blobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from concatc.initial_values import XAVIER, constant
from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref
from concatc.loops.pieces import Piece
from concatc.loops.windows import Slide, guarded, window_count
from concatc.op import Builder, CallSite, Op, Sample, ShapeError, f32

Pair = tuple[int, int]


class ConvOp(Op, abstract=True):
    """What a convolution, its transpose and its gradients share: how windows slide over the two spatial axes."""

    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def geometry(self) -> dict[str, Any]:
        """The shared attributes, to hand on to another op of the family."""
        return {"stride": self.stride, "pad": self.pad, "dilation": self.dilation, "groups": self.groups}

    def slides(self, image: Sequence[int], kernel: Sequence[int], windows: Sequence[int]) -> tuple[Slide, Slide]:
        """The windows along height and width; ``image`` is the side that the windows slide over."""
        y, x = (
            Slide(*numbers)
            for numbers in zip(image, kernel, self.stride, self.pad, self.dilation, windows, strict=True)
        )
        return y, x

    def check(self, xs: Sequence[TensorType], kernel: Sequence[int]) -> None:
        """Raise :class:`ShapeError` for attributes that make no sense and operands that are not images."""
        positive = {"kernel": kernel, "stride": self.stride, "dilation": self.dilation, "groups": (self.groups,)}
        for name, numbers in positive.items():
            if min(numbers) < 1:
                raise ShapeError(f"{self.name}: `{name}` must be at least 1, not {min(numbers)}")
        if min(self.pad) < 0:
            raise ShapeError(f"{self.name}: `pad` must be at least 0, not {min(self.pad)}")
        if xs[0].dtype != xs[-1].dtype:
            raise ShapeError(f"{self.name}: {{0}} is {xs[0]}, but its weight is {xs[-1]}")

    def check_call(self, x: TensorType, channels: int, kernel: Sequence[int]) -> None:
        """Raise :class:`ShapeError` for a call that no weight could fit."""
        self.check((x,), kernel)
        image_check(self.name, x)
        if channels < 1:
            raise ShapeError(f"{self.name}: `channels` must be at least 1, not {channels}")
        for what, count in (("the channels of {0}", x.shape[1]), ("`channels`", channels)):
            if count % self.groups:
                raise ShapeError(f"{self.name}: {what}, {count}, cannot be cut into {self.groups} groups")

    def emit_biased(self, site: CallSite, x: Value, weight: Value, channels: int) -> Value:
        """The op, and the call's bias where it has one."""
        y = site.b.emit(self, (x, weight))[0]
        if not site.has_param("bias"):
            return y
        bias = site.param("bias", (channels,), constant(0.0), x.dtype)
        biased: Value = site.b.bias(y, bias, axis=1)
        return biased

    def taps(self, kernel: Sequence[int], windows: Sequence[int]) -> Iterator[tuple[Pair, tuple[slice, slice]]]:
        """Each tap, and the slices of the padded image that it meets, one element a window."""
        for tap in itertools.product(*(range(k) for k in kernel)):
            starts = [t * d for t, d in zip(tap, self.dilation, strict=True)]
            rows, columns = (
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, count, stride in zip(starts, windows, self.stride, strict=True)
            )
            yield (tap[0], tap[1]), (rows, columns)

    def padded(self, x: np.ndarray) -> np.ndarray:
        """The image with its padding of zeros."""
        return np.pad(x, ((0, 0), (0, 0), (self.pad[0],) * 2, (self.pad[1],) * 2))

    def grouped(self, x: np.ndarray) -> np.ndarray:
        """``[n, c, h, w]`` as ``[n, groups, c / groups, h * w]``."""
        n, c, h, w = x.shape
        return x.reshape(n, self.groups, c // self.groups, h * w)

    def group_axis(self) -> tuple[Axis, ...]:
        """The loop over groups; none for a single group, so that a plain convolution stays plain."""
        return (Axis("g", self.groups),) if self.groups > 1 else ()


def image_check(op: str, x: TensorType) -> None:
    """Raise :class:`ShapeError` unless the first operand is ``[n, c, h, w]``."""
    if x.rank != 4:
        raise ShapeError(
            f"{op} reads [n, channels, height, width]; {{0}} is {x}, of rank {x.rank}",
            help="reshape it to four axes" if x.rank > 1 else None,
        )


def in_group(axis: Expr, group: tuple[Axis, ...], size: int) -> Expr:
    """The channel ``axis`` of a group of ``size`` channels, counted over all groups."""
    return group[0] * size + axis if group else axis


class Conv(ConvOp):
    """``y[n, o, i, j] = sum_{c, a, b} x[n, c, i * stride + a * dilation - pad, ..] * weight[o, c, a, b] (+ bias[o])``.

    Elements outside the image are 0.  Shapes: ``[n, c, h, w]`` -> ``[n, channels, h', w']`` with
    ``h' = (h + 2 pad - dilation (kernel - 1) - 1) // stride + 1``; ``weight`` is
    ``[channels, c / groups, kernel, kernel]`` (xavier), ``bias`` is ``[channels]`` (zero).  With ``groups = g`` the
    channels of input and output are cut into ``g`` equal groups in order, and each group of outputs reads its group of
    inputs only.  ``kernel``, ``stride``, ``pad`` and ``dilation`` are a number for both axes or a pair
    ``[height, width]``.

    Gradients: ``conv_input_grad`` and ``conv_weight_grad``.  As in every deep-learning system the kernel is not flipped
    (LeCun et al. 1989; Dumoulin & Visin 2016 for the arithmetic of sizes).
    """

    example = "h = image |> conv(16, kernel=3, stride=2, pad=1) |> relu"
    operands = ("x",)
    size = "channels"
    params = ("weight", "bias")

    @classmethod
    def build(
        cls,
        site: CallSite,
        *xs: Value,
        channels: int,
        kernel: Pair,
        stride: Pair = (1, 1),
        pad: Pair = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
    ) -> Value:
        (x,) = xs
        op = cls(stride=stride, pad=pad, dilation=dilation, groups=groups)
        op.check_call(x.tensor, channels, kernel)
        weight = site.param("weight", (channels, x.shape[1] // groups, *kernel), XAVIER, x.dtype)
        return op.emit_biased(site, x, weight, channels)

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, w = xs
        image_check("conv", x)
        if w.rank != 4:
            raise ShapeError(f"conv: a weight is [channels, inputs, height, width], not {w}")
        self.check(xs, w.shape[2:])
        if w.shape[1] * self.groups != x.shape[1]:
            groups = f" times {self.groups} groups" if self.groups > 1 else ""
            raise ShapeError(f"conv: {{0}} has {x.shape[1]} channels, but its weight {w} reads {w.shape[1]}{groups}")
        if w.shape[0] % self.groups:
            raise ShapeError(f"conv: {w.shape[0]} channels cannot be cut into {self.groups} groups")
        counts = [
            window_count(*numbers)
            for numbers in zip(x.shape[2:], w.shape[2:], self.stride, self.pad, self.dilation, strict=True)
        ]
        if min(counts) < 1:
            raise ShapeError(*self._does_not_fit(x, w))
        return [x.with_shape((x.shape[0], w.shape[0], *counts))]

    def _does_not_fit(self, x: TensorType, w: TensorType) -> tuple[str, str]:
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, w.shape[2:], strict=True)]
        dilated = f", dilated to {_by(spans)}," if spans != list(w.shape[2:]) else ""
        message = (
            f"conv: kernel {_by(w.shape[2:])}{dilated} does not fit {{0}}, {_by(x.shape[2:])} with pad {_pad(self.pad)}"
        )
        fits = [max(p, -(-(s - n) // 2)) for p, s, n in zip(self.pad, spans, x.shape[2:], strict=True)]
        return message, f"pad={_pad(fits)} or a smaller kernel"

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, w = xs
        n, windows = x.shape[0], self.infer([TensorType(v.shape) for v in xs])[0].shape[2:]
        padded = self.padded(x)
        weight = w.reshape(self.groups, -1, *w.shape[1:])
        y = np.zeros((n, self.groups, weight.shape[1], windows[0] * windows[1]), x.dtype)
        for (a, b), (rows, columns) in self.taps(w.shape[2:], windows):
            y += weight[..., a, b] @ self.grouped(padded[:, :, rows, columns])
        return [y.reshape(n, w.shape[0], *windows)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, w = xs
        # dw before dx: it reads x for the last time, so dx may take the bytes of x.
        dw = b.conv_weight_grad(dys[0], x, kernel=w.shape[2:], **self.geometry()) if needs[1] else None
        dx = b.conv_input_grad(dys[0], w, image=x.shape[2:], **self.geometry()) if needs[0] else None
        return [dx, dw]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, w = xs
        (y,) = ys
        group = self.group_axis()
        n, o = Axis("n", y.shape[0]), Axis("o", y.shape[1] // self.groups)
        i, j = Axis("i", y.shape[2]), Axis("j", y.shape[3])
        c = Axis("c", w.shape[1], "reduce")
        a, b = Axis("a", w.shape[2], "reduce"), Axis("b", w.shape[3], "reduce")
        rows, columns = self.slides(x.shape[2:], w.shape[2:], y.shape[2:])
        image = guarded(x, (n, in_group(c, group, c.extent)), (rows.source(i, a), columns.source(j, b)))
        channel = in_group(o, group, o.extent)
        yield Piece(y, (n, *group, o, i, j, c, a, b), (n, channel, i, j), image * w[channel, c, a, b], combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(2, 3, 4, 5), f32(4, 3, 1, 1)))
        yield Sample(cls(pad=(1, 1)), (f32(2, 2, 5, 4), f32(3, 2, 3, 3)))
        yield Sample(cls(stride=(2, 2), pad=(1, 1)), (f32(1, 2, 7, 6), f32(2, 2, 3, 3)))
        yield Sample(cls(stride=(3, 2), pad=(0, 2)), (f32(1, 1, 8, 5), f32(2, 1, 2, 3)))
        yield Sample(cls(dilation=(2, 1), pad=(2, 1)), (f32(1, 2, 5, 5), f32(2, 2, 3, 3)))
        yield Sample(cls(stride=(2, 2), pad=(3, 3), dilation=(2, 2)), (f32(1, 1, 5, 6), f32(1, 1, 3, 3)))
        yield Sample(cls(groups=2, pad=(1, 1)), (f32(1, 4, 4, 4), f32(6, 2, 3, 3)))
        yield Sample(cls(groups=3, stride=(2, 1)), (f32(2, 3, 4, 3), f32(3, 1, 2, 2)))


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _pad(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[1] else f"[{numbers[0]}, {numbers[1]}]"
