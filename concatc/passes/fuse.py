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
made by one pointwise piece, and is inlined into its readers, or by a fold whose readers are pointwise over the
same space; stages and scatters (softmax, max_pool_grad) are those of one operation.  Forward and
backward operations never share a kernel, an operation with an effect shares none, and values do not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from concatc.ir.core import Attr, Block, FuncOp, Module, Operation, Region, Use, Value
from concatc.op import is_op, op_of
from concatc.passes.graph import is_backward, require_tensors, short_name
from concatc.passes.grouping import Group, Partition
from concatc.passes.insert_splits import insert_splits
from concatc.passes.iteration import Iteration, Iterations, Read, derive_iteration

VIEWS = ("concat", "slice", "split", "accumulate", "reshape", "flatten", "transpose")
FOLDS = ("contraction", "reduction", "staged")

# An expression this cheap is computed again rather than stored, however often it is read.
CHEAP = 8
# Siblings share a kernel only when they stand this close in the source: fusing further apart keeps values alive.
SIBLING_DISTANCE = 12


@dataclass(frozen=True)
class Fuse:
    """Group operations into kernels.

    ``max_ops`` and ``max_nodes`` (of the expressions) keep a kernel small enough to read.  ``prologues`` lets
    pointwise operations be computed where a contraction reads its operands.
    """

    max_ops: int = 16
    max_nodes: int = 256
    prologues: bool = True

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
    _Fusion(partition, options).run()
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


def is_view(op: Operation) -> bool:
    """Whether the operation only says where values lie (accumulate: and that they are added there)."""
    return is_op(op, *VIEWS)


@dataclass(eq=False)
class _Kernel:
    """What is known of a group while it grows."""

    iteration: Iteration  # of the fold or staged operation, else of the first operation
    backward: bool
    nodes: int
    is_fixed: bool = False  # holds an effect, or an accumulate
    recomputes: bool = False


class _Fusion:
    """Merges groups, rule by rule; each rule is one method and says when it holds."""

    def __init__(self, partition: Partition, options: Fuse) -> None:
        self.partition = partition
        self.options = options
        self.iterations = Iterations()
        self.kernels: dict[Group, _Kernel] = {}
        for group in partition.order:
            (op,) = group.ops
            if not is_view(op):
                iteration = self.iterations.of(op)
                again = "recomputes" in op.attributes
                self.kernels[group] = _Kernel(iteration, is_backward(op), iteration.nodes, op_of(op).effect, again)

    def run(self) -> None:
        """Apply the rules in order of what they save.

        A value that only a fold reads is better never stored than stored by the kernel that could also make it, so
        prologues of folds come before chains.
        """
        self._along_edges(self._is_epilogue_of_one)
        self._along_edges(self._is_packed_prologue, backwards=True)
        self._along_edges(self._is_prologue_of_fold, backwards=True)
        self._along_edges(self._is_prologue_of_epilogue, backwards=True)
        self._among_siblings(self._are_sibling_folds)
        self._along_edges(self._is_chain)
        self._among_siblings(self._are_sibling_maps)
        self._along_edges(self._is_prologue, backwards=True)
        self._along_edges(self._is_epilogue)
        self._absorb_sums()

    def _along_edges(self, rule: Callable[[Group, Group], bool], backwards: bool = False) -> None:
        ops = list(self.partition.index)
        for op in reversed(ops) if backwards else ops:
            for value in op.operands:
                producer, reader = self.partition.group(value), self.partition.group_of[op]
                if producer is None or producer is reader or not self._may_share(producer, reader):
                    continue
                if rule(producer, reader):
                    self._merge(producer, reader)

    def _among_siblings(self, rule: Callable[[Group, Group], bool]) -> None:
        """Merge readers of one value that stand near each other."""
        earlier: dict[Value, list[Operation]] = {}
        for op in list(self.partition.index):
            for value in dict.fromkeys(op.operands):
                near = [before for before in earlier.get(value, []) if self._are_near(before, op)]
                earlier[value] = [*near, op]
                for before in near:
                    a, b = self.partition.group_of[before], self.partition.group_of[op]
                    if a is not b and self._may_share(a, b) and rule(a, b):
                        self._merge(a, b)

    def _are_near(self, a: Operation, b: Operation) -> bool:
        return self.partition.index[b] - self.partition.index[a] <= SIBLING_DISTANCE

    def _may_share(self, a: Group, b: Group) -> bool:
        """Both compute, in the same half, without effects, and together they stay small."""
        first, second = self.kernels.get(a), self.kernels.get(b)
        return (
            first is not None
            and second is not None
            and first.backward == second.backward
            and not first.is_fixed
            and not second.is_fixed
            and len(a.ops) + len(b.ops) <= self.options.max_ops
            and first.nodes + second.nodes <= self.options.max_nodes
        )

    def _merge(self, a: Group, b: Group) -> None:
        first, second = self.kernels[a], self.kernels[b]
        merged = self.partition.merge(a, b)
        if merged is None:
            return
        main = second if first.iteration.kind == "pointwise" else first
        again = first.recomputes and second.recomputes
        self.kernels[merged] = _Kernel(main.iteration, first.backward, first.nodes + second.nodes, recomputes=again)

    # -- the rules -------------------------------------------------------------------------------------------------
    def _is_epilogue(self, fold: Group, reader: Group) -> bool:
        """``f(fold(x)) -> kernel``   when f is pointwise over the fold's results, and reads them where they are made.

        A contraction keeps one result: nothing else may read what f reads.
        """
        kinds = self._kind(fold), self._kind(reader)
        if kinds[0] not in FOLDS or kinds[1] != "pointwise" or self._space(fold) != self._space(reader):
            return False
        if kinds[0] == "contraction" and not self._reads_all(reader, fold):
            return False
        if kinds[0] == "contraction" and self._result_count(reader) != 1:
            return False
        return self._reads_at_identity(reader, fold)

    def _is_epilogue_of_one(self, fold: Group, reader: Group) -> bool:
        """``f(fold(x)) -> kernel``   likewise, but not yet where f reads another fold too that may join the first."""
        waits = any(
            other is not fold and other in self.kernels and self._are_sibling_folds(fold, other)
            for other in reader.producers
        )
        return not waits and self._is_epilogue(fold, reader)

    def _is_chain(self, producer: Group, reader: Group) -> bool:
        """``g(f(x)) -> kernel``   when both are pointwise over one space and g reads f's result where it is made."""
        return (
            self._kind(producer) == self._kind(reader) == "pointwise"
            and self._space(producer) == self._space(reader)
            and self._reads_at_identity(reader, producer)
        )

    def _is_prologue(self, producer: Group, reader: Group) -> bool:
        """``fold(f(x)) -> kernel``   when f is pointwise, nothing else reads it, and it is not computed too often."""
        if self._kind(producer) != "pointwise" or not self._reads_all(reader, producer):
            return False
        reads = self._reads(reader, producer)
        if any(read.guarded for _, read in reads):
            return False
        if self._kind(reader) == "contraction" and not self.options.prologues:
            return False
        cost = sum(self.iterations.of(op).cost for op in producer.ops)
        made = sum(math.prod(value.shape) for value, _ in reads)
        is_cheap = cost <= CHEAP and self._kind(reader) != "contraction"
        return is_cheap or sum(read.loads for _, read in reads) <= made

    def _is_packed_prologue(self, producer: Group, reader: Group) -> bool:
        """``contraction(f(x)) -> kernel``   when f is pointwise and nothing else reads it: it is not stored whole.

        The kernel computes f once an element, one image (or block of rows or channels) at a time, where the
        contraction can have its outermost loop around both.  Not where f reads two large values for the last time:
        both would then live while the contraction runs, and one result of f is less.
        """
        if not self.options.prologues or self._kind(reader) != "contraction" or self._kind(producer) != "pointwise":
            return False
        if not self._reads_all(reader, producer) or self._dying_operands(producer, reader) > 1:
            return False
        for op in reader.ops:
            iteration = self.iterations.of(op)
            if iteration.kind != "contraction":
                if not all(r.identity and not r.guarded for r in self._reads_by(op, producer)):
                    return False
                continue
            # One operand is packed: the loop outside is one of its axes.
            if not all(r.packs for r in self._reads_by(op, producer)) or (
                self._reads_by(op, producer) and self._reads_by(op, reader)
            ):
                return False
        return True

    def _dying_operands(self, producer: Group, reader: Group) -> int:
        """How many values of the size of a result are read by these groups for the last time."""
        largest = max(value.tensor.numel for op in producer.ops for value in op.results)
        groups = (producer, reader)
        read = {value: None for op in producer.ops for value in op.operands if value.tensor.numel >= largest}
        return sum(
            value.op is not None
            and self.partition.group(value) is not producer
            and all(self.partition.group_of.get(use.op) in groups for use in value.uses)
            for value in read
        )

    def _is_prologue_of_fold(self, producer: Group, reader: Group) -> bool:
        return self._kind(reader) not in ("pointwise", "contraction") and self._is_prologue(producer, reader)

    def _is_prologue_of_epilogue(self, producer: Group, reader: Group) -> bool:
        """``g(fold(x), f(z)) -> kernel``   when f is pointwise and only g, where it makes an element, reads it."""
        return (
            self._kind(producer) == "pointwise"
            and self._kind(reader) in FOLDS
            and self._space(producer) == self._space(reader)
            and self._reads_all(reader, producer)
            and self._reads_at_identity(reader, producer)
        )

    def _are_sibling_folds(self, a: Group, b: Group) -> bool:
        """``fold(x), fold'(x) -> kernel``   when both are plain folds over one nest of loops."""
        nest = self.kernels[a].iteration.nest
        return (
            self._kind(a) == self._kind(b) == "reduction"
            and nest is not None
            and nest == self.kernels[b].iteration.nest
            and self._space(a) == self._space(b)
            and not self._depends(a, b)
        )

    def _are_sibling_maps(self, a: Group, b: Group) -> bool:
        """``f(x), g(x) -> kernel``   when both are pointwise over one space.

        What is recomputed is made as late as it can be: beside another one it would live longer.
        """
        again = self.kernels[a].recomputes or self.kernels[b].recomputes
        return not again and self._kind(a) == self._kind(b) == "pointwise" and self._space(a) == self._space(b)

    def _absorb_sums(self) -> None:
        """``accumulate(f(x), g(x)) -> kernel``   when one pointwise kernel makes all that is added, for it alone."""
        for op in [op for op in self.partition.index if is_op(op, "accumulate")]:
            makers = list(dict.fromkeys(self.partition.group(value) for value in op.operands))
            group = self.partition.group_of[op]
            (maker,) = makers if len(makers) == 1 else (None,)
            kernel = self.kernels.get(maker) if maker is not None else None
            if maker is None or kernel is None or kernel.is_fixed or kernel.iteration.kind != "pointwise":
                continue
            if all(reader is op for value in op.operands for reader in value.readers):
                self.kernels[group] = _Kernel(self.iterations.of(op), kernel.backward, len(op.operands))
                self._merge(maker, group)

    # -- what the rules ask ----------------------------------------------------------------------------------------
    def _kind(self, group: Group) -> str:
        return self.kernels[group].iteration.kind

    def _space(self, group: Group) -> tuple[int, ...] | None:
        return self.kernels[group].iteration.space

    def _reads(self, reader: Group, producer: Group) -> list[tuple[Value, Read]]:
        """The reads by ``reader`` of what ``producer`` makes."""
        return [
            (value, self.iterations.of(op).reads[index])
            for op in reader.ops
            for index, value in enumerate(op.operands)
            if self.partition.group(value) is producer
        ]

    def _reads_by(self, op: Operation, producer: Group) -> list[Read]:
        """The reads by one operation of what ``producer`` makes."""
        reads = self.iterations.of(op).reads
        return [reads[k] for k, value in enumerate(op.operands) if self.partition.group(value) is producer]

    def _reads_at_identity(self, reader: Group, producer: Group) -> bool:
        return all(read.identity and not read.guarded for _, read in self._reads(reader, producer))

    def _reads_all(self, reader: Group, producer: Group) -> bool:
        """Whether nothing but ``reader`` reads what ``producer`` makes."""
        outside = self.partition.outside_readers(producer)
        return bool(outside) and all(self.partition.group_of.get(op) is reader for op in outside)

    def _depends(self, a: Group, b: Group) -> bool:
        return b in a.producers or a in b.producers

    def _result_count(self, group: Group) -> int:
        return len(_results(group, self.partition))


def _results(group: Group, partition: Partition) -> list[Value]:
    """What a kernel must store: values that are read outside it, and those that nothing reads at all."""
    return [
        value
        for op in group.ops
        for value in op.results
        if not value.uses or any(partition.group_of.get(use.op) is not group for use in value.uses)
    ]


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
    writes = _results(group, partition)
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
