"""Chooses the loops of a kernel that run over ``begin .. end``.

    for n: for c: s[c] += sum of dy[n, c, ..]                for n: for c in begin .. end: s[c] += ..
    for c: db[c] = s[c]                               ->     for c in begin .. end: db[c] = s[c]

These are loops over one axis, linked by the values that they hand to each other, one around every statement that
stores a result.  What stands outside of them is done in every chunk (an image that is packed for all output channels).
Where there are no such loops, or something would be done in every chunk, loops that follow each other run over
stretches of ``begin .. end``, one behind the other, and threads meet in between:

    for c: u[c, o] = G w Gt                                  for c in 0 .. C of begin .. end: u[c, o] = ..
    for n: y[n, o] = sum of x[n, c] * u[c, o]         ->     for n in C .. C + N of begin .. end: y[n, o] = ..

With one chunk, which is all of the axes, the kernel does what it did; whether chunks may run at the same time is read
off its loops (`cuts.py`).  The choice does not depend on sizes that a batch may change.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.loops.accesses import Accesses
from concatc.loops.program import Buffer, Nest, Statement
from concatc.loops.scratch import loop_of

# Fewer elements than some vectors are not cut along lanes where another axis can be.
FEW = 64


def cut_loops(root: Nest, statements: Sequence[Statement], reads: Accesses) -> list[list[Nest]]:
    """The loops over each stretch of the chunk; none where no axis will do."""
    items = root.items
    if len(items) == 1 and isinstance(items[0], Nest):
        return [[items[0]]]
    if any(statement.kind == "scatter" for statement in statements):
        return []
    found: list[tuple[tuple[bool, int], int, list[Nest]]] = []
    for arguments in (False, True):
        found = found or [
            (_rank(loops, statements), k, loops)
            for k, loops in enumerate(_linked(statements, reads, arguments))
            if _are_cut(loops, statements, reads)
        ]
    repeated = min(found)[0][1] if found else 1
    stretches = _stretches(root, statements, reads) if repeated else []
    return stretches or [min(found)[2] for _ in found[:1]]


def outer_extent(cut: Sequence[Sequence[Nest]]) -> tuple[int, int]:
    """How many iterations the loops over the chunk have, and how many of them are one of ``begin .. end``."""
    if not cut:
        return 1, 1
    loops = [loops[0] for loops in cut]
    if len(loops) == 1 and loops[0].parts == 1 and loops[0].axis is not None:
        return loops[0].axis.extent, loops[0].block
    return sum(nest.parts if nest.parts > 1 else nest.axis.extent for nest in loops if nest.axis), 1


def _stretches(root: Nest, statements: Sequence[Statement], reads: Accesses) -> list[list[Nest]]:
    """The outermost loops, those together that are linked; none where not all of a kernel stands in such loops."""
    nests = [item for item in root.items if isinstance(item, Nest)]
    if len(nests) < len(root.items) or any(nest.block > 1 or nest.axis is None for nest in nests):
        return []
    found: list[list[Nest]] = []
    for nest in nests:
        if found and _continues(nest, found[-1], statements, reads):
            found[-1].append(nest)
        else:
            found.append([nest])
    return found


def _continues(nest: Nest, before: Sequence[Nest], statements: Sequence[Statement], reads: Accesses) -> bool:
    """Whether each iteration of a loop reads what the same one of the loops before it wrote, and nothing else there."""
    first = before[0]
    if nest.axis is None or first.axis is None or nest.axis.extent != first.axis.extent or first.parts != nest.parts:
        return False
    linked: list[bool] = []
    for reader in (s for s in statements if s.path and s.path[0] is nest):
        for buffer, at in reads.of(reader):
            for writer in (w for w in buffer.writers if w.path and w.path[0] in before):
                loops = ((loop_of(reader, r), loop_of(writer, w)) for r, w in zip(at, writer.piece.at, strict=True))
                linked.append(any(mine is nest and theirs is writer.path[0] for mine, theirs in loops))
    return bool(linked) and all(linked)


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
