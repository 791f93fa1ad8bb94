"""``split-loss-over-concat`` and ``merge-losses-over-concat``: one loss over joined batches, or one a branch.

    %h = "cnet.concat"(%a, %b) {axis = 0}             %sa, %sb = "cnet.slice"(%label) {axis = 0, sizes = [64, 32]}
    %y = "cnet.linear"(%h, %w)                        %ya = "cnet.linear"(%a, %w)
    %l = "cnet.softmax_loss"(%y, %label)     <->      %yb = "cnet.linear"(%b, %w)
                                                      %la = "cnet.softmax_loss"(%ya, %sa)
                                                      %lb = "cnet.softmax_loss"(%yb, %sb)
                                                      %l = 2/3 * %la + 1/3 * %lb

A mean over x + y rows is the mean over x rows times x/(x+y) plus the mean over y rows times y/(x+y); a sum needs no
weights.  Which operations are such sums, and with which factor, they say themselves (`Op.row_factor`).  Operations
between concat and loss go along where they map rows one by one, which is derived from their pieces.  Invariant: the
loss and all gradients are the same but for rounding.

Not for ``reduction="valid"`` with an ``ignore``: how many labels are valid is known at run time only.  Losses that stay
as they are are named with the reason, on the function, in ``cnet.joined``.  Both passes rewrite the forward graph and
leave a function that has its backward half alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.rewrite import Pattern, Rewriter
from concatc.op import Builder, Op, is_op, op_of
from concatc.ops.concat import Concat
from concatc.ops.mul_scalar import MulScalar
from concatc.passes.concat_algebra import ConcatOfSlices, SliceOfConcat
from concatc.passes.graph import is_backward, short_name
from concatc.passes.patterns import builder_before, made_by, rewrite_function
from concatc.passes.rows import Apart, is_known, joined_name, row_operand, rule_of, same_rows, say


@dataclass(frozen=True)
class SplitLossOverConcat:
    """From one loss over joined batches to one a branch."""

    name = "split-loss-over-concat"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        for func in _forward_functions(module):
            pattern = LossOfConcat(func)
            rewrite_function(func, [pattern, SliceOfConcat()])
            say(func, pattern.lines.values())


@dataclass(frozen=True)
class MergeLossesOverConcat:
    """From one loss a branch to one over joined batches."""

    name = "merge-losses-over-concat"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        for func in _forward_functions(module):
            pattern = SumOfLosses()
            rewrite_function(func, [pattern, ConcatOfSame(), ConcatOfSlices()])
            say(func, pattern.lines.values())


def _forward_functions(module: Module) -> list[FuncOp]:
    return [f for f in module.functions if f.declared is None and not any(is_backward(op) for op in f.ops)]


class LossOfConcat(Pattern):
    """``loss(f(concat(a, b)), label) -> wa * loss(f(a), label_a) + wb * loss(f(b), label_b)``   along axis 0, when
    ``f`` maps rows one by one and the loss is a sum over rows times a factor, with ``wa = factor(a, b) / factor(a)``:
    ``rows(a) / rows(a, b)`` for a mean over all rows, 1 for a sum.
    """

    def __init__(self, func: FuncOp) -> None:
        self.lines: dict[Operation, str] = {}
        self._losses = _losses(func)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        factor = _row_factor(op)
        if not _sums_rows(op) and op not in self._losses:
            return False
        if factor is None:
            return self._stays(op, "it is no sum over rows with weights that are known before it runs")
        if op.operands[0].shape[0] == 0:
            return self._stays(op, "it has no rows")
        chains = [_rows_from_concat(rw, x) if x.tensor.is_float else None for x in op.operands]
        first = next((chain for chain in chains if chain is not None), None)
        if first is None:
            return self._stays(
                op, "nothing that it reads comes from a concat of rows through what maps rows one by one"
            )
        sizes = tuple(part.shape[0] for part in first[0].operands)
        parts = [self._parts(op, k, sizes, rw) for k in range(len(op.operands))]
        b = builder_before(op, rw)
        terms = []
        for k, operands in enumerate(zip(*parts, strict=True)):
            (term,) = b.emit(op_of(op), operands, names=[f"{op.result.name}.part{k}"])
            assert term.op is not None
            of_part = _row_factor(term.op)
            weight = 0.0 if of_part is None else factor / of_part
            if weight != 1.0:
                term = b.mul_scalar(term, value=weight, names=[f"{op.result.name}.weighted{k}"])
            terms.append(term)
        total = terms[0]
        for term in terms[1:]:
            total = b.add(total, term)
        self.lines.pop(op, None)
        rw.replace(op, [total])
        return True

    def _stays(self, op: Operation, reason: str) -> bool:
        if op in self._losses:
            self.lines[op] = f"{short_name(op)} %{op.result.name} stays one loss: {reason}"
        return False

    def _parts(self, op: Operation, index: int, sizes: tuple[int, ...], rw: Rewriter) -> list[Value]:
        """An operand of the loss, in parts of these many rows."""
        value = op.operands[index]
        chain = _rows_from_concat(rw, value) if value.tensor.is_float else None
        if chain is None or tuple(x.shape[0] for x in chain[0].operands) != sizes:
            names = [f"{value.name}.part{k}" for k in range(len(sizes))]
            return list(builder_before(op, rw).slice(value, axis=0, sizes=sizes, names=names))
        concat, between = chain
        parts = list(concat.operands)
        for step in between:
            b = builder_before(step, rw)
            parts = [_on_part(step, part, k, b) for k, part in enumerate(parts)]
            rw.replace(step, [b.concat(*parts, axis=0, names=[step.result.name])])
        return parts


class SumOfLosses(Pattern):
    """``wa * loss(a, label_a) + wb * loss(b, label_b) -> loss(concat(a, b), concat(label_a, label_b))``   along axis 0,
    when the weights are those of :class:`LossOfConcat`.  A sum of more terms, from the left, is one loss at once.
    """

    roots = ("cnet.add",)

    def __init__(self) -> None:
        self.lines: dict[Operation, str] = {}

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        if any(is_op(use.op, "add") and use.index == 0 for use in op.result.uses):
            return False  # a part of a longer sum
        terms = [_weighted_loss(rw, term) for term in _terms(rw, op)]
        found = [term for term in terms if term is not None]
        if len(found) < len(terms):
            return False
        made = [loss for loss, _ in found]
        columns = list(zip(*(loss.operands for loss in made), strict=False))
        reason = _why_not_one(made) or _wrong_weights(found)
        if reason is not None:
            self.lines[op] = f"{len(made)} losses of %{op.result.name} stay apart: {reason}"
            return False
        b = builder_before(op, rw)
        self.lines.pop(op, None)
        joined = [b.concat(*values, axis=0, names=[joined_name(values)]) for values in columns]
        rw.replace(op, b.emit(op_of(made[0]), joined))
        return True


def _why_not_one(losses: Sequence[Operation]) -> str | None:
    """Why losses are not one loss on more rows; None where they are."""
    first = losses[0]
    if any(_row_factor(loss) is None for loss in losses):
        return "they are no sums over rows with weights that are known before they run"
    if any(loss.name != first.name or op_of(loss) != op_of(first) for loss in losses):
        return "they differ in more than their rows"
    for values in zip(*(loss.operands for loss in losses), strict=True):
        if any(v.shape[1:] != values[0].shape[1:] or v.dtype != values[0].dtype for v in values):
            return "they differ in more than their rows"
    return None


def _wrong_weights(found: Sequence[tuple[Operation, float]]) -> str | None:
    """Why the weights are not those of one loss on all rows; None where they are."""
    first = found[0][0]
    rows = sum(loss.operands[0].shape[0] for loss, _ in found)
    types = [x.tensor.with_shape((rows, *x.shape[1:])) for x in first.operands]
    whole = op_of(first).row_factor(types)
    for loss, weight in found:
        factor = _row_factor(loss)
        wanted = whole / factor if whole is not None and factor is not None else 0.0
        if abs(weight - wanted) > 1e-12:
            return f"the weight of {short_name(loss)} %{loss.result.name} is {weight:g}, not {wanted:g}"
    return None


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
        rw.replace(op, [same.emit(joined, b, op.result.name)])
        return True


def _losses(func: FuncOp) -> dict[Operation, None]:
    """The losses of a net; of another function, the operations that are called so."""
    if any(func.result_attrs):
        return {value.op: None for value in func.returned("loss").values() if value.op is not None}
    return {op: None for op in func.ops if _sums_rows(op) and op.name.endswith("_loss")}


def _sums_rows(op: Operation) -> bool:
    """Whether the op says of itself when it is a sum over rows."""
    return is_known(op) and type(rule_of(op)).row_factor is not Op.row_factor


def _row_factor(op: Operation) -> float | None:
    """What a sum over rows is multiplied by; None where the operation is none."""
    return rule_of(op).row_factor([x.tensor for x in op.operands]) if _sums_rows(op) else None


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
        if step is None or at is None or len(step.results) > 1:
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
    loss = rw.maker(value)
    if loss is None or not _sums_rows(loss) or len(value.uses) > 1:
        return None
    return loss, weight
