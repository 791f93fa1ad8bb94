"""``split-loss-over-concat`` and ``merge-losses-over-concat``: one loss over joined batches, or one a branch.

    %h = "cnet.concat"(%a, %b) {axis = 0}             %sa, %sb = "cnet.slice"(%label) {axis = 0, sizes = [64, 32]}
    %y = "cnet.linear"(%h, %w)                        %ya = "cnet.linear"(%a, %w)
    %l = "cnet.softmax_loss"(%y, %label)     <->      %yb = "cnet.linear"(%b, %w)
                                                      %la = "cnet.softmax_loss"(%ya, %sa)
                                                      %lb = "cnet.softmax_loss"(%yb, %sb)
                                                      %l = 2/3 * %la + 1/3 * %lb

A mean over x + y rows is the mean over x rows times x/(x+y) plus the mean over y rows times y/(x+y); a sum needs no
weights.  Operations between concat and loss go along where they map rows one by one, which is derived from their
pieces.  Invariant: the loss and all gradients are the same but for rounding.

Not for ``reduction="valid"`` with an ``ignore``: how many labels are valid is known at run time only.  Both passes
rewrite the forward graph and leave a function that has its backward half alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from concatc.ir.core import Module, Operation, Value
from concatc.ir.rewrite import Pattern, Rewriter
from concatc.op import Builder, is_op, op_of
from concatc.ops.concat import Concat
from concatc.ops.mul_scalar import MulScalar
from concatc.ops.softmax_loss import SoftmaxLoss
from concatc.passes.concat_algebra import ConcatOfSlices, SliceOfConcat
from concatc.passes.graph import is_backward
from concatc.passes.patterns import builder_before, made_by, rewrite_function
from concatc.passes.rows import Apart, joined_name, row_operand, same_rows


@dataclass(frozen=True)
class SplitLossOverConcat:
    """From one loss over joined batches to one a branch."""

    name = "split-loss-over-concat"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        _rewrite_forward(module, [LossOfConcat(), SliceOfConcat()])


@dataclass(frozen=True)
class MergeLossesOverConcat:
    """From one loss a branch to one over joined batches."""

    name = "merge-losses-over-concat"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        _rewrite_forward(module, [SumOfLosses(), ConcatOfSame(), ConcatOfSlices()])


def _rewrite_forward(module: Module, patterns: Sequence[Pattern]) -> None:
    for func in module.functions:
        if func.declared is None and not any(is_backward(op) for op in func.ops):
            rewrite_function(func, patterns)


class LossOfConcat(Pattern):
    """``loss(f(concat(a, b)), label) -> wa * loss(f(a), label_a) + wb * loss(f(b), label_b)``   along axis 0, when
    ``f`` maps rows one by one, with ``wa = rows(a) / rows(a, b)`` for a mean over all rows, 1 for a sum.
    """

    roots = ("cnet.softmax_loss",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        loss = _loss(op)
        scores, label = op.operands
        if not _separable(loss) or scores.shape[0] == 0:
            return False
        chain = _rows_from_concat(rw, scores)
        if chain is None:
            return False
        concat, between = chain
        b = builder_before(op, rw)
        parts = list(concat.operands)
        for step in between:
            b_step = builder_before(step, rw)
            parts = [_on_part(step, part, k, b_step) for k, part in enumerate(parts)]
            rw.replace(step, [b_step.concat(*parts, axis=0, names=[step.result.name])])
        sizes = tuple(part.shape[0] for part in parts)
        labels = b.slice(label, axis=0, sizes=sizes, names=[f"{label.name}.part{k}" for k in range(len(sizes))])
        terms = []
        for k, (part, rows, part_label) in enumerate(zip(parts, sizes, labels, strict=True)):
            (term,) = b.emit(loss, [part, part_label], names=[f"{op.result.name}.part{k}"])
            if loss.reduction != "sum":
                term = b.mul_scalar(term, value=rows / scores.shape[0], names=[f"{op.result.name}.weighted{k}"])
            terms.append(term)
        total = terms[0]
        for term in terms[1:]:
            total = b.add(total, term)
        rw.replace(op, [total])
        return True


class SumOfLosses(Pattern):
    """``wa * loss(a, label_a) + wb * loss(b, label_b) -> loss(concat(a, b), concat(label_a, label_b))``   along axis 0,
    when the weights are those of :class:`LossOfConcat`.  A sum of more terms, from the left, is one loss at once.
    """

    roots = ("cnet.add",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        if any(is_op(use.op, "add") and use.index == 0 for use in op.result.uses):
            return False  # a part of a longer sum
        terms = [_weighted_loss(rw, term) for term in _terms(rw, op)]
        found = [term for term in terms if term is not None]
        if len(found) < len(terms) or any(not _separable(_loss(made)) for made, _ in found):
            return False
        first = _loss(found[0][0])
        rows = [made.operands[0].shape[0] for made, _ in found]
        wanted = [1.0 if first.reduction == "sum" else n / max(sum(rows), 1) for n in rows]
        if any(_loss(made) != first or abs(w - want) > 1e-12 for (made, w), want in zip(found, wanted, strict=True)):
            return False
        scores = [made.operands[0] for made, _ in found]
        labels = [made.operands[1] for made, _ in found]
        if any(s.shape[1:] != scores[0].shape[1:] or s.dtype != scores[0].dtype for s in scores):
            return False
        if any(label.dtype != labels[0].dtype for label in labels):
            return False
        b = builder_before(op, rw)
        joined = [b.concat(*values, axis=0, names=[joined_name(values)]) for values in (tuple(scores), tuple(labels))]
        rw.replace(op, b.emit(first, joined))
        return True


class ConcatOfSame(Pattern):
    """``concat(f(a, w), f(b, w)) -> f(concat(a, b), w)``   along axis 0, when ``f`` maps rows one by one and nothing
    else reads its results.  Without an operand such as ``w`` that both share, there is nothing to gain.
    """

    roots = ("cnet.concat",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        concat = op_of(op)
        assert isinstance(concat, Concat)
        same = same_rows(op.operands, rw.maker)
        if concat.axis != 0 or isinstance(same, Apart) or not same.shares:
            return False
        b = builder_before(op, rw)
        joined = b.concat(*same.parts, axis=0, names=[joined_name(same.parts)])
        operands = [joined if k == same.at else v for k, v in enumerate(same.first.operands)]
        rw.replace(op, b.emit(op_of(same.first), operands))
        return True


def _loss(op: Operation) -> SoftmaxLoss:
    loss = op_of(op)
    assert isinstance(loss, SoftmaxLoss)
    return loss


def _separable(loss: SoftmaxLoss) -> bool:
    """Whether the loss of joined rows is a sum over the parts with weights that are known now."""
    return loss.axis != 0 and (loss.reduction != "valid" or loss.ignore is None)


def _rows_from_concat(rw: Rewriter, value: Value) -> tuple[Operation, list[Operation]] | None:
    """The concat on axis 0 above ``value``, and the operations between, the uppermost first."""
    between: list[Operation] = []
    while True:
        concat = made_by(rw, value, "concat")
        if concat is not None:
            typed = op_of(concat)
            joins_rows = isinstance(typed, Concat) and typed.axis == 0
            return (concat, between[::-1]) if joins_rows else None
        step = rw.maker(value)
        at = None if step is None else row_operand(step)
        if step is None or at is None:
            return None
        between.append(step)
        value = step.operands[at]


def _on_part(op: Operation, part: Value, k: int, b: Builder) -> Value:
    at = row_operand(op)
    operands = [part if index == at else v for index, v in enumerate(op.operands)]
    (value,) = b.emit(op_of(op), operands, names=[f"{op.result.name}.part{k}"])
    return value


def _terms(rw: Rewriter, op: Operation) -> list[Value]:
    """What a chain of additions from the left adds, in order."""
    terms: list[Value] = []
    value = op.result
    while True:
        add = made_by(rw, value, "add")
        if add is None or (add is not op and len(value.uses) > 1):
            return [value, *terms]
        terms.insert(0, add.operands[1])
        value = add.operands[0]


def _weighted_loss(rw: Rewriter, value: Value) -> tuple[Operation, float] | None:
    """The loss in ``loss`` or ``w * loss``, and its weight, where nothing else reads either."""
    weight = 1.0
    scaled = made_by(rw, value, "mul_scalar")
    if scaled is not None and len(value.uses) == 1:
        typed = op_of(scaled)
        assert isinstance(typed, MulScalar)
        weight, value = typed.value, scaled.operands[0]
    loss = made_by(rw, value, "softmax_loss")
    if loss is None or len(value.uses) > 1:
        return None
    return loss, weight
