"""Puts a contraction and what stands behind it into one outer loop, over images or blocks.

    y[n, o, i, j] = sum of ..                     for n:
    z[n, o, i, j] = f(y[n, o, i, j])        ->      y[o, i, j] = sum of ..                           scratch
    t[o] = sum of y[n, o, i, j]                     z[n, o, i, j] = f(y[o, i, j])
    u[o] = g(t[o])                                  s[o] += sum of y[o, i, j]                        0 before the loop
                                                  u[o] = g(s[o])

What is computed of an image is read while it is there, and never stored for the batch.  A sum over all images adds up
image by image in scratch memory; what is made of such sums stands behind the loop (`sums_in_turn.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.loops.accesses import Accesses
from concatc.loops.expr import Axis, Const, Expr, loads, rebuild
from concatc.loops.program import Program, Statement
from concatc.loops.sums_in_turn import sum_in_turn

# Parts of the outer loop where sums of results stand in it: they are small.
PARTS = 8


@dataclass(frozen=True)
class _Sum:
    """A sum over all images: ``image`` is the axis of the statement that becomes the outer loop."""

    statement: Statement
    image: Axis


def share_outer_loop(program: Program, fold: Statement, outer: Axis, block: int) -> bool:
    """Let the fold and all other statements that read it run inside of a loop over ``outer``; whether they can."""
    kept = [s for s in program.statements if s is not fold and (s.target.results or not s.target.inlined)]
    dim = fold.piece.at.index(outer)
    inside = [s for s in kept if _is_inside(s, fold, dim)]
    rest = [s for s in kept if s not in inside]
    if rest and block > 1:
        return False
    reads = Accesses()
    sums = [_Sum(s, image) for s in rest if (image := _image_axis(s, fold, dim, reads)) is not None]
    behind = [s for s in rest if s not in [found.statement for found in sums]]
    if not _are_independent([fold, *inside], [found.statement for found in sums], behind, reads):
        return False
    if sums:
        inside += _keep_what_is_shared(program, fold, dim, reads)
    program.block = block
    put_outside(fold, outer)
    fold.apart = True
    for statement in inside:
        axis = statement.piece.at[dim]
        assert isinstance(axis, Axis)
        put_outside(statement, axis)
    for found in sums:
        sum_in_turn(program, found.statement, found.image, PARTS)
    return True


def put_outside(statement: Statement, axis: Axis) -> None:
    """Make ``axis`` the outermost one."""
    others = tuple(a for a in statement.piece.axes if a is not axis)
    statement.piece = replace(statement.piece, axes=(axis, *others))
    statement.outer = axis


def leave_outer_loop(program: Program) -> bool:
    """Take statements out of an outer loop of one iteration again; False where sums add up in it."""
    inside = [s for s in program.statements if s.outer is not None]
    if any(s.repeated or s.clears for s in inside):
        return False
    first = Const(0, "index")
    for statement in inside:
        by: dict[Expr, Expr] = {axis: first for axis in (statement.outer,) if axis is not None}
        piece = statement.piece

        def only(expr: Expr, by: dict[Expr, Expr] = by) -> Expr:
            return rebuild(expr, by.get)

        statement.piece = replace(
            piece,
            axes=tuple(axis for axis in piece.axes if axis is not statement.outer),
            at=tuple(only(index) for index in piece.at),
            value=only(piece.value),
            where=only(piece.where) if piece.where is not None else None,
            index=only(piece.index) if piece.index is not None else None,
        )
        statement.outer = None
    return True


def _is_inside(statement: Statement, fold: Statement, dim: int) -> bool:
    """Whether a statement stores something of the result's shape, one iteration of the outer loop at a time."""
    piece = statement.piece
    same = statement.kind == "store" and statement.target.type.shape == fold.target.type.shape
    return same and len(piece.at) > dim and piece.at[dim] in piece.parallel


def _image_axis(statement: Statement, fold: Statement, dim: int, reads: Accesses) -> Axis | None:
    """The axis over which a sum of what the fold makes can be added up, image by image; None for other statements."""
    piece = statement.piece
    if statement.kind != "fold" or piece.combine != "add" or piece.where is not None or piece.index is not None:
        return None
    shape = fold.target.type.shape
    axes = {load.at[dim] for load in loads(piece.value) if statement.buffer(load.ref).type.shape == shape}
    through = {at[dim] for buffer, at in reads.of(statement) if buffer is fold.target}
    if len(axes) != 1 or through != axes:
        return None
    (axis,) = axes
    return axis if isinstance(axis, Axis) and axis in piece.reduce else None


def _keep_what_is_shared(program: Program, fold: Statement, dim: int, reads: Accesses) -> list[Statement]:
    """Keep in scratch memory what all readers of the fold compute first, so that it is computed once."""
    chain: list[Statement] = []
    while True:
        made = chain[-1].target if chain else fold.target
        readers = [s for s in program.statements if any(buffer is made for buffer, _ in reads.direct(s))]
        if len(readers) != 1 or not readers[0].target.inlined or readers[0].target.results:
            break
        if not _is_inside(readers[0], fold, dim):
            break
        chain += readers
    for statement in chain[-1:]:
        statement.target.inlined = False
    return chain[-1:]


def _are_independent(
    inside: Sequence[Statement], sums: Sequence[Statement], behind: Sequence[Statement], reads: Accesses
) -> bool:
    """Whether nothing in the loop reads what is complete behind it only, and nothing behind it reads one image."""
    later = [s.target for s in (*sums, *behind)]
    if any(buffer in later for s in (*inside, *sums) for buffer, _ in reads.of(s)):
        return False
    images = [s.target for s in inside]
    return not any(buffer in images for s in behind for buffer, _ in reads.of(s))
