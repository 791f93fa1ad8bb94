"""Which sums add up row by row, in f64: those over all images that read each element of an array once.

    t[c] = sum of x[n, c, i]        ->      for n:  r = sum of x[n, c, i] over i                 f32, in vectors
                                                    t = t + r                                    f64

Batch norm's statistics are such sums.  Added one behind the other, a hundred thousand numbers of one sign lose three
bits or more, so the mean of a channel is off by more than the elements that it is taken off.  All elements of the
channel are then off by the same; those between the two means change sides at the ReLU behind, and their gradients
appear or vanish as a whole.  A row is short, and there are few rows, so f64 costs nothing there.

Contractions are left alone, since their sums have as few terms as a weight has elements for a result.  So are sums
beside them: these add up image by image (`outer_loop.py`), and a sum that is gradient decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.ir.types import FLOATS
from concatc.loops.expr import loads
from concatc.loops.pieces import Piece
from concatc.loops.program import Statement

WIDE = "f64"


def sums_of_rows(statements: Sequence[Statement]) -> list[Statement]:
    """The statements of a kernel that are sums along the rows of an array, and over more than that."""
    sums = [s for s in statements if s.kind == "fold" and s.piece.combine == "add" and s.piece.target.dtype in FLOATS]
    if any(not _reads_once(s.piece) for s in sums):
        return []
    return [s for s in sums if len(s.piece.reduce) > 1 and _runs_along_rows(s.piece)]


def _reads_once(piece: Piece) -> bool:
    """Whether something that is read has all axes of the sum."""
    return any(all(axis in load.at for axis in piece.axes) for load in loads(piece.value))


def _runs_along_rows(piece: Piece) -> bool:
    """Whether neighbours of an array are added by the innermost loop."""
    return any(load.at[-1:] == (piece.reduce[-1],) for load in loads(piece.value))
