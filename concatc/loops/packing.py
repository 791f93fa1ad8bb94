"""Packs what a contraction reads through a prologue, which then runs once an element and not once a load.

    conv(relu(x), pad=1)                                    for n:
      y[n, o, i, j] += r[n, c, i + a - 1, j + b - 1]          p[c, u, v] = max(x[n, c, u - 1, v - 1], 0)    (0 outside)
                       * w[o, c, a, b]                        y[n, o, i, j] += p[c, i + a, j + b] * w[o, c, a, b]

A contraction loads an element of an operand many times: a convolution once for each output channel and tap.  What is
computed on the way there would be computed as often.  So a statement is put in front that computes each element
once, into scratch memory, inside of an outer loop that both share: over images, or over blocks of channels or rows.
Scratch memory thus holds one image (or block) at a time, and never the batch.

The guard of a padded load goes along, and stays outside of what is computed: the halo is 0 whatever the prologue makes
of 0.  Where the place of a load is a sum of loop indices, the halo is part of what is packed, and the contraction
loads without guards; elsewhere (the windows of a strided data gradient) the guard stays with the contraction's load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.ir.types import TensorType
from concatc.loops.expr import Arith, Axis, Const, Expr, Load, Ref, axes_of, loads, rebuild, walk
from concatc.loops.pieces import Piece
from concatc.loops.program import Buffer, Program, Statement

# Rows of a block: as many as fit in registers beside each other.  Of the axis that lies in lanes it is some vectors.
ROWS, LANES = 8, 64


@dataclass(frozen=True)
class Packing:
    """``axis`` of the contraction becomes the outer loop, in steps of ``block``; it indexes ``dim`` of the operand."""

    axis: Axis
    dim: int
    block: int


def is_contraction(piece: Piece) -> bool:
    """Whether the piece is a sum of products: ``y[..] += a[..] * b[..]`` over folded axes."""
    return (
        piece.combine == "add"
        and bool(piece.reduce)
        and not piece.sequential
        and isinstance(piece.value, Arith)
        and piece.value.op == "mul"
        and all(any(isinstance(e, Load) for e in walk(factor)) for factor in piece.value.args)
    )


def packing_of(piece: Piece, load: Load) -> Packing | None:
    """How to pack what a contraction loads; None where no loop can stand outside.

    That loop runs over an axis of the result that is one index of the load (images of a convolution, input channels of
    its weight gradient).  One iteration at a time will do if both factors are still read many times inside: else a
    tile of registers would lose its rows, and the loop runs over blocks.
    """
    plain = [(m, a) for m, a in enumerate(load.at) if isinstance(a, Axis) and a in piece.parallel and a in piece.at]
    whole = [(m, a) for m, a in plain if _is_read_again_without(piece, a)]
    if not plain:
        return None
    m, axis = (whole or plain)[0]
    if whole:
        return Packing(axis, m, 1)
    return Packing(axis, m, LANES if m == len(load.at) - 1 else ROWS)


def _is_read_again_without(piece: Piece, axis: Axis) -> bool:
    """Whether each factor is read again along some axis of the result besides ``axis``."""
    assert isinstance(piece.value, Arith)
    others = [a for a in piece.parallel if a is not axis and a.extent > 1]
    return all(any(a not in axes_of(factor) for a in others) for factor in piece.value.args)


def pack_prologues(program: Program) -> None:
    """Pack in place the operand that a contraction reads through an inlined value, where there is one."""
    for statement in program.statements:
        if statement.kind != "fold" or not is_contraction(statement.piece):
            continue
        for load in loads(statement.piece.value):
            source = statement.buffer(load.ref)
            packing = packing_of(statement.piece, load) if source.inlined else None
            if packing is not None and _share_outer_loop(program, statement, packing):
                _pack(program, statement, load, packing)
                return


def _share_outer_loop(program: Program, fold: Statement, packing: Packing) -> bool:
    """Let the fold and all statements behind it run inside of the outer loop; whether they can."""
    kept = [s for s in program.statements if s is not fold and (s.target.results or not s.target.inlined)]
    dim = fold.piece.at.index(packing.axis)
    if any(s.kind != "store" or s.target.type.shape != fold.target.type.shape for s in kept):
        return False
    if any(len(s.piece.at) <= dim or s.piece.at[dim] not in s.piece.parallel for s in kept):
        return False
    program.block = packing.block
    _put_outside(fold, packing.axis)
    fold.apart = True
    for statement in kept:
        axis = statement.piece.at[dim]
        assert isinstance(axis, Axis)
        _put_outside(statement, axis)
    return True


def _put_outside(statement: Statement, axis: Axis) -> None:
    """Make ``axis`` the outermost one."""
    others = tuple(a for a in statement.piece.axes if a is not axis)
    statement.piece = replace(statement.piece, axes=(axis, *others))
    statement.outer = axis


def _pack(program: Program, fold: Statement, load: Load, packing: Packing) -> None:
    """Put a statement in front of the fold that computes what ``load`` reads, and let the fold read its result."""
    source = fold.buffer(load.ref)
    halo = _Halo(load)
    target = Buffer(TensorType(halo.shape, source.type.dtype), f"{source.name}packed")
    ref = Ref("operand", 1 + max(n for kind, n in fold.refs if kind == "operand"), target.type)
    axes = tuple(Axis(f"p{m}", n) for m, n in enumerate(halo.shape))
    x, p = Ref("operand", 0, load.ref.type), Ref("result", 0, target.type)
    piece = Piece(p, axes, axes, halo.value(x, axes))
    # Height and width of what is packed are part of the code, as those of the windows that read it.
    static = [axis for m, axis in enumerate(axes) if m in halo.places]
    statement = Statement(piece, target, {("operand", 0): source, ("result", 0): target}, static=static, apart=True)
    _put_outside(statement, axes[packing.dim])
    target.writers.append(statement)
    program.statements.insert(program.statements.index(fold), statement)
    read = halo.read(ref)
    fold.refs = {**fold.refs, (ref.kind, ref.index): target}
    fold.piece = replace(fold.piece, value=rebuild(fold.piece.value, lambda e: read if e == load else None))


class _Halo:
    """The part of space that a guarded load reads: what is packed, and how the load reads that."""

    def __init__(self, load: Load) -> None:
        self.load = load
        places = [_affine(index) for index in load.at]
        self.low = [0] * len(places)
        self.shape = load.ref.shape
        self.places: dict[int, _Affine] = {}  # of the indices that move, where the guard goes along
        moved = [m for m, index in enumerate(load.at) if not isinstance(index, Axis | Const)]
        if load.where is None or any(places[m] is None for m in moved):
            return
        # The guard must be one of the indices that move, so that it can be said of what is packed.
        marks = {load.at[m]: Const(m, "index") for m in moved}
        if axes_of(rebuild(load.where, marks.get)):
            return
        self.low = [place.least if place is not None and m in moved else 0 for m, place in enumerate(places)]
        self.shape = tuple(
            place.greatest - place.least + 1 if place is not None and m in moved else n
            for m, (place, n) in enumerate(zip(places, load.ref.shape, strict=True))
        )
        self.places = {m: place for m, place in enumerate(places) if place is not None and m in moved}

    def value(self, x: Ref, axes: Sequence[Axis]) -> Expr:
        """What is packed at ``axes``."""
        at = tuple(axis + low for axis, low in zip(axes, self.low, strict=True))
        if not self.places:
            return x[at]
        assert self.load.where is not None and self.load.other is not None
        moved = {self.load.at[m]: at[m] for m in self.places}
        guard = rebuild(self.load.where, moved.get)
        return x.load(at, guard, self.load.other)

    def read(self, packed: Ref) -> Load:
        """The load of what was packed."""
        if not self.places:
            return replace(self.load, ref=packed)
        at = tuple(
            self.places[m].shifted(-self.low[m]) if m in self.places else index for m, index in enumerate(self.load.at)
        )
        return packed[at]


@dataclass(frozen=True)
class _Affine:
    """``sum of factor * axis, plus a constant``."""

    factors: tuple[tuple[Axis, int], ...]
    constant: int

    @property
    def least(self) -> int:
        return self.constant + sum(min(0, f * (a.extent - 1)) for a, f in self.factors)

    @property
    def greatest(self) -> int:
        return self.constant + sum(max(0, f * (a.extent - 1)) for a, f in self.factors)

    def shifted(self, by: int) -> Expr:
        """The expression, plus ``by``."""
        total: Expr = Const(self.constant + by, "index")
        for axis, factor in self.factors:
            total = total + axis * factor if factor >= 0 else total - axis * -factor
        return total


def _affine(expr: Expr) -> _Affine | None:
    """``expr`` as a sum of axes with constant factors; None where it is none."""
    if isinstance(expr, Axis):
        return _Affine(((expr, 1),), 0)
    if isinstance(expr, Const):
        return _Affine((), int(expr.value))
    if not isinstance(expr, Arith) or expr.op not in ("add", "sub", "mul"):
        return None
    a, b = (_affine(arg) for arg in expr.args)
    if a is None or b is None:
        return None
    if expr.op == "mul":
        a, b = (b, a) if not a.factors else (a, b)
        return _scaled(a, b.constant) if not b.factors else None
    b = b if expr.op == "add" else _scaled(b, -1)
    factors = dict(a.factors)
    for axis, factor in b.factors:
        factors[axis] = factors.get(axis, 0) + factor
    return _Affine(tuple(factors.items()), a.constant + b.constant)


def _scaled(place: _Affine, by: int) -> _Affine:
    return _Affine(tuple((axis, factor * by) for axis, factor in place.factors), place.constant * by)
