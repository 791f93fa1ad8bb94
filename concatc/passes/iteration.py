"""How an operation iterates, derived from its pieces: what `fuse` and `summary` ask of an op, without knowing it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from concatc.ir.core import Operation
from concatc.ir.types import TensorType
from concatc.loops.expr import Arith, Load, loads, walk
from concatc.loops.packing import is_contraction, packing_of
from concatc.loops.pieces import Piece, is_pointwise
from concatc.op import lowered, op_of
from concatc.passes.graph import PROVENANCE

# pointwise: each element of each result is one expression.  contraction: a sum of products.  reduction: other folds.
# staged: pointwise in temporaries of the op (mean and variance).  other: scatters, results made in several parts.
Kind = Literal["pointwise", "contraction", "reduction", "staged", "other"]

# Costly in every instruction set, in units of one addition.
COSTLY = {"div": 8, "sqrt": 8, "exp": 16, "expm1": 24, "log": 16, "log1p": 16, "tanh": 24, "erf": 24}

MOST_KNOWN = 8192  # iterations that are remembered: several large nets


@dataclass(frozen=True)
class Read:
    """All loads of one operand: whether each reads the element that is being made, and how many loads run in all.

    ``packs``: one load, whose elements a contraction can compute into scratch memory (`concatc/loops/packing.py`).
    """

    identity: bool
    guarded: bool
    loads: int
    packs: bool = False


@dataclass(frozen=True)
class Iteration:
    """How an operation iterates.

    ``space`` is the shape over which its results are made: the shape of the results where all agree, else None.
    ``nest`` holds the extents of the parallel and of the folded axes where all pieces share them.  ``nodes`` counts
    what is computed for one point, ``cost`` the same in units of an addition.  ``work`` counts arithmetic on elements
    (that on indices left out) at all points, folds included, in the same units; ``folds_windows`` says that each result
    folds elements of a few operands into each of its own elements, as pools and sums do.  ``by_image``: a contraction
    that can have a loop over its images outside.
    """

    kind: Kind
    space: tuple[int, ...] | None
    nest: tuple[tuple[int, ...], tuple[int, ...]] | None
    reads: tuple[Read, ...]
    nodes: int
    cost: int
    work: int
    folds_windows: bool
    by_image: bool


class Iterations:
    """Derives :class:`Iteration`, once for equal operations.  All instances know what one of them has derived."""

    _known: ClassVar[dict[object, Iteration]] = {}

    def of(self, op: Operation) -> Iteration:
        """How ``op`` iterates."""
        attributes = tuple((k, v) for k, v in op.attributes.items() if k not in PROVENANCE)
        key = (op.name, tuple(v.type for v in (*op.operands, *op.results)), attributes)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = derive_iteration(op)
        return found


def derive_iteration(op: Operation) -> Iteration:
    """Derive how ``op`` iterates from its pieces."""
    pieces = lowered(op)
    results = [v.tensor for v in op.results]
    shapes = list(dict.fromkeys(t.shape for t in results))
    nests = list(dict.fromkeys((_extents(p, "parallel"), _extents(p, "reduce")) for p in pieces))
    return Iteration(
        kind="other" if op_of(op).effect else _kind(pieces, results),
        space=shapes[0] if len(shapes) == 1 else None,
        nest=nests[0] if len(nests) == 1 else None,
        reads=_reads([v.tensor for v in op.operands], pieces),
        nodes=sum(1 for p in pieces for _ in walk(p.value)),
        cost=sum(COSTLY.get(e.op, 1) for p in pieces for e in walk(p.value) if isinstance(e, Arith)),
        work=sum(math.prod(a.extent for a in p.axes) * _work_at_a_point(p) for p in pieces),
        folds_windows=not op_of(op).effect and all(_folds_windows(p) for p in pieces),
        by_image=any(_is_by_image(p) for p in pieces if is_contraction(p)),
    )


def _work_at_a_point(piece: Piece) -> int:
    arithmetic = (e for e in walk(piece.value) if isinstance(e, Arith) and e.args[0].dtype not in ("index", "i1"))
    return sum(COSTLY.get(e.op, 1) for e in arithmetic) + (piece.combine != "store")


def _is_by_image(piece: Piece) -> bool:
    found = [packing_of(piece, load) for load in loads(piece.value)]
    return len(piece.at) == 4 and any(p is not None and p.block == 1 and p.axis is piece.at[0] for p in found)


def _folds_windows(piece: Piece) -> bool:
    kept = tuple(a for a in piece.axes if a.kind == "parallel")
    return (
        piece.target.kind == "result"
        and piece.combine in ("add", "max", "argmax")
        and piece.where is None
        and not piece.sequential
        and tuple(piece.at) == kept
        and not is_contraction(piece)
    )


def _kind(pieces: list[Piece], results: list[TensorType]) -> Kind:
    last = [p for p in pieces if p.target.kind == "result"]
    if [p.target.index for p in last] != list(range(len(results))):
        return "other"
    if all(is_pointwise(p) for p in last):
        return "pointwise" if len(last) == len(pieces) else "staged"
    if len(last) != len(pieces):
        return "other"
    if len(pieces) == 1 and is_contraction(pieces[0]):
        return "contraction"
    if all(p.combine in ("add", "max") and p.reduce and not p.sequential and p.where is None for p in pieces):
        return "reduction"
    return "other"


def _reads(operands: list[TensorType], pieces: list[Piece]) -> tuple[Read, ...]:
    """The reads of each operand, found in one walk over the pieces."""
    identity, guarded, count = ([start] * len(operands) for start in (1, 0, 0))
    packs = [False] * len(operands)
    for piece in pieces:
        exprs = [piece.value, *piece.at, *(e for e in (piece.where, piece.index) if e is not None)]
        points = math.prod(a.extent for a in piece.axes)
        maps = is_pointwise(piece)
        for load in (e for expr in exprs for e in walk(expr) if isinstance(e, Load)):
            if load.ref.kind != "operand":
                continue
            k = load.ref.index
            identity[k] &= maps and load.at == piece.at and operands[k].shape == piece.target.shape
            guarded[k] |= load.where is not None
            packs[k] = count[k] == 0 and is_contraction(piece) and packing_of(piece, load) is not None
            count[k] += points
    return tuple(Read(bool(i), bool(g), n, p) for i, g, n, p in zip(identity, guarded, count, packs, strict=True))


def _extents(piece: Piece, kind: str) -> tuple[int, ...]:
    return tuple(a.extent for a in piece.axes if a.kind == kind)
