"""The rules of ``fuse``: which operations belong in one kernel.

Each rule is one method of :class:`Fusion` and says when it holds; a rule looks at two groups of operations that may
become one (`grouping.py`), and asks how they iterate (`iteration.py`), not which ops they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from concatc.ir.core import Operation, Value
from concatc.ir.passes import at_least
from concatc.op import is_op, op_of
from concatc.passes.graph import is_backward
from concatc.passes.grouping import Group, Partition
from concatc.passes.iteration import Iteration, Iterations, Read

VIEWS = ("concat", "slice", "split", "accumulate", "reshape", "flatten", "transpose")
FOLDS = ("contraction", "reduction", "staged")

# An expression this cheap is computed again rather than stored, however often it is read.
CHEAP = 8
# Siblings share a kernel only when they stand this close in the source: fusing further apart keeps values alive.
SIBLING_DISTANCE = 12


@dataclass(frozen=True)
class Limits:
    """``max_ops`` and ``max_nodes`` (of the expressions) keep a kernel small enough to read.

    ``prologues`` lets pointwise operations be computed where a contraction reads its operands.
    """

    max_ops: int = at_least(1, default=16)
    max_nodes: int = at_least(1, default=256)
    prologues: bool = True


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


class Fusion:
    """Merges groups, rule by rule; each rule is one method and says when it holds."""

    def __init__(self, partition: Partition, limits: Limits) -> None:
        self.partition = partition
        self.limits = limits
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
        self._join_readers()
        self._join_sums()
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
            and len(a.ops) + len(b.ops) <= self.limits.max_ops
            and first.nodes + second.nodes <= self.limits.max_nodes
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
        if self._kind(reader) == "contraction" and not self.limits.prologues:
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
        if not self.limits.prologues or self._kind(reader) != "contraction" or self._kind(producer) != "pointwise":
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

    def _join_readers(self) -> None:
        """``f(contraction), sum(contraction) -> kernel``   when maps and sums over images are all that reads a result.

        The kernel makes one image at a time and reads it while it is there: the result is never stored for the batch
        (`concatc/loops/outer_loop.py`).
        """
        for op in [op for op in self.partition.index if not is_view(op) and self.iterations.of(op).by_image]:
            contraction = self.partition.group_of[op]
            results = results_of(contraction, self.partition)
            readers = list(
                dict.fromkeys(self.partition.group_of.get(r) for r in self.partition.outside_readers(contraction))
            )
            groups = [group for group in readers if group is not None and group in self.kernels]
            if len(results) != 1 or len(groups) < len(readers):
                continue
            sums = [group for group in groups if self._sums_images(group, contraction, results[0])]
            maps = [group for group in groups if self._maps(group, contraction)]
            if not sums or len(sums) + len(maps) < len(groups):
                continue
            for group in (*sums, *maps):
                kernel = self.partition.group_of[op]
                if not self._may_share(kernel, group):
                    break
                self._merge(kernel, group)

    def _join_sums(self) -> None:
        """``y = f(x), sum(y) -> kernel``   when only the sum reads ``y``, and computing ``f`` again moves fewer bytes.

        The kernel makes its other results and the sums in loops of their own, which both compute ``y`` and do not
        store it.
        """
        for value in [value for op in self.partition.index for value in op.results]:
            maker = self.partition.group(value)
            kernel = self.kernels.get(maker) if maker is not None else None
            if maker is None or kernel is None or kernel.iteration.kind != "pointwise" or value.tensor.rank != 4:
                continue
            readers = {self.partition.group_of.get(use.op): None for use in value.uses}
            others = [group for group in readers if group is not maker]
            (reader,) = others if len(others) == 1 else (None,)
            if reader is None or reader not in self.kernels or not self._may_share(maker, reader):
                continue
            if self._sums_images(reader, maker, value) and self._is_cheap_again(value, maker, reader):
                self._merge(maker, reader)

    def _is_cheap_again(self, value: Value, maker: Group, reader: Group) -> bool:
        """Whether computing a value in both kernels reads less than it takes to store it and to read it."""
        ops: dict[Operation, None] = {}
        given: dict[Value, None] = {}
        pending = [value]
        while pending:
            needed = pending.pop()
            if needed.op is None or self.partition.group(needed) is not maker:
                given[needed] = None
            elif needed.op not in ops:
                ops[needed.op] = None
                pending += needed.op.operands
        known = {operand: None for op in reader.ops for operand in op.operands}
        # Images alone count, so that the choice is the same for any batch.
        read = sum(v.tensor.numel for v in given if v not in known and v.tensor.rank == value.tensor.rank)
        return read < 2 * value.tensor.numel and sum(self.iterations.of(op).cost for op in ops) <= 4 * CHEAP

    def _maps(self, reader: Group, fold: Group) -> bool:
        """Whether a kernel maps what a fold makes, element by element."""
        same = self._kind(reader) == "pointwise" and self._space(reader) == self._space(fold)
        return same and self._reads_at_identity(reader, fold)

    def _sums_images(self, reader: Group, fold: Group, result: Value) -> bool:
        """Whether a kernel is made of sums of a fold's result over all of its axes but channels."""
        images, channels, *space = result.shape
        nest = ((channels,), (images, *space))
        reads = self._reads(reader, fold)
        return (
            self._kind(reader) == "reduction"
            and self.kernels[reader].iteration.nest == nest
            and all(not read.guarded and read.loads == result.tensor.numel for _, read in reads)
        )

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
        return len(results_of(group, self.partition))


def results_of(group: Group, partition: Partition) -> list[Value]:
    """What a kernel must store: values that are read outside it, and those of operations of which nothing is read."""
    return [
        value
        for op in group.ops
        for value in op.results
        if any(partition.group_of.get(use.op) is not group for use in value.uses)
        or not any(result.uses for result in op.results)
    ]
