"""Recognises sums of products that run by tiles: which axes are rows, columns, and summed.

    y[n, o, i, j] += x[n, c, i + a, j + b] * w[o, c, a, b]     rows n, i, j;  columns o;  summed over c, a, b

Axes of the result that both factors have are a batch of products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from concatc.ir.types import FLOATS
from concatc.loops.expr import Arith, Axis, Expr, Load, Size, axes_of, nodes
from concatc.loops.packing import is_contraction
from concatc.loops.program import Statement

TILE = 64  # rows and columns of a tile
# Fewer rows, columns or terms leave a tile empty: a thread an element is then better.
LEAST_ROWS, LEAST_TERMS = 4, 8


@dataclass(frozen=True)
class Product:
    """A statement as ``left[batch, rows, terms] * right[batch, columns, terms]``, summed over terms.

    ``guards_left`` says of which factor the statement's guard depends on no other axes than those that it has.
    """

    left: Expr
    right: Expr
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    terms: tuple[Axis, ...]
    guards_left: bool = True


def product_of(statement: Statement) -> Product | None:
    """The statement as a product; None where it is none that fills tiles."""
    piece = statement.piece
    if statement.kind != "fold" or not is_contraction(piece) or piece.target.dtype not in FLOATS:
        return None
    assert isinstance(piece.value, Arith)
    left, right = piece.value.args
    in_left, in_right = axes_of(left), axes_of(right)
    rows = tuple(a for a in piece.parallel if a in in_left and a not in in_right)
    columns = tuple(a for a in piece.parallel if a not in rows and a not in in_left)
    batch = tuple(a for a in piece.parallel if a not in rows and a not in columns)
    if min(_numel(rows), _numel(columns)) < LEAST_ROWS or _numel(piece.reduce) < LEAST_TERMS:
        return None
    guards_left = True
    if piece.where is not None:
        needed = axes_of(piece.where)
        guards_left = all(a in (*batch, *rows, *piece.reduce) for a in needed)
        if not guards_left and not all(a in (*batch, *columns, *piece.reduce) for a in needed):
            return None
    return Product(left, right, batch, rows, columns, piece.reduce, guards_left)


def runs_along(factor: Expr, axis: Axis) -> bool:
    """Whether the last index of what a factor loads depends on the axis: neighbours are likely neighbours in memory."""
    return any(load.at and axis in axes_of(load.at[-1]) for load in nodes(factor) if isinstance(load, Load))


def is_along(index: Expr, axis: Axis, together: int) -> bool:
    """Whether an index is an axis, or that axis from a multiple of some elements on (`split_sums.py`)."""
    match index:
        case Arith("add", (Arith("mul", (Axis(), Size(length))), term)):
            return term == axis and length % together == 0
    return index == axis


def _numel(axes: Sequence[Axis]) -> int:
    return math.prod(a.extent for a in axes) if axes else 0
