"""Packs what a contraction reads: a prologue then runs once an element and not once a load, and rows lie as is best.

    conv(relu(x), pad=1)                                    for n:
      y[n, o, i, j] += r[n, c, i + a - 1, j + b - 1]          p[c, u, v] = max(x[n, c, u - 1, v - 1], 0)    (0 outside)
                       * w[o, c, a, b]                        y[n, o, i, j] += p[c, i + a, j + b] * w[o, c, a, b]

A contraction loads an element of an operand many times: a convolution once for each output channel and tap.  What is
computed on the way there would be computed as often.  So a statement is put in front that computes each element
once, into scratch memory, inside of an outer loop that both share: over images, or over blocks of channels or rows.
Scratch memory thus holds one image at a time, or one block of it from all images (weight gradients over long rows or
few channels; the others hold one image, `image_sums.py`).

The guard of a padded load goes along, and stays outside of what is computed: the halo is 0 whatever the prologue makes
of 0 (`halo.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from concatc.ir.types import TensorType
from concatc.loops.expr import Arith, Axis, Load, Ref, axes_of, rebuild, walk
from concatc.loops.halo import Halo
from concatc.loops.outer_loop import put_outside
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


class Packed:
    """What a load of a contraction reads, in scratch memory; its axis ``m`` is axis ``order[m]`` of the halo."""

    def __init__(self, fold: Statement, load: Load, order: tuple[int, ...] | None = None) -> None:
        self.fold, self.load = fold, load
        self.source = fold.buffer(load.ref)
        # Sums that lie in lanes as they are need no phases.
        self.halo = Halo(load, fold.piece.parallel if order is None else ())
        self.order = order or tuple(range(len(self.halo.shape)))
        shape = tuple(self.halo.shape[m] for m in self.order)
        self.target = Buffer(TensorType(shape, self.source.type.dtype), f"{self.source.name}packed")
        number = 1 + max(n for kind, n in fold.refs if kind == "operand")
        self.ref = Ref("operand", number, self.target.type)
        self.read = self.halo.read(self.ref, self.order)

    def insert(self, program: Program, outer: int) -> None:
        """Put a statement in front of the fold that packs, and let the fold read its result.

        The statement runs inside of the outer loop, which is index ``outer`` of the load.
        """
        fold, target, halo = self.fold, self.target, self.halo
        axes = tuple(Axis(f"p{m}", n) for m, n in enumerate(halo.shape))
        x, p = Ref("operand", 0, self.load.ref.type), Ref("result", 0, target.type)
        at = tuple(axes[m] for m in self.order)
        piece = Piece(p, at, at, halo.value(x, axes))
        # Height and width of what is packed are part of the code, as those of the windows that read it.
        static = [axis for m, axis in enumerate(axes) if m in halo.static]
        refs = {("operand", 0): self.source, ("result", 0): target}
        statement = Statement(piece, target, refs, static=static, apart=True)
        put_outside(statement, axes[outer])
        target.writers.append(statement)
        program.statements.insert(program.statements.index(fold), statement)
        fold.refs = {**fold.refs, (self.ref.kind, self.ref.index): target}
        value = rebuild(fold.piece.value, lambda e: self.read if e == self.load else None)
        fold.piece = replace(fold.piece, value=value)
