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
every chunk anew, stores before it reads: then each thread has a copy.  Nothing is taken on trust: a dump that was
edited so that iterations depend on each other is run by one thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import INDEX, MemRefType

# How many operations of a sum take the time of one elsewhere: sums of products run out of registers.
FOLDED = 16
Term = tuple[int, bool, tuple[int, ...]]


@dataclass(frozen=True)
class Cut:
    """How chunks of a kernel run at the same time.

    ``private`` is the memory of which each thread has a copy: where the windows of these arguments begin among the
    numbers of a launch (`targets/cpu/abi.py`).  ``repeats`` says that some work is done in every chunk; ``work`` how
    much there is: a sum of products of a number, of the extent of the chunk if the flag is set, and of sizes of the
    kernel by their number; the unit is an operation of a sum.  Chunks are best of whole ``grain`` iterations.
    """

    private: tuple[int, ...]
    repeats: bool
    work: tuple[Term, ...]
    grain: int = 1

    def data(self) -> list[Any]:
        """The fields in order, for JSON."""
        return [list(self.private), self.repeats, [[n, cut, list(of)] for n, cut, of in self.work], self.grain]

    @staticmethod
    def of(data: Sequence[Any]) -> Cut:
        """What :meth:`data` gave; raises ValueError or TypeError for data of another form."""
        private, repeats, work, grain = data
        return Cut(tuple(private), repeats, tuple((n, cut, tuple(of)) for n, cut, of in work), grain)

    def with_grain(self, grain: int) -> Cut:
        """The same cut in chunks of whole grains."""
        return replace(self, grain=grain)

    def work_of(self, extent: int, sizes: Sequence[int]) -> int:
        """The work of ``extent`` iterations."""
        return sum(n * (extent if cut else 1) * math.prod(sizes[k] for k in of) for n, cut, of in self.work)


@dataclass(frozen=True)
class Cutting:
    """A cut, and what it rests on: ``owned`` are the axes of each memory argument that say which chunk an element
    belongs to (none where elements do not belong to chunks), ``stored`` are the results.
    """

    cut: Cut
    owned: Mapping[int, frozenset[int]]
    stored: tuple[int, ...]

    def agrees(self, first: int, second: int) -> bool:
        """Whether elements of two arguments in one place belong to one chunk."""
        return bool(self.owned[first] & self.owned[second])


def cutting_of(kernel: FuncOp) -> Cutting | None:
    """How a kernel may be cut; None where it may not."""
    reader = _Reader(kernel)
    if not reader.loops or not reader.walk(kernel.body, None, certain=True):
        return None
    owned: dict[int, frozenset[int]] = {}
    private: list[int] = []
    stored: list[int] = []
    at = 0
    for number, memory in enumerate(reader.memory):
        begins, at = at, at + _numbers_of(memory)
        accesses = reader.accesses.get(memory, [])
        owned[number] = _owned(accesses)
        if not any(access.stores for access in accesses):
            continue
        if not memory.attrs.get("cnet.scratch"):
            stored.append(number)
        if owned[number]:
            continue
        if not memory.attrs.get("cnet.scratch") or not _is_stored_first(accesses):
            return None
        private.append(begins)
    repeats = any(access.stores and access.loop is None for found in reader.accesses.values() for access in found)
    return Cutting(Cut(tuple(private), repeats, tuple(_work(kernel))), owned, tuple(stored))


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
    axes: frozenset[int]
    certain: bool


def _owned(accesses: Sequence[_Access]) -> frozenset[int]:
    """The axes along which every access stays in its chunk."""
    axes = [access.axes for access in accesses]
    return frozenset.intersection(*axes) if axes else frozenset()


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
    memory: list[Value] = field(init=False)
    loops: list[Operation] = field(init=False)
    accesses: dict[Value, list[_Access]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        args = self.kernel.args
        self.memory = [arg for arg in args if isinstance(arg.type, MemRefType)]
        is_chunked = len(args) > 1 and args[0].type == INDEX and args[1].type == INDEX
        self.loops = self._cut_loops(args[0], args[1]) if is_chunked else []

    def _cut_loops(self, begin: Value, end: Value) -> list[Operation]:
        """The loops over the chunk; none where it is used for anything else."""
        loops = [use.op for use in begin.uses]
        used = [(use.op, use.index) for value in (begin, end) for use in value.uses]
        if used != [(loop, k) for k in (0, 1) for loop in loops]:
            return []
        whole = all(loop.name == "scf.for" and not loop.results and _constant(loop.operands[2]) == 1 for loop in loops)
        return loops if whole else []

    def walk(self, block: Block, loop: Operation | None, certain: bool) -> bool:
        """Take down all accesses, in order; whether nothing else is done with memory."""
        return all(self._visit(op, loop, certain) for op in block.ops)

    def _visit(self, op: Operation, loop: Operation | None, certain: bool) -> bool:
        if op.name in ("memref.load", "memref.store"):
            stores = op.name == "memref.store"
            memory, at = op.operands[stores], op.operands[stores + 1 :]
            axes = frozenset(d for d, index in enumerate(at) if loop is not None and _is_of(index, loop))
            self.accesses.setdefault(memory, []).append(_Access(stores, loop, axes, certain))
            return memory in self.memory
        if any(isinstance(value.type, MemRefType) for value in op.operands):
            return False
        inner = loop
        if op in self.loops:
            if loop is not None:
                return False
            inner = op
        certain = certain and op.name != "scf.if"
        return all(self.walk(block, inner, certain) for region in op.regions for block in region.blocks)


def _is_of(index: Value, loop: Operation) -> bool:
    """Whether an index takes values in one iteration of the loop that it takes in no other.

    It is the loop's variable, or runs over that one's block: ``i * 8 .. min(i * 8 + 8, n)``.
    """
    variable = loop.regions[0].block.args[0]
    if index is variable:
        return True
    inner = index.owner.region.parent if isinstance(index.owner, Block) and index.owner.region is not None else None
    if inner is None or inner.name != "scf.for" or index is not inner.regions[0].block.args[0]:
        return False
    lower, upper = inner.operands[:2]
    block = _product_with(variable, lower)
    ends = upper.op.operands if upper.op is not None and upper.op.name == "arith.minsi" else (upper,)
    return block is not None and any(_distance(lower, end) in range(1, block + 1) for end in ends)


def _product_with(variable: Value, value: Value) -> int | None:
    """``n`` of ``variable * n``."""
    op = value.op
    if op is None or op.name != "arith.muli" or variable not in op.operands:
        return None
    return _constant(op.operands[1 - op.operands.index(variable)])


def _distance(lower: Value, end: Value) -> int:
    """``n`` of ``end = lower + n``; 0 where it is another value."""
    op = end.op
    if op is None or op.name != "arith.addi" or lower not in op.operands:
        return 0
    return _constant(op.operands[1 - op.operands.index(lower)]) or 0


def _constant(value: Value) -> int | None:
    literal = value.op.attributes["value"] if value.op is not None and value.op.name == "arith.constant" else None
    return literal if isinstance(literal, int) else None


def _work(kernel: FuncOp) -> Iterator[Term]:
    """The work of a kernel, by what its loops' extents are."""
    begin, *sizes = (arg for arg in kernel.args if arg.type == INDEX)
    number = {size: k for k, size in enumerate(sizes[1:])}
    found: dict[tuple[bool, tuple[int, ...]], int] = {}

    def walk(block: Block, times: int, cut: bool, of: tuple[int, ...], weight: int) -> None:
        key = (cut, tuple(sorted(of)))
        here = sum(op.name not in ("arith.constant", "scf.yield") and not op.regions for op in block.ops)
        found[key] = found.get(key, 0) + times * here * weight
        for op in block.ops:
            inner, repeated, cuts, extents = weight, times, cut, of
            if op.name == "scf.for":
                lower, upper = op.operands[:2]
                low, high = _constant(lower), _constant(upper)
                inner = 1 if op.results else weight
                cuts |= lower is begin
                if upper in number:
                    extents = (*of, number[upper])
                elif low is not None and high is not None:
                    repeated *= max(high - low, 0)
                elif lower is not begin and upper.op is not None:
                    ends = upper.op.operands if upper.op.name == "arith.minsi" else (upper,)
                    repeated *= max(1, *(_distance(lower, end) for end in ends))
            for region in op.regions:
                for body in region.blocks:
                    walk(body, repeated, cuts, extents, inner)

    walk(kernel.body, 1, False, (), FOLDED)
    return ((n, cut, of) for (cut, of), n in found.items() if n)
