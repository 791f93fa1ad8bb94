"""How much work a kernel does, counted on the pieces of its ops: what it computes, what it must read and write.

    y[n, o, i, j] += x[n, c, i + a - 1, j + b - 1] * w[o, c, a, b]     2 flops for each point inside of the image

Counted is *useful* work, however the code does it: taps that fall into padding are none, nor are lanes beyond the end
of an axis, sums across the ends of rows, or what is computed into scratch memory twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from concatc.ir.core import FuncOp, Operation
from concatc.ir.types import ELEMENT_BYTES, FLOATS
from concatc.loops.evaluate import ARITHMETIC
from concatc.loops.expr import Arith, Axis, Cast, Const, Expr, Load, Select, Size, axes_of, loads, nodes
from concatc.loops.packing import is_contraction
from concatc.loops.pieces import Piece
from concatc.op import lowered

# Guards and indices are counted point by point up to here; beyond, all points count.
MOST_POINTS = 1 << 22


@dataclass(frozen=True)
class Work:
    """What one launch of a kernel comes to.

    ``flops`` are those of contractions: a multiplication and an addition for each product that is summed.
    ``arithmetic`` is everything else on floats, an operation each, transcendental or not.  ``read_bytes`` counts each
    element of an argument that is read once, ``written_bytes`` each element of a result once.  ``dtype`` is the element
    type of the arithmetic.
    """

    flops: int
    arithmetic: int
    read_bytes: int
    written_bytes: int
    dtype: str

    def adding(self, added_bytes: int) -> Work:
        """The work of a launch that adds to what lies there: ``added_bytes`` of its results are read as well."""
        return Work(self.flops, self.arithmetic, self.read_bytes + added_bytes, self.written_bytes, self.dtype)


def work_of(kernel: FuncOp) -> Work:
    """The work of a kernel of a plan: a function of ops, whose arguments are read and whose results are written."""
    flops = arithmetic = 0
    read: dict[int, dict[tuple[Expr, ...], int]] = {}  # by argument: elements that each way of indexing it touches
    position = {value: k for k, value in enumerate(kernel.args)}
    for op in kernel.ops[:-1]:
        for piece in lowered(op):
            done, others = arithmetic_of(piece)
            flops += done
            arithmetic += others
            for load in _loads(piece):
                operand = op.operands[load.ref.index] if load.ref.kind == "operand" else None
                if operand in position:
                    read.setdefault(position[operand], {})[load.at] = _touched(load)
    read_bytes = 0
    for k, ways in read.items():
        type = kernel.args[k].tensor
        read_bytes += min(sum(ways.values()), type.numel) * ELEMENT_BYTES[type.dtype]
    # A result that is an argument as it stands is copied.
    copied = [v for v in kernel.ret.operands if v in position and position[v] not in read]
    read_bytes += sum(v.tensor.size_bytes for v in copied)
    written_bytes = sum(v.tensor.size_bytes for v in kernel.ret.operands)
    return Work(flops, arithmetic, read_bytes, written_bytes, _dtype(kernel.ops[:-1]))


def arithmetic_of(piece: Piece) -> tuple[int, int]:
    """Flops of the contraction that a piece is, if it is one, and all other operations on floats."""
    points = math.prod(a.extent for a in piece.axes)
    own = sum(isinstance(e, Arith) and e.args[0].dtype in FLOATS for e in nodes(piece.value))
    folds = piece.combine in ("add", "max") and piece.value.dtype in FLOATS and bool(piece.reduce or piece.sequential)
    if not is_contraction(piece) or piece.value.dtype not in FLOATS:
        return 0, points * (own + folds)
    guards = [e.where for e in nodes(piece.value) if isinstance(e, Load) and e.where is not None]
    useful = points_within(piece.axes, [*guards, *([piece.where] if piece.where is not None else [])])
    return 2 * useful, useful * (own - 1)


def points_within(axes: Sequence[Axis], guards: Sequence[Expr]) -> int:
    """How many points of the axes all guards hold at; those that depend on data count as holding.

    Guards that share no axis are counted apart: of a convolution those of rows, then those of columns.
    """
    groups: list[tuple[list[Axis], list[Expr]]] = []
    for clause in dict.fromkeys(c for guard in guards for c in _clauses(guard)):
        if loads(clause):
            continue
        mine = [a for a in axes_of(clause) if a in axes]
        joined = [g for g in groups if any(a in g[0] for a in mine)]
        groups = [g for g in groups if g not in joined]
        all_axes = dict.fromkeys(a for part in (*(g[0] for g in joined), mine) for a in part)
        groups.append((list(all_axes), [c for g in joined for c in g[1]] + [clause]))
    free = math.prod(a.extent for a in axes if not any(a in g[0] for g in groups))
    return free * math.prod(_holding(*group) for group in groups)


def _holding(axes: Sequence[Axis], clauses: Sequence[Expr]) -> int:
    points = math.prod(a.extent for a in axes)
    if points == 0 or points > MOST_POINTS:
        return points
    grid = _grid(axes)
    holds = np.ones([a.extent for a in axes], bool)
    for clause in clauses:
        holds &= _value(clause, grid).astype(bool)
    return int(holds.sum())


def _clauses(guard: Expr) -> Iterator[Expr]:
    if isinstance(guard, Arith) and guard.op == "and":
        for part in guard.args:
            yield from _clauses(part)
    else:
        yield guard


def _loads(piece: Piece) -> Iterator[Load]:
    for expr in (piece.value, *piece.at, *(e for e in (piece.where, piece.index) if e is not None)):
        yield from (e for e in nodes(expr) if isinstance(e, Load))


def _touched(load: Load) -> int:
    """How many elements a load touches at most: the different values of each of its indices, multiplied."""
    return math.prod(_distinct(index, n) for index, n in zip(load.at, load.ref.shape, strict=True))


def _distinct(index: Expr, extent: int) -> int:
    """How many of ``extent`` elements an index meets, padding left out."""
    axes = axes_of(index)
    points = math.prod(a.extent for a in axes)
    if loads(index) or points > MOST_POINTS:
        return min(points, extent)
    found = np.unique(_value(index, _grid(axes)))
    return int(((found >= 0) & (found < extent)).sum())


def _grid(axes: Sequence[Axis]) -> dict[Axis, np.ndarray]:
    shapes = [[-1 if m == k else 1 for m in range(len(axes))] for k in range(len(axes))]
    return {a: np.arange(a.extent).reshape(shape) for a, shape in zip(axes, shapes, strict=True)}


def _value(expr: Expr, grid: dict[Axis, np.ndarray]) -> np.ndarray:
    match expr:
        case Axis():
            return grid[expr]
        case Const(value) | Size(value):
            return np.asarray(value)
        case Arith(op, args):
            return ARITHMETIC[op](*(_value(a, grid) for a in args))
        case Select(condition, yes, no):
            return np.where(_value(condition, grid), _value(yes, grid), _value(no, grid))
        case Cast(_, value):
            return _value(value, grid)
    raise AssertionError(f"no index: {expr}")


def _dtype(ops: Sequence[Operation]) -> str:
    types = [v.tensor.dtype for op in ops for v in (*op.operands, *op.results)]
    return "f64" if "f64" in types else "f32"
