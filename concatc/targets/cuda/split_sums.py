"""Parts long sums of few elements over many blocks, and adds up the parts behind them.

    dw[o, c] += dy[n, o] * x[n, c]                 ->   dw_parts[p, o, c] += dy[p * 8 + m, o] * x[p * 8 + m, c]
                      over n = 256                      dw[o, c] += dw_parts[p, o, c]        over m = 8;  over p = 32

A weight gradient has few tiles and a sum over all pixels of a batch, the statistics of a batch norm have a block a
channel: blocks would be fewer than a device has multiprocessors.  Parts lie in scratch memory and are added in their
order by the kernel of the elements, so nothing is added atomically.  How many parts there are follows from extents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, Size, arith, axes_of, rebuild
from concatc.loops.program import Buffer, Program, Statement
from concatc.targets.cuda.products import TILE, Product, product_of

# Four blocks for each of the 132 multiprocessors of an H100; sums that keep half of them busy are left whole.
WANTED_BLOCKS = 4 * 132
MOST_PARTS = 256
# What a part has, and what a whole sum must have, to be worth another launch and the accesses of the parts.  This is an
# estimate: a block gets 16 terms of a product, or 16 KiB of a row, in some 0.7 us; a launch of a graph takes 2 us.
LEAST_OF_PRODUCTS, LEAST_PRODUCT = 128, 512
LEAST_OF_ROWS, LEAST_ROW = 4096, 32768


@dataclass(frozen=True)
class Split:
    """The statement of the parts, the axis that counts them, and the one that runs over the terms of each."""

    statement: Statement
    part: Axis
    term: Axis


def split_sums(program: Program) -> list[Split]:
    """Rewrite the sums of a program that would keep few blocks busy."""
    splits: list[Split] = []
    statements: list[Statement] = []
    for statement in program.statements:
        product = product_of(statement)
        parts = _parts(statement, product)
        axis = _outermost(statement, product, parts)
        if axis is not None:
            splits.append(_split(statement, axis, _divisor(axis.extent, parts)))
            statements.append(splits[-1].statement)
        statements.append(statement)
    program.statements[:] = statements
    return splits


def leave_to_arguments(splits: Sequence[Split]) -> None:
    """Extents of parts are no part of the code, though two axes stand in one index as those of a window do."""
    for split in splits:
        own = (split.part, split.term)
        split.statement.static = [axis for axis in split.statement.static if axis not in own]
        split.statement.path[0].static = False


def _parts(statement: Statement, product: Product | None) -> int:
    """How many parts a sum is worth, at most; 1 leaves it whole."""
    piece = statement.piece
    if statement.kind != "fold" or piece.combine != "add":
        return 1
    terms = _numel(piece.reduce)
    if product is None:
        blocks, least, whole = _numel(piece.parallel), LEAST_OF_ROWS, LEAST_ROW
    else:
        blocks = _numel(product.batch) * _tiles(product.rows) * _tiles(product.columns)
        least, whole = LEAST_OF_PRODUCTS, LEAST_PRODUCT
    return min(WANTED_BLOCKS // max(blocks, 1), terms // least, MOST_PARTS) if terms >= whole else 1


def _outermost(statement: Statement, product: Product | None, parts: int) -> Axis | None:
    """The axis to part: of those that all factors have the first that has parts of equal length."""
    if parts < 2:
        return None
    factors = [] if product is None else [axes_of(product.left), axes_of(product.right)]
    shared = (axis for axis in statement.piece.reduce if all(axis in axes for axes in factors))
    return next((axis for axis in shared if _divisor(axis.extent, parts) > 1), None)


def _divisor(extent: int, most: int) -> int:
    """The largest divisor of an extent up to ``most``."""
    return max((d for d in range(1, most + 1) if extent % d == 0), default=1)


def _split(statement: Statement, axis: Axis, parts: int) -> Split:
    """Make a sum over parts of a statement, and a statement of the parts."""
    piece = statement.piece
    names = {a.name for a in piece.axes}
    part = Axis(_free("part", names), parts)
    term = Axis(axis.name, axis.extent // parts, "reduce")
    # One object, so that it is one argument of the kernel.
    whole = arith("add", arith("mul", part, Size(term.extent)), term)

    def moved(expr: Expr) -> Expr:
        return rebuild(expr, lambda e: whole if e == axis else None)

    shape = (parts, *(a.extent for a in piece.parallel))
    type = TensorType(shape, piece.target.dtype)
    target = Buffer(type, f"{statement.target.name}_parts")
    ref = Ref("temp", 1 + max((k for kind, k in statement.refs if kind == "temp"), default=-1), type)
    refs = {**statement.refs, (ref.kind, ref.index): target}
    axes = (part, *(term if a == axis else a for a in piece.axes))
    made = replace(
        piece,
        target=ref,
        axes=axes,
        at=(part, *piece.parallel),
        value=moved(piece.value),
        where=None if piece.where is None else moved(piece.where),
    )
    first = Statement(made, target, refs, apart=True, loc=statement.loc)
    target.writers.append(first)
    again = replace(part, kind="reduce")
    statement.piece = replace(piece, axes=(*piece.parallel, again), value=ref[(again, *piece.parallel)], where=None)
    statement.refs = refs
    return Split(first, part, term)


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)


def _tiles(axes: Sequence[Axis]) -> int:
    return -(-_numel(axes) // TILE)


def _numel(axes: Sequence[Axis]) -> int:
    return math.prod(a.extent for a in axes)
