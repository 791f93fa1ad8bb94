"""Which kernels may be run by several threads at the same time, each a part of ``begin .. end``: read off the loops.

    scf.for %n = %begin to %end {                       chunks 0..4 and 4..8 store different elements of %y: to be cut;
      p[%c] = f(x[%n, %c])                              p holds one iteration: each thread needs a p of its own
      y[%n, %o] = sum of p[..] * w[%o, ..]
    }
    scf.for %n = %c0 to %n_n {                          the loops over %c are cut, that over %n runs in every chunk;
      scf.for %c = %begin to %end {                     s[%c] is one thread's alone
        s[%c] = (s[%c] if %n > 0 else 0) + ..
    scf.for %c = %begin to %end { y[%c] = s[%c] }

A kernel may be cut if every element that it stores, and reads again, belongs to one iteration of the loops over
``begin .. end``: an index of it is the variable of such a loop.  Scratch memory may also hold what one iteration, or
every chunk anew, stores before it reads: then each thread has a copy.  Where ``begin .. end`` has several stretches
(`stretches.py`) threads meet between them, and that is asked of each stretch alone: what one stretch stores, all
threads may read in the next.  A stretch of which it does not hold is run by one thread.  Where an iteration holds loops
that may be run in slices (`slices.py`), the stretch says so.

A dump that was edited so that iterations depend on each other through results is run by one thread.  Of scratch memory
one thing is taken on trust: where an iteration stores to it before it reads it, what it reads is what it stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import MemRefType
from concatc.loops.chunk_work import Term, distance, work_of
from concatc.loops.leading_digit import leading_step
from concatc.loops.slices import Sliced, Slicing, slices_of
from concatc.loops.stretches import Extent, Loops, constant_of, loop_of, part_of, stretches_of

# How many elements of an axis an iteration of a cut loop has; of a loop over parts, how many there are and the parts.
Step = int | tuple[Value, int]
Axes = frozenset[tuple[int, Step]]


@dataclass(frozen=True)
class Stretch:
    """How chunks of one stretch of a kernel run at the same time.

    ``extent`` is how many iterations it has, None for what is left.  ``alone``: all of it is run by one thread.
    ``private`` is the memory of which each thread has a copy: where the windows of these arguments begin among the
    numbers of a launch (`targets/cpu/abi.py`).  ``repeats`` says that some work is done in every chunk; ``work`` how
    much there is; the unit is an operation of a sum.  Chunks are best of whole ``grain`` iterations.  ``slicing`` says
    how the loops inside may be run in slices, if they may.
    """

    private: tuple[int, ...]
    repeats: bool
    work: tuple[Term, ...]
    grain: int = 1
    extent: Extent | None = None
    alone: bool = False
    slicing: Slicing | None = None

    def data(self) -> list[Any]:
        """The fields in order, for JSON."""
        extent = [self.extent[0], list(self.extent[1])] if self.extent is not None else None
        work = [[n, cut, list(of)] for n, cut, of in self.work]
        slicing = self.slicing and self.slicing.data()
        return [list(self.private), self.repeats, work, self.grain, extent, self.alone, slicing]

    @staticmethod
    def of(data: Sequence[Any]) -> Stretch:
        """What :meth:`data` gave; raises ValueError or TypeError for data of another form."""
        private, repeats, work, grain, extent, alone, slicing = data
        terms = tuple((n, cut, tuple(of)) for n, cut, of in work)
        of_extent = extent and (extent[0], tuple(extent[1]))
        return Stretch(tuple(private), repeats, terms, grain, of_extent, alone, slicing and Slicing.of(slicing))

    def work_of(self, extent: int, sizes: Sequence[int]) -> int:
        """The work of ``extent`` iterations."""
        return sum(n * (extent if cut else 1) * math.prod(sizes[k] for k in of) for n, cut, of in self.work)

    def end(self, begin: int, end: int, sizes: Sequence[int]) -> int:
        """Where it ends if it begins at ``begin`` and all stretches end at ``end``."""
        if self.extent is None:
            return end
        return min(begin + self.extent[0] * math.prod(sizes[k] for k in self.extent[1]), end)


@dataclass(frozen=True)
class Cut:
    """How a kernel is cut: its stretches, in order."""

    stretches: tuple[Stretch, ...]

    @property
    def private(self) -> tuple[int, ...]:
        """What is private in some stretch."""
        of_slices = {at for stretch in self.stretches if stretch.slicing for at in stretch.slicing.private}
        return tuple(sorted(of_slices.union(*(stretch.private for stretch in self.stretches))))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the kernel, by number, that say how much there is to do."""
        products = [of for stretch in self.stretches for _, _, of in stretch.work]
        products += [stretch.extent[1] for stretch in self.stretches if stretch.extent is not None]
        for slicing in (stretch.slicing for stretch in self.stretches if stretch.slicing):
            products += [slicing.sizes, *(of for _, _, of in slicing.work)]
        return tuple(sorted({k for of in products for k in of}))

    def data(self) -> list[Any]:
        """The stretches as data for JSON."""
        return [stretch.data() for stretch in self.stretches]

    @staticmethod
    def of(data: Sequence[Any]) -> Cut:
        """What :meth:`data` gave; raises ValueError or TypeError for data of another form."""
        return Cut(tuple(Stretch.of(stretch) for stretch in data))

    def with_grains(self, grains: Sequence[int]) -> Cut:
        """The same cut in chunks, then slices, of whole grains, by stretch; those that are missing are 1."""
        count = len(self.stretches)
        each = [*grains, *(1,) * 2 * count]
        return Cut(
            tuple(
                replace(s, grain=grain, slicing=s.slicing and replace(s.slicing, grain=of_slices))
                for s, grain, of_slices in zip(self.stretches, each, each[count:], strict=False)
            )
        )

    def without_slices(self) -> Cut:
        """The same cut where nothing is run in slices."""
        return Cut(tuple(replace(stretch, slicing=None) for stretch in self.stretches))


@dataclass(frozen=True)
class Cutting:
    """A cut, and what it rests on, by stretch: ``owned`` are the axes of each memory argument that say which chunk an
    element belongs to, with their steps (none where elements do not belong to chunks), ``stored`` are the results,
    ``moved`` the axis along which memory arguments move from slice to slice.
    """

    cut: Cut
    owned: tuple[Mapping[int, Axes], ...]
    stored: tuple[frozenset[int], ...]
    moved: tuple[Mapping[int, int], ...]

    @property
    def results(self) -> list[int]:
        """What is stored in any stretch."""
        return sorted(frozenset[int]().union(*self.stored))

    def agrees(self, first: int, second: int) -> bool:
        """Whether elements of two arguments in one place belong to one chunk, wherever the first is stored."""
        pairs = [
            (owned.get(first, Axes()), owned[second])
            for owned, stored in zip(self.owned, self.stored, strict=True)
            if first in stored and second in owned
        ]
        return all(mine & theirs for mine, theirs in pairs)

    def agrees_in_slices(self, first: int, second: int) -> bool:
        """The same of slices."""
        return all(
            first in moved and moved[first] == moved.get(second)
            for moved, owned, stored in zip(self.moved, self.owned, self.stored, strict=True)
            if moved and first in stored and second in owned
        )


def cutting_of(kernel: FuncOp) -> Cutting | None:
    """How a kernel may be cut; None where it may not."""
    reader = _Reader(kernel, stretches_of(kernel))
    if not reader.stretches or not reader.walk(kernel.body, None, certain=True):
        return None
    found = [_Found(kernel, loops, len(reader.stretches) == 1) for loops in reader.stretches]
    at = 0
    for number, memory in enumerate(reader.memory):
        begins, at = at, at + _numbers_of(memory)
        accesses = [reader.accesses_in(k, memory) for k in range(len(found))]
        is_scratch = bool(memory.attrs.get("cnet.scratch"))
        # A copy of each thread is gone behind the stretch.
        may_be_private = is_scratch and all(_is_stored_first(a) for a in accesses if a)
        for k, stretch in enumerate(found):
            stretch.add(number, begins, accesses[k], is_scratch, may_be_private)
            others = [a for j, a in enumerate(accesses) if a and j != k]
            if not all(_is_stored_first(a) for a in others):
                stretch.outliving.append(memory)
    for stretch in found:
        stretch.sliced = slices_of(kernel, stretch.ops, stretch.outliving)
    if all(stretch.alone and stretch.sliced is None for stretch in found):
        return None
    return Cutting(
        Cut(tuple(stretch.made for stretch in found)),
        tuple(stretch.owned for stretch in found),
        tuple(frozenset(stretch.stored) for stretch in found),
        tuple(stretch.sliced.axes if stretch.sliced is not None else {} for stretch in found),
    )


def _numbers_of(memory: Value) -> int:
    """How many numbers the window of a memory argument is in a launch: base, offset, strides."""
    assert isinstance(memory.type, MemRefType)
    return 2 + memory.type.rank


@dataclass(frozen=True)
class _Access:
    """A load or store: the cut loop around it, the axes that are indexed by its variable, and whether it is made
    whatever conditions say.
    """

    stores: bool
    loop: Operation | None
    axes: Axes
    certain: bool


@dataclass
class _Found:
    """What was found of a stretch so far; ``outliving`` is the memory that another stretch reads what was stored in."""

    kernel: FuncOp
    loops: Loops
    is_only: bool
    owned: dict[int, Axes] = field(default_factory=dict)
    stored: list[int] = field(default_factory=list)
    private: list[int] = field(default_factory=list)
    alone: bool = False
    repeats: bool = False
    outliving: list[Value] = field(default_factory=list)
    sliced: Sliced | None = None

    @property
    def ops(self) -> Sequence[Operation]:
        """What is run in it."""
        return self.kernel.body.ops if self.is_only else self.loops.ops

    def add(
        self, number: int, begins: int, accesses: Sequence[_Access], is_scratch: bool, may_be_private: bool
    ) -> None:
        """Take the accesses to a memory argument, the window of which ``begins`` there."""
        if not accesses:
            return
        self.owned[number] = _owned(accesses)
        if not any(access.stores for access in accesses):
            return
        self.repeats |= any(access.stores and access.loop is None for access in accesses)
        if not is_scratch:
            self.stored.append(number)
        if self.owned[number]:
            return
        if may_be_private:
            self.private.append(begins)
        else:
            self.alone = True

    @property
    def made(self) -> Stretch:
        """The stretch."""
        work = tuple(work_of(self.kernel, self.ops, self.loops.ops))
        private = () if self.alone else tuple(self.private)
        slicing = self.sliced.slicing if self.sliced is not None else None
        return Stretch(private, self.repeats, work, extent=self.loops.extent, alone=self.alone, slicing=slicing)


def _owned(accesses: Sequence[_Access]) -> Axes:
    """The axes along which every access stays in its chunk."""
    axes = [access.axes for access in accesses]
    return frozenset.intersection(*axes) if axes else Axes()


def _is_stored_first(accesses: Sequence[_Access]) -> bool:
    """Whether an iteration of one cut loop, or else every chunk, stores before it reads."""
    first = accesses[0]
    if not (first.stores and first.certain):
        return False
    if first.loop is not None:
        return all(access.loop is first.loop for access in accesses)
    return all(access.loop is None for access in accesses if access.stores)


@dataclass
class _Reader:
    kernel: FuncOp
    stretches: list[Loops]
    memory: list[Value] = field(init=False)
    accesses: dict[Value, list[_Access]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory = [arg for arg in self.kernel.args if isinstance(arg.type, MemRefType)]
        self._loops = {op: k for k, loops in enumerate(self.stretches) for op in loops.ops}

    def accesses_in(self, k: int, memory: Value) -> list[_Access]:
        """The accesses in a stretch; those outside of all loops over the chunk belong to the only one."""
        found = self.accesses.get(memory, [])
        return [a for a in found if (self._loops[a.loop] if a.loop is not None else 0) == k]

    def walk(self, block: Block, loop: Operation | None, certain: bool) -> bool:
        """Take down all accesses, in order; whether nothing else is done with memory."""
        return all(self._visit(op, loop, certain) for op in block.ops)

    def _visit(self, op: Operation, loop: Operation | None, certain: bool) -> bool:
        if op.name in ("memref.load", "memref.store"):
            if loop is None and len(self.stretches) > 1:
                return False
            stores = op.name == "memref.store"
            memory, at = op.operands[stores], op.operands[stores + 1 :]
            steps = [_step_of(index, loop) if loop is not None else None for index in at]
            axes = frozenset((d, step) for d, step in enumerate(steps) if step is not None)
            self.accesses.setdefault(memory, []).append(_Access(stores, loop, axes, certain))
            return memory in self.memory
        if any(isinstance(value.type, MemRefType) for value in op.operands):
            return False
        inner = loop
        if op in self._loops:
            if loop is not None:
                return False
            inner = op
        certain = certain and op.name != "scf.if"
        return all(self.walk(block, inner, certain) for region in op.regions for block in region.blocks)


def _step_of(index: Value, loop: Operation) -> Step | None:
    """How many elements of an axis belong to an iteration of the loop, where the index stays among those of its own.

    ``i`` has one, ``i * 8 + j`` with ``j`` below 8 has eight, as has what runs over the block ``i * 8 .. min(i * 8 + 8,
    n)``; of parts ``(n, parts)`` says it.  Of two accesses with one step none touches what belongs to another iteration
    of the other one.
    """
    variable = loop.regions[0].block.args[0]
    step = leading_step(variable, index)
    if step is not None:
        return step
    inner = loop_of(index)
    if inner is None or index is not inner.regions[0].block.args[0]:
        return None
    lower, upper = inner.operands[:2]
    part = part_of(lower, upper)
    if part is not None:
        return part[1:] if part[0] is variable else None
    block = _product_with(variable, lower)
    ends = upper.op.operands if upper.op is not None and upper.op.name == "arith.minsi" else (upper,)
    return block if block is not None and any(distance(lower, end) in range(1, block + 1) for end in ends) else None


def _product_with(variable: Value, value: Value) -> int | None:
    """``n`` of ``variable * n``."""
    op = value.op
    if op is None or op.name != "arith.muli" or variable not in op.operands:
        return None
    return constant_of(op.operands[1 - op.operands.index(variable)])
