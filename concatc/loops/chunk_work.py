"""How much is done in loops, from their text: operations, by what their extents are.

scf.for %i = %begin to %end { scf.for %k = %c0 to %n_k { 3 operations of a sum } }   ->   (3, True, (0,))
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import INDEX
from concatc.loops.stretches import constant_of, part_of

# How many operations of a sum take the time of one elsewhere: sums of products run out of registers.
FOLDED = 16
# A product of a number, of the extent of the chunk if the flag is set, and of sizes of the kernel by their number.
Term = tuple[int, bool, tuple[int, ...]]


def work_of(kernel: FuncOp, ops: Sequence[Operation], chunked: Collection[Operation]) -> Iterator[Term]:
    """The work of some operations of a kernel; ``chunked`` are the loops over the chunk."""
    sizes = [arg for arg in kernel.args if arg.type == INDEX][2:]
    number = {size: k for k, size in enumerate(sizes)}
    found: dict[tuple[bool, tuple[int, ...]], Fraction] = {}

    def walk(ops: Sequence[Operation], times: Fraction, cut: bool, of: tuple[int, ...], weight: int) -> None:
        key = (cut, tuple(sorted(of)))
        here = sum(op.name not in ("arith.constant", "scf.yield") and not op.regions for op in ops)
        found[key] = found.get(key, Fraction(0)) + times * here * weight
        for op in ops:
            inner, repeated, cuts, extents = weight, times, cut, of
            if op.name == "scf.for":
                lower, upper = op.operands[:2]
                low, high = constant_of(lower), constant_of(upper)
                inner = 1 if op.results else weight
                part = part_of(lower, upper)
                if op in chunked:
                    cuts = True
                elif upper in number:
                    extents = (*of, number[upper])
                elif low is not None and high is not None:
                    repeated *= max(high - low, 0)
                elif part is not None and part[1] in number:
                    extents, repeated = (*of, number[part[1]]), repeated / part[2]
                elif upper.op is not None:
                    ends = upper.op.operands if upper.op.name == "arith.minsi" else (upper,)
                    repeated *= max(1, *(distance(lower, end) for end in ends))
            for region in op.regions:
                for body in region.blocks:
                    walk(body.ops, repeated, cuts, extents, inner)

    walk(ops, Fraction(1), False, (), FOLDED)
    return ((-(-n.numerator // n.denominator), cut, of) for (cut, of), n in found.items() if n)


def distance(lower: Value, end: Value) -> int:
    """``n`` of ``end = lower + n``; 0 where it is another value."""
    op = end.op
    if op is None or op.name != "arith.addi" or lower not in op.operands:
        return 0
    return constant_of(op.operands[1 - op.operands.index(lower)]) or 0
