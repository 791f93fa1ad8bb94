"""``channel_stats``: mean and variance of each channel, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref, share_of
from concatc.loops.pieces import Piece, pointwise, temp
from concatc.op import Builder, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_float


class ChannelStats(Op):
    """``mean[c] = 1/m sum x[n, c, ..]``,  ``var[c] = 1/m sum (x[n, c, ..] - mean[c])^2``  over the ``m`` elements of
    channel ``c``.

    Shapes: ``[n, c, ..]`` -> ``[c]`` and ``[c]``.  The variance is the biased one, in two passes (never
    ``E[x^2] - E[x]^2``, which cancels).  A channel has at least one element.

    Gradient: ``dx = (dmean[c] + 2 (x - mean[c]) dvar[c]) / m``; the mean's own part in the variance vanishes, because
    deviations from it add up to 0.
    """

    example = "mean, var = channel_stats(image)"

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        check_float("channel_stats", x)
        if x.rank < 2:
            raise ShapeError(f"channel_stats reads [n, channels, ..]; {{0}} is {x}, of rank {x.rank}")
        if per_channel(x.shape) == 0:
            raise ShapeError(f"channel_stats of {{0}}, {x}: a channel has no elements")
        return [x.with_shape((x.shape[1],))] * 2

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        others = (0, *range(2, x.ndim))
        mean = x.mean(axis=others, dtype=x.dtype)
        deviation = x - along_channels(mean, x.ndim)
        return [mean, np.square(deviation).mean(axis=others, dtype=x.dtype)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        dmean, dvar = (
            b.constant(shape=y.shape, value=0.0, dtype=y.dtype) if dy is None else dy
            for y, dy in zip(ys, dys, strict=True)
        )
        return [b.channel_stats_grad(xs[0], ys[0], dmean, dvar)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        mean, var = ys
        share = share_of(per_channel(x.shape), x.dtype)
        axes, channel = channel_loop(x.shape)
        total, squares = temp(0, mean.shape, x.dtype), temp(1, mean.shape, x.dtype)
        deviation = x[axes] - mean[channel]
        yield Piece(total, axes, (channel,), x[axes], combine="add")
        yield pointwise(mean, lambda c: total[c] * share)
        yield Piece(squares, axes, (channel,), deviation * deviation, combine="add")
        yield pointwise(var, lambda c: squares[c] * share)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 3),))
        yield Sample(cls(), (f32(2, 3, 4, 2),))
        yield Sample(cls(), (f32(2, 2, 2, 1, 3),))
        yield Sample(cls(), (f32(1, 2),))


class ChannelStatsGrad(Op):
    """``dx[n, c, ..] = (dmean[c] + 2 (x[n, c, ..] - mean[c]) dvar[c]) / m``."""

    internal = True
    operands = ("x", "mean", "dmean", "dvar")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, *per = xs
        mean, dmean, dvar = (along_channels(v, x.ndim) for v in per)
        share = x.dtype.type(1.0 / per_channel(x.shape))
        return [(dmean + 2 * (x - mean) * dvar) * share]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, mean, dmean, dvar = xs
        share = share_of(per_channel(x.shape), x.dtype)
        yield pointwise(ys[0], lambda *i: (dmean[i[1]] + 2.0 * (x[i] - mean[i[1]]) * dvar[i[1]]) * share)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(4, 3), f32(3), f32(3), f32(3)))
        yield Sample(cls(), (f32(2, 3, 2, 2), f32(3), f32(3), f32(3)))


def per_channel(shape: Sequence[int]) -> int:
    """The number of elements of a channel."""
    return shape[0] * math.prod(shape[2:])


def along_channels(v: np.ndarray, rank: int) -> np.ndarray:
    """``[c]`` in the shape that broadcasts against ``[n, c, ..]``."""
    return v.reshape(-1, *(1,) * (rank - 2))


def channel_loop(shape: Sequence[int]) -> tuple[tuple[Axis, ...], Axis]:
    """The loop over ``[n, c, ..]`` that folds everything but the channel; and the channel."""
    axes = tuple(Axis(f"i{d}", n, "parallel" if d == 1 else "reduce") for d, n in enumerate(shape))
    return axes, axes[1]
