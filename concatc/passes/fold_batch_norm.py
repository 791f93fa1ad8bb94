"""``fold-batch-norm``: the weights of a convolution take up the batch norm behind it, in inference.

    %y = "cnet.conv"(%x, %w)                               %f = weight / sqrt(var + eps)       a number a channel
    %h = "cnet.normalize"(%y, %mean, %var)                 %v = "cnet.scale"(%w, %f) {axis = 0}
    %s = "cnet.scale"(%h, %weight) {axis = 1}         ->   %b = bias - mean f
    %z = "cnet.bias"(%s, %bias) {axis = 1}                 %y = "cnet.conv"(%x, %v)
                                                           %z = "cnet.bias"(%y, %b) {axis = 1}

With f = weight / sqrt(var + eps), a channel of the result at a time:
(conv(x, w) - mean) / sqrt(var + eps) weight + bias = conv(x, f w) + (bias - mean f).  With a bias c of the convolution
it is bias + (c - mean) f.  Folded weights are values of the step, made of parameters and statistics whenever it runs:
they are never stale.

Only where

- statistics are states, and weight, bias and the convolution's weight and bias are arguments: in training statistics
  are those of the batch, made by `channel_stats`;
- nothing else reads what the convolution makes, nor the values in between; blobs that are kept stay as they are;
- nothing else reads its weight, which would be there twice;
- it pays for one image, so that every batch size has one graph: what is folded, once a step, are at most twice as many
  weights as one image of the result has elements, each of which takes one addition then where it took four operations.
  A linear layer has more weights than that, always.

Invariant: no convolution is read by a batch norm alone where these conditions hold.  Values are the same but for
rounding.  The net says what was folded and what was not: ``cnet.joined``.  For graphs without a backward half; splits
do not hide anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.rewrite import Pattern, Rewriter
from concatc.op import Builder, is_op, op_of
from concatc.ops.normalize import Normalize
from concatc.passes.graph import is_backward
from concatc.passes.patterns import builder_before, made_by, rewrite_function
from concatc.passes.rows import say

# The axis of a weight that counts channels of the result.
CHANNELS = {"cnet.conv": 0, "cnet.conv_transpose": 1}
# Weights folded for one result of an image: as long as the batch norm of one image takes.
MOST_WEIGHTS = 2


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold batch norms into the weights of convolutions."""

    name = "fold-batch-norm"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        for func in module.functions:
            if func.declared is None and not any(is_backward(op) for op in func.ops):
                _fold(func)


def _fold(func: FuncOp) -> None:
    lines: dict[str, None] = {}
    rewrite_function(func, [BatchNormOfConv(lines)])
    say(func, lines)


class BatchNormOfConv(Pattern):
    """``bias(scale(normalize(bias(conv(x, w), c), m, v), g), b) -> bias(conv(x, w f), b + (c - m) f)`` with
    ``f = g / sqrt(v + eps)``   when everything but ``x`` is an argument, nothing else reads ``w`` or what stands
    between, and ``w`` has at most twice as many elements as one image of the result.  Without ``c``, ``g`` or ``b``
    likewise.
    """

    roots = ("cnet.normalize",)

    def __init__(self, lines: dict[str, None]) -> None:
        self.lines = lines

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        found = _batch_norm_of(op, rw)
        if found is None:
            return False
        if (reason := _read_elsewhere(found)) is not None:
            self.lines[f"batch norm of %{found.last.result.name} is not folded into the convolution: {reason}"] = None
            return False
        weight, result = found.conv.operands[1], found.last.result
        weights, elements = weight.tensor.numel, math.prod(result.shape[1:])
        sizes = f"{weights} weights, {elements} results an image"
        if weights > MOST_WEIGHTS * elements:
            self.lines[f"batch norm of %{result.name} is not folded into %{weight.name}: {sizes}"] = None
            return False
        self.lines[f"batch norm of %{result.name} is folded into %{weight.name}: {sizes}"] = None
        b = builder_before(found.last, rw)
        factor, shift = _affine(found, b)
        b.loc = found.conv.loc
        folded = b.scale(weight, factor, axis=CHANNELS[found.conv.name], names=[f"{weight.name}.folded"])
        (y,) = b.emit(op_of(found.conv), [found.conv.operands[0], folded], [found.conv.result.name])
        b.loc = found.last.loc
        rw.replace(found.last, [b.bias(y, shift, axis=1, names=[result.name])])
        return True


@dataclass(frozen=True)
class _BatchNorm:
    """A batch norm and the convolution that it reads; ``last`` makes its result."""

    conv: Operation
    conv_bias: Value | None
    normalize: Operation
    weight: Value | None
    bias: Value | None
    last: Operation


def _batch_norm_of(normalize: Operation, rw: Rewriter) -> _BatchNorm | None:
    """What stands around a normalisation by statistics that are arguments, where it reads a convolution."""
    given = made_by(rw, normalize.operands[0], "bias", "conv", "conv_transpose")
    conv_bias = None
    if given is not None and is_op(given, "bias"):
        if given.attributes.get("axis", 1) != 1 or given.operands[1].op is not None:
            return None
        conv_bias = given.operands[1]
        given = made_by(rw, given.operands[0], "conv", "conv_transpose")
    if given is None or not _may_scale(given):
        return None
    if any(statistic.op is not None for statistic in normalize.operands[1:]):
        return None
    last, weight, bias = normalize, None, None
    if (scale := _following(last, "scale", rw)) is not None:
        last, weight = scale, scale.operands[1]
    if (shift := _following(last, "bias", rw)) is not None:
        last, bias = shift, shift.operands[1]
    return _BatchNorm(given, conv_bias, normalize, weight, bias, last)


def _read_elsewhere(found: _BatchNorm) -> str | None:
    """What another layer reads, or the caller, as it is without the batch norm."""
    weight = found.conv.operands[1]
    if len(weight.uses) > 1:
        return f"%{weight.name} is the weight of other layers too"
    made = {found.conv.result: None, found.normalize.operands[0]: None}  # with a bias these are two
    return next((f"%{value.name} is read besides, or is an output" for value in made if len(value.uses) > 1), None)


def _may_scale(conv: Operation) -> bool:
    """Whether each channel of the result has weights of its own, along one axis, that are an argument."""
    weight = conv.operands[1]
    if weight.op is not None:
        return False
    return weight.shape[CHANNELS[conv.name]] == conv.result.shape[1]  # a transposed convolution in groups shares rows


def _following(op: Operation, name: str, rw: Rewriter) -> Operation | None:
    """The only reader of a result, where it is this op along channels with an argument."""
    if len(op.result.uses) != 1 or rw.makes_opaque(op):
        return None
    reader = op.result.uses[0].op
    if not is_op(reader, name) or reader.operands[0] is not op.result or rw.makes_opaque(reader):
        return None
    return reader if reader.attributes.get("axis", 1) == 1 and reader.operands[1].op is None else None


def _affine(found: _BatchNorm, b: Builder) -> tuple[Value, Value]:
    """A factor and a shift a channel: what the batch norm makes of what the convolution makes without its bias."""
    _, mean, var = found.normalize.operands
    stem = found.last.result.name
    deviation = b.sqrt(b.add_scalar(var, value=cast(Normalize, op_of(found.normalize)).eps))
    factor: Value = (
        b.rdiv_scalar(deviation, value=1.0, names=[f"{stem}.factor"])
        if found.weight is None
        else b.div(found.weight, deviation, names=[f"{stem}.factor"])
    )
    centre = b.neg(mean) if found.conv_bias is None else b.sub(found.conv_bias, mean)
    shift: Value = b.mul(centre, factor, names=[f"{stem}.shift"])
    return factor, shift if found.bias is None else b.add(shift, found.bias, names=[f"{stem}.shift"])
