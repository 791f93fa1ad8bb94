"""Chooses the loops of a kernel that run over ``begin .. end``, where it is not one nest with its outermost loop.

    for n: for c: s[c] += sum of dy[n, c, ..]                for n: for c in begin .. end: s[c] += ..
    for c: db[c] = s[c]                               ->     for c in begin .. end: db[c] = s[c]

These are loops over one axis, linked by the values that they hand to each other, one around every statement that
stores a result.  What stands outside of them is done in every chunk (an image that is packed for all output channels).
With one chunk, which is all of the axis, the kernel does what it did; whether chunks may run at the same time is read
off its loops (`cuts.py`).  The choice does not depend on sizes that a batch may change.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.loops.accesses import Accesses
from concatc.loops.program import Buffer, Nest, Statement
from concatc.loops.scratch import loop_of

# Fewer elements than some vectors are not cut along lanes where another axis can be.
FEW = 64


def cut_loops(root: Nest, statements: Sequence[Statement], reads: Accesses) -> list[Nest]:
    """The loops over the chunk; none where no axis will do."""
    items = root.items
    if len(items) == 1 and isinstance(items[0], Nest):
        return [items[0]]
    if any(statement.kind == "scatter" for statement in statements):
        return []
    for arguments in (False, True):
        found = [
            (_rank(loops, statements), k, loops)
            for k, loops in enumerate(_linked(statements, reads, arguments))
            if _are_cut(loops, statements, reads)
        ]
        if found:
            return min(found)[2]
    return []


def _linked(statements: Sequence[Statement], reads: Accesses, arguments: bool) -> list[list[Nest]]:
    """Classes of loops: one reads at its index what another one wrote there; perhaps also, both read one argument."""
    indexed: list[tuple[Nest | None, Nest | None]] = []
    readers: dict[tuple[Buffer, int], Nest] = {}
    for reader in statements:
        for buffer, at in reads.of(reader):
            for m, place in enumerate(at):
                loop = loop_of(reader, place)
                writers = [writer for writer in buffer.writers if writer in statements]
                indexed += [(loop_of(writer, writer.piece.at[m]), loop) for writer in writers]
                if arguments and buffer.argument is not None and loop is not None:
                    indexed.append((readers.setdefault((buffer, m), loop), loop))
    group: dict[Nest, list[Nest]] = {}
    for statement in statements:
        for nest in statement.path:
            group.setdefault(nest, [nest])
    for first, second in indexed:
        if first is None or second is None or group[first] is group[second]:
            continue
        one, other = group[first], group[second]
        one += other
        group.update((nest, one) for nest in other)
    return list({id(loops): loops for loops in group.values()}.values())


def _are_cut(loops: Sequence[Nest], statements: Sequence[Statement], reads: Accesses) -> bool:
    """Whether every result is stored in one of the loops, at its index, and nothing outside reads what is inside."""
    first = loops[0].axis
    for nest in loops:
        if nest.static or nest.block > 1 or nest.within is not None or nest.axis is None or first is None:
            return False
        if nest.axis.extent != first.extent:
            return False
    for statement in statements:
        around = [nest for nest in statement.path if nest in loops]
        if len(around) > 1:
            return False
        writers = [writer for buffer, _ in reads.of(statement) for writer in buffer.writers]
        if not around and (statement.target.results or any(nest in loops for w in writers for nest in w.path)):
            return False
        if statement.target.results and all(loop_of(statement, i) not in around for i in statement.piece.at):
            return False
    return True


def _rank(loops: Sequence[Nest], statements: Sequence[Statement]) -> tuple[bool, int]:
    """Lower is better: lanes of sums that are long enough, and few statements that every chunk repeats."""
    lanes = [s.path[-1] for s in statements if s.repeated and s.path]
    short = any(nest in lanes and nest.axis is not None and nest.axis.extent < FEW for nest in loops)
    return short, sum(not any(nest in loops for nest in s.path) for s in statements)
