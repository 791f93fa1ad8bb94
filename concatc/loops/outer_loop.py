"""Puts a contraction and what stands behind it into one outer loop, over images or blocks.

    y[n, o, i, j] = sum of ..                     for n:
    z[n, o, i, j] = f(y[n, o, i, j])        ->      y[o, i, j] = sum of ..                           scratch
    t[o] = sum of y[n, o, i, j]                     z[n, o, i, j] = f(y[o, i, j])
    u[o] = g(t[o])                                  s[o] = (s[o] if n > 0 else 0) + sum of y[o, i, j]
                                                  u[o] = g(s[o])

What is computed of an image is read while it is there, and never stored for the batch.  A sum over all images adds up
image by image in scratch memory; what is made of such sums stands behind the loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.loops.accesses import Accesses
from concatc.loops.expr import Axis, Expr, Ref, loads, rebuild
from concatc.loops.pieces import pointwise
from concatc.loops.program import Buffer, Program, Statement


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
        sum_in_turn(program, found.statement, found.image)
    return True


def put_outside(statement: Statement, axis: Axis) -> None:
    """Make ``axis`` the outermost one."""
    others = tuple(a for a in statement.piece.axes if a is not axis)
    statement.piece = replace(statement.piece, axes=(axis, *others))
    statement.outer = axis


def sum_in_turn(program: Program, fold: Statement, image: Axis, order: Sequence[Sequence[int]] | None = None) -> None:
    """Let a sum over ``image`` add up in scratch memory, one iteration of that axis after the other.

    The scratch memory holds the axes of the sum in another ``order`` where one is given, those of a group as one axis;
    its last axis is the innermost loop.  A statement behind the outer loop reads it.
    """
    target, piece = fold.target, fold.piece
    order = order if order is not None else [(d,) for d in range(target.type.rank)]
    shape = tuple(math.prod(target.type.shape[d] for d in group) for group in order)
    made = Buffer(target.type.with_shape(shape), f"{target.name}_sums")
    outer = Axis(image.name, image.extent)
    flat = [piece.at[d] for group in order for d in group]
    parallel = [axis for axis in piece.parallel if not flat or axis is not flat[-1]]
    last = [axis for axis in piece.parallel if axis not in parallel]
    reduce = [axis for axis in piece.reduce if axis is not image]

    def place(at: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(_as_one([at[d] for d in group], [target.type.shape[d] for d in group]) for group in order)

    fold.piece = replace(
        piece,
        target=replace(piece.target, type=made.type),
        at=place(piece.at),
        axes=(outer, *parallel, *last, *reduce),
        value=rebuild(piece.value, lambda e: outer if e is image else None),
    )
    fold.refs = {**fold.refs, (piece.target.kind, piece.target.index): made}
    fold.target, made.writers = made, [fold]
    fold.outer, fold.apart, fold.repeated = outer, True, True

    x, y = Ref("operand", 0, made.type), Ref("result", 0, target.type)
    read = pointwise(y, lambda *i: x[place(i)])
    store = Statement(read, target, {("operand", 0): made, ("result", 0): target}, apart=True)
    target.writers, target.inlined = [store], True
    program.statements.insert(program.statements.index(fold) + 1, store)


def _as_one(at: Sequence[Expr], extents: Sequence[int]) -> Expr:
    """The row-major number of indices that lie behind each other."""
    number = at[0]
    for index, extent in zip(at[1:], extents[1:], strict=True):
        number = number * extent + index
    return number


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
