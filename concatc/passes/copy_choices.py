"""What can be done instead of a copy, and how many bytes it moves.

    reshape in parts  what is joined above a reshape, or cut below it,     nothing
                      is reshaped by itself
    segmented read    each reader of a concat reads it in parts            what the parts share is read once a part,
                                                                           a sum over the axis is added up in memory
    segmented write   the maker of what is sliced makes it in parts        the same
    sum taken in      the maker of a later contribution adds an earlier    that is read
    sum read apart    the reader of a sum adds one contribution itself     that is read
    second store      the maker stores its result once more                that is written
    copy              a launch of its own                                  read and written

Works on a graph without splits.  What is chosen moves the fewest bytes, and stands first in this list among equals.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from concatc.ir.core import FuncOp, Operation, Use, Value
from concatc.op import is_op
from concatc.passes.cut_kernel import Cut, find_cut
from concatc.passes.fusion import FOLDS
from concatc.passes.graph import is_backward
from concatc.passes.iteration import Iterations
from concatc.passes.kernel_edit import KernelEdit
from concatc.passes.plan_memory import Move
from concatc.passes.reshape_parts import views_above_slice, views_below_concat
from concatc.passes.storage import concat_parts, views_of


@dataclass
class Choice:
    """Something that avoids moves, how many bytes it moves itself, and the operations that it changes."""

    bytes: int
    kernels: list[Operation]
    make: Callable[[KernelEdit], None]


def choices_of(func: FuncOp, moves: Sequence[Move], rank: int = 0) -> list[Choice]:
    """The best choice for each of the ``moves`` that has one; with ``rank`` the second best, and so on."""
    finder = _Finder(func)
    found: list[Choice] = []
    for op, group in itertools.groupby(moves, key=lambda move: move.op):
        ways = finder.ways(op, [move.index for move in group])
        found += ways[rank] if rank < len(ways) else []
    return found


class _Finder:
    def __init__(self, func: FuncOp) -> None:
        self.func = func
        self.place = {op: k for k, op in enumerate(func.ops)}
        self.iterations = Iterations()

    def ways(self, op: Operation, indices: list[int]) -> list[list[Choice]]:
        """What can be done about these operands of ``op``, the best first: choices for each, or one for all of them."""
        ways: list[list[Choice]] = []
        total = 0
        for index in indices:
            x = op.operands[index]
            copied = (3 if is_op(op, "accumulate") else 2) * x.tensor.size_bytes
            found = sorted((c for c in self._choices(op, index, x) if c.bytes < copied), key=lambda c: c.bytes)
            total += found[0].bytes if found else copied
            ways += [[] for _ in range(len(ways), len(found))]
            for way, choice in zip(ways, found, strict=False):
                way.append(choice)
        if is_op(op, "concat"):
            together = self._segmented_read(op, indices)
            if together is not None:
                ways.insert(0 if together.bytes <= total else 1, [together])
        return ways

    def _choices(self, op: Operation, index: int, x: Value) -> Iterator[Choice]:
        if is_op(op, "reshape", "flatten"):
            yield from self._in_parts(op)
        yield from self._segmented_write(x)
        if is_op(op, "accumulate"):
            yield from self._taken_in(op, index, x)
            yield from self._read_apart(op, x, index)
        yield from self._second_store(op, index, x)

    # -- segments --------------------------------------------------------------------------------------------------
    def _segmented_read(self, concat: Operation, indices: list[int]) -> Choice | None:
        """``f(concat(a, x)) -> concat(f(a), f(x))``, or ``f(a) + f(x)``   for all readers."""
        axis = concat.attributes["axis"]
        assert isinstance(axis, int)
        extents = _extents([part.extent for part in concat_parts(concat)], indices)
        cuts: list[tuple[Operation, Cut]] = []
        joins: dict[Operation, None] = {}
        for use in concat.result.uses:
            if is_op(use.op, "concat") and use.op.attributes["axis"] == axis:
                joins[use.op] = None
                continue
            cut = _cut_at(use, axis, extents)
            if cut is None or any(reader is use.op for reader, _ in cuts):
                return None
            cuts.append((use.op, cut))
        if len(extents) < 2 or not cuts:
            return None

        def make(edit: KernelEdit) -> None:
            for outer in joins:
                edit.flatten(outer, concat)
            for reader, cut in cuts:
                edit.cut(reader, cut, extents)
            edit.segmented[concat] = None

        size = sum(_shared_bytes(cut, len(extents)) for _, cut in cuts)
        return Choice(size, [concat, *joins, *(reader for reader, _ in cuts)], make)

    def _in_parts(self, view: Operation) -> Iterator[Choice]:
        """``slice(reshape(x)) -> reshape(slice(x))``, ``reshape(concat(a, b)) -> concat(reshape(a), reshape(b))``."""
        for parted in (views_above_slice(view), views_below_concat(view)):
            if parted is not None:
                yield Choice(0, [parted.op, *parted.views], parted.make)

    def _segmented_write(self, x: Value) -> Iterator[Choice]:
        """``slice(f(d)) -> f(slice(d))``   where x is a slice of what a kernel makes."""
        op = x.op
        if op is None or not is_op(op, "slice"):
            return
        whole, axis = op.operands[0], op.attributes["axis"]
        kernel = whole.op
        assert isinstance(axis, int)
        if kernel is None or kernel.name != "cnet.kernel":
            return
        extents = _extents([r.shape[axis] for r in op.results], [x.index])
        start = kernel.regions[0].block.ops[-1].operands[whole.index]
        cut = find_cut(kernel, start, axis) if len(extents) > 1 else None
        if cut is not None and cut.fits(extents):
            found = cut
            yield Choice(_shared_bytes(cut, len(extents)), [kernel], lambda edit: edit.cut(kernel, found, extents))

    # -- one kernel ------------------------------------------------------------------------------------------------
    def _taken_in(self, sum: Operation, index: int, x: Value) -> Iterator[Choice]:
        """``x + f(d) -> g(d, x)``   where f's kernel runs when x is there, and nothing else reads what it makes."""
        for result in sum.operands:
            kernel = result.op
            if result is x or kernel is None or len(result.uses) != 1 or not self._takes_more(kernel, result):
                continue
            if (x.op is None or self.place[x.op] < self.place[kernel]) and is_backward(kernel) == is_backward(sum):
                yield _sum_in(kernel, sum, index, result)
                return

    def _read_apart(self, sum: Operation, x: Value, index: int) -> Iterator[Choice]:
        """``f(accumulate(u, x)) -> f'(u, x)``   where f is pointwise, and nothing else reads the sum."""
        if len(sum.result.uses) != 1 or len(dict.fromkeys(sum.operands)) < 2:
            return
        (use,) = sum.result.uses
        reader = use.op
        if reader.name != "cnet.kernel" or is_backward(reader) != is_backward(sum):
            return
        # What is read with the sum must stay one operand each.
        if any(v in reader.operands for v in sum.operands) or not self._maps(reader, use.index):
            return
        yield Choice(x.tensor.size_bytes, [sum, reader], lambda edit: edit.read_apart(sum, index))

    def _maps(self, kernel: Operation, operand: int) -> bool:
        """Whether a kernel computes each element once, from the element of the operand at the same index."""
        *ops, _ = kernel.regions[0].block.ops
        uses = kernel.regions[0].block.args[operand].uses
        return all(self.iterations.of(op).kind == "pointwise" for op in ops) and all(
            use.op in ops and self.iterations.of(use.op).reads[use.index].identity for use in uses
        )

    def _second_store(self, op: Operation, index: int, x: Value) -> Iterator[Choice]:
        """``x -> x, x``   where a kernel of the same half makes x, or what x is another shape of."""
        path: list[Operation] = []
        while x.op is not None and len(views_of(x.op)) == 1 and views_of(x.op)[0].inverse is not None:
            path.insert(0, x.op)
            x = x.op.operands[0]
        kernel = x.op
        if kernel is None or not self._takes_more(kernel, x):
            return
        if op is not self.func.ret and is_backward(kernel) != is_backward(op):
            return
        size = (2 if is_op(op, "accumulate") else 1) * x.tensor.size_bytes
        use = next(use for use in op.operands[index].uses if use.op is op and use.index == index)
        yield Choice(size, [kernel, op], lambda edit: edit.store_twice(use, kernel, path))

    def _takes_more(self, kernel: Operation, result: Value) -> bool:
        """Whether an expression may stand behind what makes ``result``: no sum in memory (a scatter) makes it."""
        if kernel.name != "cnet.kernel":
            return False
        made = kernel.regions[0].block.ops[-1].operands[result.index]
        return made.op is not None and self.iterations.of(made.op).kind in ("pointwise", *FOLDS)


def _sum_in(kernel: Operation, sum: Operation, index: int, result: Value) -> Choice:
    x = sum.operands[index]
    size = 0 if x in kernel.operands else x.tensor.size_bytes
    return Choice(size, [kernel, sum], lambda edit: edit.take_in(sum, index, kernel, result))


def _extents(sizes: Sequence[int], alone: Sequence[int]) -> tuple[int, ...]:
    """Segments: those in ``alone`` by themselves, what stands between them together."""
    found: list[int] = []
    joins = False
    for k, size in enumerate(sizes):
        if size == 0:
            continue
        if k in alone or not joins:
            found.append(size)
        else:
            found[-1] += size
        joins = k not in alone
    return tuple(found)


def _cut_at(use: Use, axis: int, extents: tuple[int, ...]) -> Cut | None:
    if use.op.name != "cnet.kernel":
        return None
    cut = find_cut(use.op, use.op.regions[0].block.args[use.index], axis)
    return cut if cut is not None and cut.fits(extents) else None


def _shared_bytes(cut: Cut, segments: int) -> int:
    """What segments read once each, and sums that they add to, beyond what the kernel itself moves."""
    shared = [arg for arg in cut.block.args if arg not in cut.axes]
    return (segments - 1) * (sum(v.tensor.size_bytes for v in shared) + 2 * sum(v.tensor.size_bytes for v in cut.sums))
