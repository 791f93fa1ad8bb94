"""Pieces: an op as loop nests over scalar expressions.

    relu:    Piece(y, (i, j), (i, j), maximum(x[i, j], 0.0))
    matmul:  Piece(y, (i, j, k), (i, j), a[i, k] * b[k, j], combine="add")       k is a reduce axis
    concat:  Piece(y, (i, j), (i, j), a[i, j]);  Piece(y, (i, j), (i, j + 64), b[i, j])

Loops, fusion, vectorization and the axes that an op maps independently are all derived from pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, loads

Combine = Literal["store", "add", "max", "argmax"]


@dataclass(frozen=True)
class Piece:
    """``target[at] = combine(target[at], value)`` for every point of ``axes`` (where the guard ``where`` holds).

    ``store`` writes each element once.  ``add`` and ``max`` fold over the reduce axes, starting at 0 and -inf, and
    may hit one element several times from parallel axes when ``at`` holds a load (scatter; such axes are
    ``sequential``).  ``argmax`` stores the ``index`` (an integer) at which ``value`` is largest, the first one
    at ties, a NaN before everything.  Pieces of an op run in order; several may write disjoint parts of one target.
    Together they write every element of every result.  An ``add`` piece with no reduce axis starts from 0 as well.
    """

    target: Ref
    axes: tuple[Axis, ...]
    at: tuple[Expr, ...]
    value: Expr
    combine: Combine = "store"
    where: Expr | None = None
    index: Expr | None = None

    @property
    def parallel(self) -> tuple[Axis, ...]:
        """The axes whose iterations are independent."""
        return tuple(a for a in self.axes if a.kind == "parallel")

    @property
    def reduce(self) -> tuple[Axis, ...]:
        """The axes that are folded."""
        return tuple(a for a in self.axes if a.kind == "reduce")

    @property
    def sequential(self) -> tuple[Axis, ...]:
        """The axes that must run in order (scatter)."""
        return tuple(a for a in self.axes if a.kind == "sequential")

    @property
    def reads(self) -> list[Ref]:
        """What the piece reads, each once."""
        exprs = [self.value, *self.at, *(e for e in (self.where, self.index) if e is not None)]
        return list(dict.fromkeys(load.ref for e in exprs for load in loads(e)))


def axes_for(shape: Sequence[int], prefix: str = "i") -> tuple[Axis, ...]:
    """One parallel axis per dimension: ``i0, i1, ..``."""
    return tuple(Axis(f"{prefix}{k}", n) for k, n in enumerate(shape))


def temp(index: int, shape: Sequence[int], dtype: str) -> Ref:
    """Temporary ``index`` of an op."""
    return Ref("temp", index, TensorType(tuple(shape), dtype))


def pointwise(target: Ref, value_at: object) -> Piece:
    """``target[i..] = value_at(i..)`` over the whole target."""
    axes = axes_for(target.shape)
    assert callable(value_at)
    return Piece(target, axes, axes, value_at(*axes))


def is_pointwise(piece: Piece) -> bool:
    """Whether each element of the target is stored once, at the axes in order."""
    return (
        piece.combine == "store"
        and piece.where is None
        and piece.at == piece.axes
        and tuple(a.extent for a in piece.axes) == piece.target.shape
        and all(a.kind == "parallel" for a in piece.axes)
    )
