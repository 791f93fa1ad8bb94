"""``average-first``: average an image before a 1x1 convolution mixes its channels, and not after.

    %y = "cnet.conv"(%x, %w)   1x1, 160 -> 160, 32x32          %p = "cnet.avg_pool"(%x) {kernel = [2, 2]}
    %z = "cnet.avg_pool"(%y) {kernel = [2, 2]}           ->    %z = "cnet.conv"(%p, %w)   1x1, 160 -> 160, 16x16

A 1x1 convolution adds channels of one pixel, an average pixels of one channel; sums over both may be made in either
order.  The convolution then sees the small image: a quarter of the arithmetic for 2x2, forward and in both gradients,
and its gradient takes a quarter of the memory (the transitions of DenseNet).  A convolution that makes few channels
of many stays in front: the average of the many would be larger than what it makes.

Invariant: no 1x1 convolution of stride 1 without padding is read by an average alone that makes the image smaller,
and whose own average would be no larger than the convolution's result.  Values are the same but for rounding.  For
graphs without a backward half; splits do not hide anything.
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
    nothing else reads it, and the averaged image is no larger than the convolution's result was.
    """

    roots = ("cnet.avg_pool",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        conv = made_by(rw, op.operands[0], "conv")
        if conv is None or len(conv.result.uses) > 1 or not _mixes_channels(conv) or not _gains(conv, op):
            return False
        x, w = conv.operands
        b = builder_before(op, rw)
        (averaged,) = b.emit(op_of(op), [x], [f"{conv.result.name}.avg_pool"])
        b.loc = conv.loc
        rw.replace(op, b.emit(op_of(conv), [averaged, w], [op.result.name]))
        return True


class AvgPoolOfBias(Pattern):
    """``avg_pool(bias(y, b)) -> bias(avg_pool(y), b)``   when ``y`` is such a convolution, nothing else reads the bias,
    and no window has padding: the average of a constant is that constant.
    """

    roots = ("cnet.avg_pool",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        bias = made_by(rw, op.operands[0], "bias")
        if bias is None or len(bias.result.uses) > 1:
            return False
        conv = made_by(rw, bias.operands[0], "conv")
        pool = cast(AvgPool, op_of(op))
        if conv is None or len(conv.result.uses) > 1 or not _mixes_channels(conv) or not _gains(conv, op):
            return False
        if max(pool.pad) > 0:
            return False
        b = builder_before(op, rw)
        (averaged,) = b.emit(pool, [conv.result], [f"{op.result.name}.conv"])
        b.loc = bias.loc
        rw.replace(op, b.emit(op_of(bias), [averaged, bias.operands[1]], [op.result.name]))
        return True


def _gains(conv: Operation, pool: Operation) -> bool:
    """Whether the image becomes smaller, and what is kept between the two not larger than it was."""
    x, y, z = conv.operands[0].tensor, conv.result.tensor, pool.result.tensor
    averaged = x.numel // max(y.numel // y.shape[1], 1) * (z.numel // z.shape[1]) if y.numel else 0
    return z.numel < y.numel and averaged <= y.numel


def _mixes_channels(op: Operation) -> bool:
    conv = cast(Conv, op_of(op))
    return op.operands[1].shape[2:] == (1, 1) and conv.stride == (1, 1) and max(conv.pad) == 0


PATTERNS: tuple[Pattern, ...] = (AvgPoolOfBias(), AvgPoolOfConv())
