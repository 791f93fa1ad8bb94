"""Which values of a kernel need scratch memory, and which of their axes it keeps.

A value that is read where it was computed needs none; else the axes are left out whose loop its writers and readers
share, and of an axis that they run over in blocks, block by block, one block is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.loops.accesses import Accesses, Place
from concatc.loops.expr import Axis, Const, Expr
from concatc.loops.program import Buffer, Nest, Statement, is_scattered


def assign_scratch(statements: Sequence[Statement], reads: Accesses) -> list[Buffer]:
    """Give scratch memory to the values that need it; these values, in order of their first reader."""
    found: dict[Buffer, list[tuple[Statement, tuple[Place, ...]]]] = {}
    for statement in statements:
        if statement.kind == "scatter" and not statement.target.results:
            found.setdefault(statement.target, [])
        for buffer, at in reads.of(statement):
            if buffer.argument is None:
                found.setdefault(buffer, []).append((statement, at))
    scratch: list[Buffer] = []
    for buffer, readers in found.items():
        if readers and all(_forwarded(buffer, reader, at) for reader, at in readers):
            continue
        shared = [m for m in range(buffer.type.rank) if all(_same_loop(buffer, m, r, at) for r, at in readers)]
        buffer.scratch = tuple(m for m in range(buffer.type.rank) if m not in shared or is_scattered(buffer))
        blocks = ((m, [loop_of(r, at[m]) for r, at in readers]) for m in buffer.scratch)
        buffer.blocked = next(((m, nest) for m, loops in blocks if (nest := _block_of(buffer, m, loops))), None)
        scratch.append(buffer)
    return scratch


def _forwarded(buffer: Buffer, reader: Statement, at: Sequence[Place]) -> bool:
    """Whether the reader stands where the value that it reads was just computed."""
    if len(buffer.writers) != 1 or buffer.writers[0].kind == "scatter" or buffer.writers[0].piece.where is not None:
        return False
    (writer,) = buffer.writers
    return reader.path[: len(writer.path)] == writer.path and all(
        place == mine if isinstance(mine, Const) else _same_loop(buffer, m, reader, at)
        for m, (mine, place) in enumerate(zip(writer.piece.at, at, strict=True))
    )


def _same_loop(buffer: Buffer, m: int, reader: Statement, at: Sequence[Place]) -> bool:
    """Whether all writers and this reader index axis ``m`` of the buffer by one loop that they share."""
    loop = loop_of(reader, at[m])
    return loop is not None and all(loop_of(writer, writer.piece.at[m]) is loop for writer in buffer.writers)


def _block_of(buffer: Buffer, m: int, readers: Sequence[Nest | None]) -> Nest | None:
    """The loop over blocks of axis ``m`` that all writers and readers share; None where there is none."""
    loops = [*readers, *(loop_of(writer, writer.piece.at[m]) for writer in buffer.writers)]
    outer = [loop.within if loop is not None else None for loop in loops]
    return outer[0] if all(nest is outer[0] for nest in outer) else None


def loop_of(statement: Statement, place: Expr | Place) -> Nest | None:
    """The loop that an index is; None for any other index."""
    if not isinstance(place, Axis) or place not in statement.piece.parallel or statement.kind == "scatter":
        return None
    return statement.path[statement.piece.parallel.index(place)]


def scratch_shape(buffer: Buffer) -> tuple[int, ...]:
    """The shape of a buffer's scratch memory."""
    assert buffer.scratch is not None
    extents = list(buffer.type.shape)
    if buffer.blocked is not None:
        m, nest = buffer.blocked
        extents[m] = min(extents[m], nest.block)
    return tuple(extents[m] for m in buffer.scratch)
