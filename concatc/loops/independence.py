"""Which axes an op maps independently, derived from its pieces.

    linear  y[i, o] = sum_k x[i, k] * w[o, k]     i: x axis 0, w none -> y axis 0;  o: x none, w axis 0 -> y axis 1

On such an axis the op distributes over concat: op(concat(a, b), w) = concat(op(a, w), op(b, w)).  Passes ask for that,
never for the op's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Load, Ref, children, rebuild
from concatc.loops.pieces import Piece


@dataclass(frozen=True)
class AxisMap:
    """``operands[k]`` is the axis of operand ``k`` that is joined (None: the operand is shared), and so for results."""

    operands: tuple[int | None, ...]
    results: tuple[int, ...]


# Pieces and types of the results of an op whose operands have the given types; None where they do not fit the op.
Lowering = Callable[[Sequence[TensorType]], tuple[Sequence[Piece], Sequence[TensorType]] | None]


def independent_axes(lower: Lowering, operands: Sequence[TensorType]) -> list[AxisMap]:
    """Every way to join operands and results along one axis each that leaves the op's meaning as it is.

    Two things must hold: the pieces use the axis as a whole index only, and pieces for a longer axis differ in its
    extent only (the gradient of a mean over rows maps rows one to one, but divides by their number).  Sound, not
    complete: an op that the pieces do not show to be independent is left out.
    """
    lowered = lower(operands)
    if lowered is None or not lowered[1]:
        return []
    pieces, results = lowered
    maps = []
    for axis in range(results[0].rank):
        joined = _join(pieces, Ref("result", 0, results[0]), axis)
        if joined is None:
            continue
        ends = [joined.get(Ref("result", k, t)) for k, t in enumerate(results)]
        starts = tuple(joined.get(Ref("operand", k, t)) for k, t in enumerate(operands))
        if any(end is None for end in ends) or all(start is None for start in starts):
            continue
        found = AxisMap(starts, tuple(end for end in ends if end is not None))
        longer = lower([_longer(t, d) for t, d in zip(operands, starts, strict=True)])
        if _only_extent_differs(pieces, results, longer, found):
            maps.append(found)
    return maps


def _longer(type: TensorType, axis: int | None) -> TensorType:
    if axis is None:
        return type
    return type.with_shape((*type.shape[:axis], type.shape[axis] + 1, *type.shape[axis + 1 :]))


def _only_extent_differs(
    pieces: Sequence[Piece],
    results: Sequence[TensorType],
    longer: tuple[Sequence[Piece], Sequence[TensorType]] | None,
    axes: AxisMap,
) -> bool:
    if longer is None:
        return False
    if [_longer(t, d) for t, d in zip(results, axes.results, strict=True)] != list(longer[1]):
        return False
    return [without_extents(p) for p in pieces] == [without_extents(p) for p in longer[0]]


def without_extents(piece: Piece, loop: Axis | None = None) -> Piece:
    """The piece without the extents of parallel axes (and of ``loop``) and the shapes of what it reads and writes.

    Two pieces that agree in this do the same, over more or fewer elements.
    """

    def no_extent(axis: Axis) -> Axis:
        free = axis.kind == "parallel" or (loop is not None and axis.name == loop.name)
        return replace(axis, extent=0) if free else axis

    def change(expr: Expr) -> Expr | None:
        if isinstance(expr, Axis):
            return no_extent(expr)
        if isinstance(expr, Load):
            where = None if expr.where is None else rebuild(expr.where, change)
            other = None if expr.other is None else rebuild(expr.other, change)
            return Load(_no_shape(expr.ref), rebuild_all(expr.at), where, other)
        return None

    def rebuild_all(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(rebuild(e, change) for e in exprs)

    return Piece(
        _no_shape(piece.target),
        tuple(no_extent(a) for a in piece.axes),
        rebuild_all(piece.at),
        rebuild(piece.value, change),
        piece.combine,
        None if piece.where is None else rebuild(piece.where, change),
        None if piece.index is None else rebuild(piece.index, change),
    )


def _no_shape(ref: Ref) -> Ref:
    return replace(ref, type=TensorType((), ref.dtype))


@dataclass(frozen=True)
class Along:
    """What a piece does along one of its loops: the axis of each value that the loop runs along."""

    loop: Axis
    axes: dict[Ref, int]

    @property
    def adds(self) -> bool:
        """Whether the target is the sum over the loop: each part of the loop makes a part of that sum."""
        return self.loop.kind == "reduce"


def along(piece: Piece, joined: Mapping[Ref, int]) -> Along | None:
    """The loop that runs along the ``joined`` axes, and all that it indexes.

    None where there is none, where it does anything but index whole axes, and where its iterations are neither
    independent nor the terms of a sum.  At least one of ``joined`` must be read or written by the piece.
    """
    uses = _Uses(piece)
    loop = uses.axis_of(joined)
    if not isinstance(loop, Axis) or (loop.kind == "reduce" and piece.combine != "add"):
        return None
    found = uses.refs_along(loop)
    if found is None or any(found.get(ref, axis) != axis for ref, axis in joined.items()):
        return None
    # A joined value must follow the loop wherever it stands.
    if any(at[found[ref]] != loop for ref, at in uses.places if ref in found):
        return None
    if any(ref in joined and ref not in found for ref, _ in uses.places):
        return None
    return Along(loop, found)


def _join(pieces: Sequence[Piece], result: Ref, axis: int) -> dict[Ref, int] | None:
    """The axis of each value that must be joined when ``axis`` of ``result`` is; None where that cannot be."""
    joined = {result: axis}
    uses = [_Uses(piece) for piece in pieces]
    changed = True
    while changed:
        changed = False
        for use in uses:
            loop = use.axis_of(joined)
            if loop is None:
                continue
            found = use.refs_along(loop)
            if found is None or use.folds(loop) or any(joined.get(ref, d) != d for ref, d in found.items()):
                return None
            changed |= any(ref not in joined for ref in found)
            joined |= found
    # A value that is joined must be so wherever it is read or written; a value that is shared must not follow an axis.
    consistent = all(use.agrees(joined) for use in uses)
    return joined if consistent else None


class _Uses:
    """Where a piece's axes stand: as whole indices of loads and of the target, or otherwise."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.places: list[tuple[Ref, tuple[Expr, ...]]] = [(piece.target, piece.at)]
        self.entangled: set[Axis] = set()  # in arithmetic, conditions, or values
        exprs = [piece.value, *(e for e in (piece.where, piece.index) if e is not None)]
        for expr in exprs:
            self._visit(expr)
        for index in piece.at:
            if not isinstance(index, Axis):
                self._visit(index)

    def _visit(self, expr: Expr) -> None:
        if isinstance(expr, Axis):
            self.entangled.add(expr)
            return
        if isinstance(expr, Load):
            self.places.append((expr.ref, expr.at))
        for child in children(expr):
            if not (isinstance(expr, Load) and isinstance(child, Axis) and child in expr.at):
                self._visit(child)

    def axis_of(self, joined: Mapping[Ref, int]) -> Expr | None:
        """The loop axis that runs along a joined axis; a stand-in where an index is no plain axis."""
        for ref, at in self.places:
            if ref in joined:
                return at[joined[ref]]
        return None

    def folds(self, loop: Expr) -> bool:
        """Whether the loop folds what it reads."""
        return isinstance(loop, Axis) and loop.kind == "reduce"

    def refs_along(self, loop: Expr) -> dict[Ref, int] | None:
        """The values that ``loop`` indexes, and on which axis; None where it does anything but index whole axes."""
        if not isinstance(loop, Axis) or loop in self.entangled or loop.kind == "sequential":
            return None
        found: dict[Ref, int] = {}
        for ref, at in self.places:
            positions = [d for d, index in enumerate(at) if index == loop]
            if not positions:
                continue
            if len(positions) > 1 or found.get(ref, positions[0]) != positions[0]:
                return None
            if ref.shape[positions[0]] != loop.extent:
                return None
            found[ref] = positions[0]
        # A loop that is folded does not index the target, any other one must.
        return found if (self.piece.target in found) != (loop.kind == "reduce") else None

    def agrees(self, joined: dict[Ref, int]) -> bool:
        """Whether each joined value is indexed by one and the same loop axis, everywhere in the piece."""
        loops = {at[joined[ref]] for ref, at in self.places if ref in joined}
        if not loops:
            return True
        return len(loops) == 1 and self.piece.target in joined
