"""Leaves windows of one element out of a contraction: a 1x1 convolution is a product of matrices.

    y[n, o, i, j] += x[n, c, i + a, j + b] * w[o, c, a, b]     over c, a < 1, b < 1
    ->
    y[n, o, i, j] += x[n, c, i, j] * w[o, c, 0, 0]             over c

Rows and columns then stand as they are in every index and become one axis (`merge_axes.py`): vectors along 49 or 169
elements are full where those along 7 or 13 are not.
"""

from __future__ import annotations

from dataclasses import replace

from concatc.loops.expr import Axis, Const, Expr, axes_of, loads, rebuild
from concatc.loops.program import Statement


def drop_unit_windows(fold: Statement) -> None:
    """Put 0 in the place of summed positions in windows of one element, where no guard depends on them."""
    piece = fold.piece
    moved = [index for load in loads(piece.value) for index in load.at if not isinstance(index, Axis)]
    units = [a for a in piece.reduce if a.extent == 1 and any(a in axes_of(index) for index in moved)]
    if not units or len(units) == len(piece.reduce):
        return
    by: dict[Expr, Expr] = dict.fromkeys(units, Const(0, "index"))
    value = rebuild(piece.value, by.get)
    if any(load.where is not None for load in loads(value)):
        return
    # Height and width stay part of the code: tiles fit them.
    windows = [a for index in moved for a in axes_of(index) if a in piece.parallel]
    fold.static += [a for a in dict.fromkeys(windows) if a not in fold.static]
    fold.piece = replace(piece, axes=tuple(a for a in piece.axes if a not in units), value=value)
