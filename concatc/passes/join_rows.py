"""``join-rows``: one product over joined batches, where one weight is applied to each of them.

    %ya = "cnet.linear"(%a, %w)                            %h = "cnet.concat"(%a, %b) {axis = 0}
    %yb = "cnet.linear"(%b, %w)                            %y = "cnet.linear"(%h, %w)
    %ra = "cnet.relu"(%ya)                           ->    %r = "cnet.relu"(%y)
    %rb = "cnet.relu"(%yb)
    %r = "cnet.concat"(%ra, %rb) {axis = 0}

f(concat(a, b), w) = concat(f(a, w), f(b, w)) along axis 0 where f maps rows one by one (derived from its pieces).
Chains move as a whole, up to the last product whose parts can be joined for nothing.  The weight is then read once
instead of once a batch, forward and backward, and its gradient is one contraction instead of a sum of several.

What decides are bytes that do not depend on the sizes of batches, so that every batch size has one graph:

- at the top stands a product with a weight (or another operand) that all batches share: a pointwise operation alone
  gains nothing, and may already be a part of the kernel that makes its operand;
- no byte is copied for the joined value: its parts are inputs of the net, or made by operations and in no other
  concat, so that they are written to their windows; a parameter, a result of the net or a part of another value is not
  moved;
- no row that is made on the way is larger than a row of the concat: of joined batches all rows, and their gradients,
  are alive at once, where of batches apart those of one are.  What a backward pass reads is kept anyway; without
  one (``keeps=false``) only one product over inputs is joined.

Invariant: no concat of rows joins what such chains make.  Values are the same but for rounding.  The net says what
was joined, and of which products that share a weight it was not, and why: ``cnet.joined``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from concatc.ir.core import Module, Operation, Value
from concatc.ir.rewrite import Pattern, Rewriter
from concatc.op import is_op, op_of
from concatc.ops.concat import Concat
from concatc.passes.concat_algebra import ConcatOfSlices, NestedConcat
from concatc.passes.graph import is_backward, short_name
from concatc.passes.iteration import Iterations
from concatc.passes.patterns import builder_before, kept_blobs, rewrite_function
from concatc.passes.rows import Apart, Maker, SameRows, joined_name, row_operand, same_rows, say


@dataclass(frozen=True)
class JoinRows:
    """Move operations behind concats of rows.

    ``keeps``: what they make is kept for a backward pass.  An input of the net may lie in a concat: `plan-memory`
    puts the caller's array there.
    """

    keeps: bool = True

    name = "join-rows"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        for func in module.functions:
            if func.declared is not None or any(is_backward(op) for op in func.ops):
                continue
            pattern = ConcatOfProducts(self)
            for kept in kept_blobs(func):
                pattern.explain_kept(kept)
            rewrite_function(func, [pattern, ConcatOfSlices(), NestedConcat()])
            say(func, pattern.lines.values())


class ConcatOfProducts(Pattern):
    """``concat(f(a, w), f(b, w)) -> f(concat(a, b), w)``   along axis 0, when ``f`` is a product and operations behind
    it that map rows one by one, and ``a`` and ``b`` can be written side by side.
    """

    roots = ("cnet.concat",)

    def __init__(self, options: JoinRows) -> None:
        self.options = options
        self.lines: dict[Operation, str] = {}
        self._iterations = Iterations()

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        typed = op_of(op)
        assert isinstance(typed, Concat)
        if typed.axis != 0:
            return False
        chain, end = _chain(op, rw.maker)
        reasons = [self._reason(chain[: k + 1], op.result) for k in range(len(chain))]
        movable = [k for k, step in enumerate(chain) if reasons[k] is None and self._is_product(step)]
        if not movable:
            self._explain(op, chain, reasons, end)
            return False
        steps = chain[: movable[-1] + 1]
        self.lines[op] = _line(op, steps[-1], "is one product over the joined rows")
        b = builder_before(op, rw)
        value = b.concat(*steps[-1].parts, axis=0, names=[joined_name(steps[-1].parts)])
        for step in reversed(steps):
            b.loc = step.first.loc
            value = step.emit(value, b, op.result.name if step is steps[0] else joined_name(step.results))
        rw.replace(op, [value])
        return True

    def explain_kept(self, blob: Value) -> None:
        """A blob whose gradient the user reads stays as it is; say so where it joins products."""
        if blob.op is None or not is_op(blob.op, "concat") or blob.op.attributes["axis"] != 0:
            return
        chain, _ = _chain(blob.op, lambda value: value.op)
        product = next((step for step in chain if self._is_product(step)), None)
        if product is not None:
            self.lines[blob.op] = _line(blob.op, product, f"stays apart: %{blob.name} is kept")

    def _is_product(self, step: SameRows) -> bool:
        return step.shares and self._iterations.of(step.first).kind == "contraction"

    def _reason(self, steps: list[SameRows], joined: Value) -> str | None:
        """Why these steps, the last one uppermost, are not moved; None where they may be."""
        parts = steps[-1].parts
        made = [part for step in steps for part in step.parts if part.op is not None]
        larger = next((part for part in made if _row_numel(part) > _row_numel(joined)), None)
        if larger is not None:
            return f"rows of %{larger.name} are larger than those of %{joined.name}, and all would be alive at once"
        if not self.options.keeps:
            if sum(self._iterations.of(step.first).kind != "pointwise" for step in steps) > 1:
                return "all batches would be alive at once between two products"
            if any(part.op is not None for part in parts):
                return "all batches would be alive at once, and nothing else keeps them"
        return _why_copied(parts)

    def _explain(self, op: Operation, chain: list[SameRows], reasons: list[str | None], end: Apart) -> None:
        """Say why products that share a weight stay apart; nothing where there are none."""
        found = [k for k, step in enumerate(chain) if self._is_product(step)]
        if found:
            self.lines[op] = _line(op, chain[found[-1]], f"stays apart: {reasons[found[-1]]}")
            return
        above = end.alike
        while above is not None and self._iterations.of(above).kind != "contraction":
            at = row_operand(above)
            above = above.operands[at].op if at is not None else None
        if above is not None and len(above.operands) > 1:
            what = f"{short_name(above)} stays apart before concat %{op.result.name}"
            self.lines[op] = f"{what}: {end.reason}"


def _row_numel(value: Value) -> int:
    return math.prod(value.shape[1:])


def _chain(concat: Operation, maker_of: Maker) -> tuple[list[SameRows], Apart]:
    """What makes the parts of a concat, level by level, as far as it is the same for all; and why not further."""
    chain: list[SameRows] = []
    values = concat.operands
    while True:
        found = same_rows(values, maker_of)
        if isinstance(found, Apart):
            return chain, found
        chain.append(found)
        values = found.parts


def _why_copied(parts: tuple[Value, ...]) -> str | None:
    """Why the joined rows would have to be copied together; None where each part can be made in its place."""
    if len(dict.fromkeys(parts)) < len(parts):
        return f"%{parts[0].name} would stand in two places"
    if _is_whole_slice(parts):
        return None
    return next((reason for part in parts if (reason := _why_elsewhere(part)) is not None), None)


def _is_whole_slice(parts: tuple[Value, ...]) -> bool:
    """Whether the parts are all windows of one slice in order: joined, they are what was cut."""
    cut = parts[0].op
    return cut is not None and is_op(cut, "slice") and cut.attributes["axis"] == 0 and cut.results == list(parts)


def _why_elsewhere(part: Value) -> str | None:
    """Why a value lies in a place of its own."""
    if any(is_op(use.op, "concat") for use in part.uses):
        return f"%{part.name} lies in another concat"
    if any(use.op.name == "func.return" for use in part.uses):
        return f"%{part.name} is a result of the net"
    maker = part.op
    if maker is None:
        kind = part.attrs.get("cnet.kind", "input")
        return None if kind == "input" else f"%{part.name} is the {kind} of that name"
    if is_op(maker, "reshape", "flatten"):
        return _why_elsewhere(maker.operands[0])
    if is_op(maker, "slice", "split", "transpose", "constant", "expand"):
        return f"%{part.name} is a part of %{maker.operands[0].name}" if maker.operands else f"%{part.name} is constant"
    return None


def _line(concat: Operation, step: SameRows, what: str) -> str:
    parts = ", ".join(f"%{part.name}" for part in step.parts)
    return f"{short_name(step.first)} of {parts}, joined by concat %{concat.result.name}, {what}"
