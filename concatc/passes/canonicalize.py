"""``canonicalize``: one way to say a thing.

    %a = "cnet.reshape"(%x) {shape = [6, 4]}
    %b = "cnet.reshape"(%a) {shape = [24]}      ->      %b = "cnet.flatten"(%x) {axis = 0}
    %c = "cnet.concat"(%b)                              (readers of %c read %b)

Invariant: none of the patterns below applies.  Values do not change by a bit, with NaN, infinities and signed zeros:
``x * 1``, ``x - 0`` and ``-(-x)`` go; ``x + 0`` and sums over nothing stay (they turn -0 into 0), and so do products
of two factors (each rounds).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from concatc.ir.core import Module, Operation
from concatc.ir.rewrite import Pattern, Rewriter
from concatc.op import op_of
from concatc.ops.constant import Constant
from concatc.ops.mul_scalar import MulScalar
from concatc.ops.transpose import Transpose
from concatc.passes.patterns import builder_before, made_by, rewrite_module


@dataclass(frozen=True)
class Canonicalize:
    """Apply the patterns of this file until none applies."""

    name = "canonicalize"

    def run(self, module: Module) -> None:
        """Rewrite every function of the module in place."""
        rewrite_module(module, PATTERNS)


class JoinOfOne(Pattern):
    """``concat(x) -> x``, ``accumulate(x) -> x``, ``slice(x) -> x``   when there is one operand and one result."""

    roots = ("cnet.concat", "cnet.accumulate", "cnet.slice")

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        if len(op.operands) != 1 or len(op.results) != 1:
            return False
        rw.replace(op, op.operands)
        return True


class AccumulateOfAccumulate(Pattern):
    """``accumulate(accumulate(a, b), c) -> accumulate(a, b, c)``   when nothing else reads the inner one.

    Only the first operand: the order of additions is part of what accumulate means.
    """

    roots = ("cnet.accumulate",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        inner = made_by(rw, op.operands[0], "accumulate")
        if inner is None or len(inner.result.uses) > 1:
            return False
        rw.set_operands(op, [*inner.operands, *op.operands[1:]])
        return True


class ReshapeToItself(Pattern):
    """``reshape(x) -> x``, ``flatten(x) -> x``, ``expand(x) -> x``   when the shape stays the same."""

    roots = ("cnet.reshape", "cnet.flatten", "cnet.expand")

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        if op.operands[0].type != op.result.type:
            return False
        rw.replace(op, op.operands)
        return True


class ReshapeOfReshape(Pattern):
    """``reshape(reshape(x)) -> reshape(x)``, where a flatten is a reshape."""

    roots = ("cnet.reshape", "cnet.flatten")

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        inner = made_by(rw, op.operands[0], "reshape", "flatten")
        if inner is None:
            return False
        rw.replace(op, [builder_before(op, rw).reshape(inner.operands[0], shape=op.result.shape)])
        return True


class TransposeOfTranspose(Pattern):
    """``transpose(transpose(x, p), q) -> transpose(x, [p[d] for d in q])``."""

    roots = ("cnet.transpose",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        inner = made_by(rw, op.operands[0], "transpose")
        if inner is None:
            return False
        first, second = _perm(inner), _perm(op)
        perm = tuple(first[d] for d in second)
        rw.replace(op, [builder_before(op, rw).transpose(inner.operands[0], perm=perm)])
        return True


class TransposeToItself(Pattern):
    """``transpose(x, [0, 1, ..]) -> x``."""

    roots = ("cnet.transpose",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        if _perm(op) != tuple(range(op.result.tensor.rank)):
            return False
        rw.replace(op, op.operands)
        return True


class TransposeOfOnes(Pattern):
    """``transpose(x) -> reshape(x)``   when only axes of size 1 change their places."""

    roots = ("cnet.transpose",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        shape = op.operands[0].shape
        moved = [d for d in _perm(op) if shape[d] != 1]
        if moved != sorted(moved):
            return False
        rw.replace(op, [builder_before(op, rw).reshape(op.operands[0], shape=op.result.shape)])
        return True


class NegOfNeg(Pattern):
    """``neg(neg(x)) -> x``."""

    roots = ("cnet.neg",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        inner = made_by(rw, op.operands[0], "neg")
        if inner is None:
            return False
        rw.replace(op, inner.operands)
        return True


class ReluOfRelu(Pattern):
    """``relu(relu(x)) -> relu(x)``."""

    roots = ("cnet.relu",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        if made_by(rw, op.operands[0], "relu") is None:
            return False
        rw.replace(op, op.operands)
        return True


class MaxPoolOfRelu(Pattern):
    """``max_pool(relu(x)) -> relu(max_pool(x))`` and ``max_pool(concat(relu(x), relu(y))) ->
    relu(max_pool(concat(x, y)))``   when nothing else reads the inner relus and the concat, nothing reads where the
    maxima lie, and images are not empty.

    Every window holds an element of the image, so its maximum is positive on both sides, at the same place, or relu
    makes it 0 and lets no gradient through.  The backward pass then keeps the small result, not the whole image.
    """

    roots = ("cnet.max_pool",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        (x,) = op.operands
        value, index = op.results
        concat = made_by(rw, x, "concat")
        parts = concat.operands if concat is not None else (x,)
        if index.uses or x.tensor.numel == 0 or any(len(v.uses) > 1 for v in (x, *parts)):
            return False
        relus = [relu for part in parts if (relu := made_by(rw, part, "relu")) is not None]
        if len(relus) < len(parts):
            return False
        b = builder_before(op, rw)
        before = [relu.operands[0] for relu in relus]
        image = before[0] if concat is None else b.emit(op_of(concat), before, [f"{x.name}.max"])[0]
        maximum, place = b.emit(op_of(op), [image], [f"{value.name}.max", index.name])
        rw.replace(op, [b.relu(maximum), place])
        return True


class ScaleByOne(Pattern):
    """``x * 1 -> x``."""

    roots = ("cnet.mul_scalar",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        if _factor(op) != 1.0:
            return False
        rw.replace(op, op.operands)
        return True


class SignIntoFactor(Pattern):
    """``neg(x * c) -> x * -c``, ``neg(x) * c -> x * -c``, ``x * -1 -> neg(x)``."""

    roots = ("cnet.neg", "cnet.mul_scalar")

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        x = op.operands[0]
        b = builder_before(op, rw)
        if op.name == "cnet.mul_scalar" and _factor(op) == -1.0:
            rw.replace(op, [b.neg(x)])
            return True
        inner = made_by(rw, x, "mul_scalar") if op.name == "cnet.neg" else made_by(rw, x, "neg")
        if inner is None:
            return False
        factor = -_factor(inner if op.name == "cnet.neg" else op)
        rw.replace(op, [b.mul_scalar(inner.operands[0], value=factor)])
        return True


class AddNegativeZero(Pattern):
    """``x + -0 -> x``: what ``x - 0`` is.  ``x + 0`` stays."""

    roots = ("cnet.add_scalar",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        value = op.attributes["value"]
        if value != 0.0 or not isinstance(value, float) or math.copysign(1.0, value) > 0:
            return False
        rw.replace(op, op.operands)
        return True


class ShapeOfConstant(Pattern):
    """``reshape(c)``, ``transpose(c)``, ``expand(c) -> c``   of the new shape, for a constant."""

    roots = ("cnet.reshape", "cnet.flatten", "cnet.transpose", "cnet.expand")

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        constant = made_by(rw, op.operands[0], "constant")
        if constant is None:
            return False
        typed = op_of(constant)
        assert isinstance(typed, Constant)
        b = builder_before(op, rw)
        rw.replace(op, [b.constant(shape=op.result.shape, value=typed.value, dtype=typed.dtype)])
        return True


PATTERNS = (
    JoinOfOne(),
    AccumulateOfAccumulate(),
    ReshapeToItself(),
    ShapeOfConstant(),
    ReshapeOfReshape(),
    TransposeToItself(),
    TransposeOfTranspose(),
    TransposeOfOnes(),
    NegOfNeg(),
    ReluOfRelu(),
    MaxPoolOfRelu(),
    ScaleByOne(),
    SignIntoFactor(),
    AddNegativeZero(),
)


def _perm(op: Operation) -> tuple[int, ...]:
    typed = op_of(op)
    assert isinstance(typed, Transpose)
    return typed.perm


def _factor(op: Operation) -> float:
    typed = op_of(op)
    assert isinstance(typed, MulScalar)
    return typed.value
