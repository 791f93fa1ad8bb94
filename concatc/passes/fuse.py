"""``fuse``: put every operation that computes into a kernel, and operations that belong in one loop nest into one.

    %z = "cnet.linear"(%x, %w)           %h = "cnet.kernel"(%x, %w, %b) ({
    %y = "cnet.bias"(%z, %b)       ->    ^bb0(%x_, %w_, %b_):
    %h = "cnet.relu"(%y)                   %z_ = "cnet.linear"(%x_, %w_)
                                           %y_ = "cnet.bias"(%z_, %b_)
                                           %h_ = "cnet.relu"(%y_)
                                           "cnet.yield"(%h_)
                                         }) {sym_name = "k0_linear_bias_relu"}

Views (concat, slice, split, accumulate, reshape, flatten, transpose) stay between kernels, where `plan-memory` makes
windows of them; splits inside a kernel vanish.  Invariant: a kernel lowers by substitution.  Each value inside it is
made by one pointwise piece, and is inlined into its readers, or by a fold whose readers are pointwise over the same
space, or sums over images of what a contraction makes (`concatc/loops/outer_loop.py`); stages and scatters (softmax,
max_pool_grad) are those of one operation.  Forward and backward operations never share a kernel, an operation with an
effect shares none, and values do not change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from concatc.ir.core import Attr, Block, FuncOp, Module, Operation, Region, Use, Value
from concatc.op import is_op
from concatc.passes.fusion import CHEAP, Fusion, Limits, is_view, results_of
from concatc.passes.graph import is_backward, require_tensors, short_name
from concatc.passes.grouping import Group, Partition
from concatc.passes.insert_splits import insert_splits
from concatc.passes.iteration import Iterations, derive_iteration


@dataclass(frozen=True)
class Fuse(Limits):
    """Group operations into kernels, within limits."""

    name = "fuse"

    def run(self, module: Module) -> None:
        """Rewrite the net's function in place."""
        require_tensors(module.main, self.name)
        fuse(module.main, self)


def fuse(func: FuncOp, options: Fuse) -> None:
    """Rewrite ``func``: kernels, and views between them."""
    _remove_splits(func)
    _clone_cheap(func)
    _clone_constants(func)
    partition = Partition(func.ops[:-1])
    Fusion(partition, options).run()
    _emit(func, partition)
    insert_splits(func)


def _remove_splits(func: FuncOp) -> None:
    """Let every reader read what the split splits; `insert-splits` puts back those between kernels."""
    kept = []
    for op in func.ops:
        if not is_op(op, "split"):
            kept.append(op)
            continue
        for result in op.results:
            result.replace_all_uses_with(op.operands[0])
        op.set_operands([])
    func.body.ops = kept


def _clone_constants(func: FuncOp) -> None:
    """Give each computing reader a constant of its own, so that it vanishes into that reader's kernel."""
    ops: list[Operation] = []
    for op in func.ops:
        for index, value in enumerate(op.operands):
            made = value.op
            if made is None or not is_op(made, "constant") or is_view(op) or op is func.ret:
                continue
            clone = Operation(
                made.name, (), [value.type], {**made.attributes, **_phase(op)}, loc=made.loc, result_names=[value.name]
            )
            clone.block = func.body
            ops.append(clone)
            op.set_operand(index, clone.result)
        ops.append(op)
    func.body.ops = [op for op in ops if not is_op(op, "constant") or op.result.uses]


def _clone_cheap(func: FuncOp) -> None:
    """Give each reader a cheap map of its own, where what is mapped is stored anyway: then its result need not be.

    ``y = x * w[c]``, which a sum and another map read: both read ``x``, if something else does.
    """
    iterations = Iterations()
    clones: dict[Operation, list[Operation]] = {}
    for op in reversed(func.ops[:-1]):
        if not _is_cheap_map(op, iterations) or not all(_takes_in(use, op, iterations) for use in op.result.uses):
            continue
        for use in op.result.uses[1:]:
            clone = Operation(op.name, op.operands, [op.result.type], op.attributes, (), op.loc, [op.result.name])
            use.op.set_operand(use.index, clone.result)
            clones.setdefault(use.op, []).append(clone)
    ops: list[Operation] = []
    pending = list(reversed(func.ops))
    while pending:
        op = pending.pop()
        # What a clone reads may be a clone too, made for it.
        first = clones.pop(op, [])
        if first:
            pending += [op, *reversed(first)]
            continue
        op.block = func.body
        ops.append(op)
    func.body.ops = ops


def _is_cheap_map(op: Operation, iterations: Iterations) -> bool:
    """Whether an operation maps one value of its result's size, which others read too, with smaller ones."""
    if is_view(op) or len(op.results) != 1 or len(op.result.uses) < 2:
        return False
    iteration = iterations.of(op)
    if iteration.kind != "pointwise" or iteration.cost > CHEAP:
        return False
    large = [k for k, x in enumerate(op.operands) if x.tensor.numel >= op.result.tensor.numel]
    if len(large) != 1 or not iteration.reads[large[0]].identity:
        return False
    mapped = op.operands[large[0]]
    if mapped.op is not None and not is_view(mapped.op) and iterations.of(mapped.op).kind in ("reduction", "staged"):
        return False  # it is their epilogue
    return any(use.op is not op for use in mapped.uses)


def _takes_in(use: Use, op: Operation, iterations: Iterations) -> bool:
    """Whether the reader may compute ``op`` where it reads its result (:meth:`_Fusion._is_prologue`)."""
    reader = use.op
    if is_view(reader) or reader.name == "func.return" or is_backward(reader) != is_backward(op):
        return False
    iteration = iterations.of(reader)
    return iteration.kind != "contraction" and not iteration.reads[use.index].guarded


def _phase(reader: Operation) -> dict[str, Attr]:
    return {"transposes": reader.attributes["transposes"]} if is_backward(reader) else {}


def _emit(func: FuncOp, partition: Partition) -> None:
    """Rebuild the block: one `cnet.kernel` for each group that computes."""
    ops: list[Operation] = []
    for group in partition.groups():
        if len(group.ops) == 1 and is_view(group.ops[0]):
            ops.append(group.ops[0])
            continue
        ops.append(_make_kernel(group, partition, len([op for op in ops if op.name == "cnet.kernel"])))
    ops.append(func.ret)
    for op in ops:
        op.block = func.body
    func.body.ops = ops


def _make_kernel(group: Group, partition: Partition, number: int) -> Operation:
    inside = {value for op in group.ops for value in op.results}
    reads = list(dict.fromkeys(v for op in group.ops for v in op.operands if v not in inside))
    writes = results_of(group, partition)
    block = Block([v.type for v in reads], [_inner_name(v) for v in reads])
    kernel = Operation(
        "cnet.kernel",
        reads,
        [v.type for v in writes],
        {"sym_name": f"k{number}_{_title(group.ops)}"},
        [Region([block])],
        group.ops[0].loc,
        [v.name for v in writes],
    )
    for old, new in zip(writes, kernel.results, strict=True):
        for use in [use for use in old.uses if partition.group_of.get(use.op) is not group]:
            use.op.set_operand(use.index, new)
    inner = dict(zip(reads, block.args, strict=True))
    for op in group.ops:
        op.set_operands([inner.get(v, v) for v in op.operands])
        for result in op.results:
            result.name = _inner_name(result)
        block.append(op)
    block.append(Operation("cnet.yield", writes, loc=group.ops[-1].loc))
    return kernel


def _inner_name(value: Value) -> str:
    return f"{value.name}_" if value.name else ""


def _title(ops: Iterable[Operation], most: int = 4) -> str:
    """The first names, and that of the contraction, wherever it stands: it is what a kernel's time goes into."""
    kept = [op for op in ops if not is_op(op, "constant")]
    shown = kept[:most]
    late = [op for op in kept[most:] if derive_iteration(op).kind == "contraction"]
    if late:
        shown = [*kept[: most - 1], late[0]]
    names = [short_name(op) for op in shown] or ["constant"]
    rest = len(kept) - len(shown)
    return "_".join(names) + (f"_and_{rest}" if rest > 0 else "")
