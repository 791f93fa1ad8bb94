"""``average-first``: average an image before a 1x1 convolution mixes its channels, and not after.

    %y = "cnet.conv"(%x, %w)   1x1, 160 -> 160, 32x32          %p = "cnet.avg_pool"(%x) {kernel = [2, 2]}
    %z = "cnet.avg_pool"(%y) {kernel = [2, 2]}           ->    %z = "cnet.conv"(%p, %w)   1x1, 160 -> 160, 16x16

A 1x1 convolution adds channels of one pixel, an average pixels of one channel; sums over both may be made in either
order.  The convolution then sees the small image: a quarter of the arithmetic for 2x2, forward and in both gradients,
and its result and its gradient take a quarter of the memory (the transitions of DenseNet).

Invariant: no 1x1 convolution of stride 1 without padding is read by an average alone that makes the image smaller.
Values are the same but for rounding.  For graphs without a backward half; splits do not hide anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from concatc.ir.core import Module, Operation
from concatc.ir.rewrite import Pattern, Rewriter
from concatc.op import op_of
from concatc.ops.avg_pool import AvgPool
from concatc.ops.conv import Conv
from concatc.passes.graph import is_backward
from concatc.passes.patterns import builder_before, made_by, rewrite_function


@dataclass(frozen=True)
class AverageFirst:
    """Move averages in front of 1x1 convolutions."""

    name = "average-first"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        for func in module.functions:
            if func.declared is None and not any(is_backward(op) for op in func.ops):
                rewrite_function(func, PATTERNS)


class AvgPoolOfConv(Pattern):
    """``avg_pool(conv(x, w)) -> conv(avg_pool(x), w)``   when the convolution is 1x1, of stride 1 and without padding,
    nothing else reads it, and the average makes the image smaller.
    """

    roots = ("cnet.avg_pool",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        conv = made_by(rw, op.operands[0], "conv")
        if conv is None or len(conv.result.uses) > 1 or not _is_smaller(op) or not _mixes_channels(conv):
            return False
        x, w = conv.operands
        b = builder_before(op, rw)
        (averaged,) = b.emit(op_of(op), [x], [f"{op.result.name}.avg_pool"])
        rw.replace(op, b.emit(op_of(conv), [averaged, w], [op.result.name]))
        return True


class AvgPoolOfBias(Pattern):
    """``avg_pool(bias(y, b)) -> bias(avg_pool(y), b)``   when ``y`` is such a convolution, nothing else reads the bias,
    and no window has padding: the average of a constant is that constant.
    """

    roots = ("cnet.avg_pool",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        bias = made_by(rw, op.operands[0], "bias")
        if bias is None or len(bias.result.uses) > 1 or not _is_smaller(op):
            return False
        conv = made_by(rw, bias.operands[0], "conv")
        pool = cast(AvgPool, op_of(op))
        if conv is None or len(conv.result.uses) > 1 or not _mixes_channels(conv) or max(pool.pad) > 0:
            return False
        b = builder_before(op, rw)
        (averaged,) = b.emit(pool, [conv.result], [f"{op.result.name}.avg_pool"])
        rw.replace(op, b.emit(op_of(bias), [averaged, bias.operands[1]], [op.result.name]))
        return True


def _is_smaller(pool: Operation) -> bool:
    return pool.result.tensor.numel < pool.operands[0].tensor.numel


def _mixes_channels(op: Operation) -> bool:
    conv = cast(Conv, op_of(op))
    return op.operands[1].shape[2:] == (1, 1) and conv.stride == (1, 1) and max(conv.pad) == 0


PATTERNS: tuple[Pattern, ...] = (AvgPoolOfBias(), AvgPoolOfConv())
