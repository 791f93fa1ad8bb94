"""Finds the loops inside of the loop over images that may be run in slices, for launches of fewer images than threads.

    for n in begin .. end:                                       a slice: channels 32 .. 64 of 64
      for c: for q: p[c, q] = max(x[n, c, q], 0)                   n_o = 32, y and w moved by 32 rows,
      for o: for q: y[n, o, q] = sum of p[c, q] * w[o, c]          p in memory of its own

Extents and windows are numbers of a launch, not code: a launch over part of an axis is the same code with a smaller
extent and windows that begin further on.  So what may be sliced is read off the loops, as cuts are (`cuts.py`): loops
over one axis from 0 to a size of the kernel, whose variables are nothing but indices, such that every result is stored
in one of them, at its index, and all accesses to a window that moves have that index.  Other scratch memory is filled
anew in every slice, each of which has its own.  What is computed of an element does not depend on the slice it is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import ELEMENT_BYTES, INDEX, MemRefType
from concatc.loops.chunk_work import Term, work_of
from concatc.loops.stretches import constant_of, loop_of


@dataclass(frozen=True)
class Slicing:
    """How a stretch of a kernel is run in slices of an inner axis.

    ``sizes`` are the extents of that axis, by the number of the size; ``moved`` the windows that begin further on:
    where a window begins among the numbers of a launch, its axis, and the bytes of an element.  ``private`` and
    ``work`` are what they are of a stretch (`cuts.py`), with the axis that is sliced in the place of that of the chunk;
    ``size_count`` is how many sizes the kernel has.  Slices are best of whole ``grain`` iterations.
    """

    sizes: tuple[int, ...]
    moved: tuple[tuple[int, int, int], ...]
    private: tuple[int, ...]
    work: tuple[Term, ...]
    size_count: int
    grain: int = 1

    def data(self) -> list[Any]:
        """The fields in order, for JSON."""
        work = [[n, cut, list(of)] for n, cut, of in self.work]
        moved = [list(each) for each in self.moved]
        return [list(self.sizes), moved, list(self.private), work, self.size_count, self.grain]

    @staticmethod
    def of(data: Sequence[Any]) -> Slicing:
        """What :meth:`data` gave; raises ValueError or TypeError for data of another form."""
        sizes, moved, private, work, size_count, grain = data
        terms = tuple((n, cut, tuple(of)) for n, cut, of in work)
        places = tuple((at, axis, element) for at, axis, element in moved)
        return Slicing(tuple(sizes), places, tuple(private), terms, size_count, grain)

    def extent(self, sizes: Sequence[int]) -> int:
        """How long the axis is in a launch; 0 where its loops differ."""
        extents = {sizes[k] for k in self.sizes}
        return extents.pop() if len(extents) == 1 else 0

    def work_of(self, extent: int, sizes: Sequence[int]) -> tuple[int, int]:
        """The work of an iteration of the loop over the chunk: that which is sliced, that which every slice repeats."""
        found = [0, 0]
        for n, cut, of in self.work:
            found[not cut] += n * (extent if cut else 1) * math.prod(sizes[k] for k in of)
        return found[0], found[1]


@dataclass(frozen=True)
class Sliced:
    """The loops that are run in slices, and the axis along which each memory argument moves."""

    slicing: Slicing
    loops: tuple[Operation, ...]
    axes: Mapping[int, int]


def slices_of(kernel: FuncOp, ops: Sequence[Operation], outliving: Sequence[Value] = ()) -> Sliced | None:
    """How these loops of a kernel, all of a stretch, may be run in slices; None where they may not.

    What is stored in the memory of ``outliving`` is read behind them, so no slice may have that of its own.
    """
    reader = _Reader(kernel, ops, outliving)
    stored = [memory for memory in reader.memory if not reader.is_scratch(memory) and reader.stores(memory)]
    if not stored:
        return None
    first = stored[0]
    for axis, index in enumerate(reader.accesses[first][0].at):
        loop = loop_of(index)
        choice = reader.linked(first, axis) if loop is not None and reader.may_be_sliced(loop) else None
        if choice is not None and all(memory in choice.axes for memory in stored):
            found = reader.sliced(choice)
            if found is not None:
                return found
    return None


@dataclass(frozen=True)
class _Access:
    """A load or store; ``certain``: whatever conditions say."""

    op: Operation
    at: tuple[Value, ...]
    stores: bool
    certain: bool
    loops: tuple[Operation, ...]


@dataclass
class _Choice:
    """Loops over one axis, and the axis of each memory argument that it is."""

    loops: dict[Operation, None] = field(default_factory=dict)
    axes: dict[Value, int] = field(default_factory=dict)

    def around(self, access: _Access) -> Operation | None:
        """The loop of the choice in which an access stands."""
        return next((loop for loop in access.loops if loop in self.loops), None)


class _Reader:
    def __init__(self, kernel: FuncOp, ops: Sequence[Operation], outliving: Sequence[Value]) -> None:
        self.kernel, self.ops, self.outliving = kernel, ops, outliving
        self.arguments = [arg for arg in kernel.args if isinstance(arg.type, MemRefType)]
        self.sizes = [arg for arg in kernel.args if arg.type == INDEX][2:]
        self.accesses: dict[Value, list[_Access]] = {}
        for op in ops:
            self._walk(op, (), True)
        self.memory = [arg for arg in self.arguments if arg in self.accesses]
        self._by_loop: dict[Operation, list[tuple[Value, int]]] = {}
        for memory, accesses in self.accesses.items():
            for access in accesses:
                for axis, index in enumerate(access.at):
                    loop = loop_of(index)
                    if loop is not None:
                        self._by_loop.setdefault(loop, []).append((memory, axis))

    def is_scratch(self, memory: Value) -> bool:
        """Whether a memory argument is scratch memory."""
        return bool(memory.attrs.get("cnet.scratch"))

    def stores(self, memory: Value) -> bool:
        """Whether anything is stored there."""
        return any(access.stores for access in self.accesses[memory])

    def may_be_sliced(self, loop: Operation) -> bool:
        """Whether a loop runs from 0 to a size of the kernel, and its variable is nothing but an index of memory."""
        lower, upper, step = loop.operands[:3]
        if loop.results or constant_of(lower) != 0 or upper not in self.sizes or constant_of(step) != 1:
            return False
        return all(
            use.op.name in ("memref.load", "memref.store") and use.index > (use.op.name == "memref.store")
            for use in loop.regions[0].block.args[0].uses
        )

    def linked(self, first: Value, axis: int) -> _Choice | None:
        """The loops over an axis of a result, and over what else has their variables as an index."""
        choice = _Choice(axes={first: axis})
        waiting = [first]
        while waiting:
            memory = waiting.pop()
            for access in self.accesses[memory]:
                loop = loop_of(access.at[choice.axes[memory]])
                if loop is None or not self.may_be_sliced(loop):
                    return None
                if loop in choice.loops:
                    continue
                choice.loops[loop] = None
                for other, place in self._by_loop[loop]:
                    if choice.axes.setdefault(other, place) != place:
                        return None
                    if other not in waiting:
                        waiting.append(other)
        return choice

    def sliced(self, choice: _Choice) -> Sliced | None:
        """How the loops of a choice are run in slices; None where these would not be independent."""
        uppers = {loop.operands[1] for loop in choice.loops}
        if any(use.op not in choice.loops or use.index != 1 for upper in uppers for use in upper.uses):
            return None
        private: list[int] = []
        moved: list[tuple[int, int, int]] = []
        begin = 0
        for memory in self.arguments:
            accesses = self.accesses.get(memory, [])
            assert isinstance(memory.type, MemRefType)
            if memory in choice.axes:
                if any(choice.around(a) is not loop_of(a.at[choice.axes[memory]]) for a in accesses):
                    return None
                moved.append((begin, choice.axes[memory], ELEMENT_BYTES[memory.type.dtype]))
            elif any(access.stores for access in accesses):
                is_own = self.is_scratch(memory) and memory not in self.outliving
                if not (is_own and _is_stored_first(accesses, choice)):
                    return None
                private.append(begin)
            begin += 2 + memory.type.rank
        loops = tuple(choice.loops)
        sizes = tuple(sorted(self.sizes.index(upper) for upper in uppers))
        work = tuple(work_of(self.kernel, self.ops, loops))
        slicing = Slicing(sizes, tuple(moved), tuple(private), work, len(self.sizes))
        return Sliced(slicing, loops, {self.arguments.index(memory): axis for memory, axis in choice.axes.items()})

    def _walk(self, op: Operation, loops: tuple[Operation, ...], certain: bool) -> None:
        if op.name in ("memref.load", "memref.store"):
            stores = op.name == "memref.store"
            access = _Access(op, tuple(op.operands[stores + 1 :]), stores, certain, loops)
            self.accesses.setdefault(op.operands[stores], []).append(access)
        for inner in _inside(op):
            self._walk(inner, (*loops, op) if op.name == "scf.for" else loops, certain and op.name != "scf.if")


def _inside(op: Operation) -> Iterator[Operation]:
    for region in op.regions:
        for block in region.blocks:
            yield from block.ops


def _is_stored_first(accesses: Sequence[_Access], choice: _Choice) -> bool:
    """Whether an iteration of one loop that is sliced, or else every slice, stores before it reads."""
    first = accesses[0]
    if not (first.stores and first.certain):
        return False
    loop = choice.around(first)
    if loop is not None:
        return all(choice.around(access) is loop for access in accesses)
    return all(choice.around(access) is None for access in accesses if access.stores)
