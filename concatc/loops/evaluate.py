"""Runs pieces on NumPy arrays, vectorised over their axes: the NumPy printer of ``Expr``.

    evaluate([Piece(y, (i, j), (i, j), maximum(x[i, j], 0.0))], [x], [y.type])   is   [np.maximum(x, 0.0)]

It is the meaning of pieces, written for clarity: tests hold every op's ``lower`` and every target against it.  An index
outside of what it indexes is an IndexError here, never a wrong read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from concatc.ir.types import FLOATS, NUMPY_DTYPES, TensorType
from concatc.loops.expr import Arith, Axis, Cast, Const, Expr, Load, Ref, Select, Size
from concatc.loops.pieces import Piece

# One piece materialises at most so many points at a time (where a parallel axis can be cut).
CHUNK_POINTS = 1 << 22

_erf = np.frompyfunc(math.erf, 1, 1)


def _shr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a = np.asarray(a)
    unsigned = a.view(np.dtype(f"u{a.dtype.itemsize}"))
    return np.asarray(np.right_shift(unsigned, np.asarray(b).astype(unsigned.dtype))).view(a.dtype)


ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "max": np.maximum,
    "min": np.minimum,
    "floordiv": np.floor_divide,
    "rem": np.remainder,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": np.left_shift,
    "shr": _shr,
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "erf": lambda x: np.asarray(_erf(x), dtype=x.dtype),
    "floor": np.floor,
}


@dataclass
class Evaluation:
    """What pieces made, and how many times each element of each result was written (1 everywhere if all is well)."""

    results: list[np.ndarray]
    writes: list[np.ndarray]


def evaluate(
    pieces: Sequence[Piece], operands: Sequence[np.ndarray], results: Sequence[TensorType]
) -> list[np.ndarray]:
    """The results of an op's pieces.  Elements that no piece writes are NaN, or the least integer."""
    return evaluate_counted(pieces, operands, results).results


def evaluate_counted(
    pieces: Sequence[Piece], operands: Sequence[np.ndarray], results: Sequence[TensorType]
) -> Evaluation:
    """Like :func:`evaluate`, and counts the writes."""
    memory = _Memory()
    for index, operand in enumerate(operands):
        memory.arrays["operand", index] = operand
    refs = [Ref("result", index, type) for index, type in enumerate(results)]
    for ref in refs:
        memory.allocate(ref)
    with np.errstate(all="ignore"):
        for piece in pieces:
            memory.allocate(piece.target)
            for spans in _chunks(piece.axes):
                _Points(piece, spans, memory).run()
    return Evaluation(
        [memory.arrays["result", k] for k in range(len(refs))], [memory.writes["result", k] for k in range(len(refs))]
    )


class _Memory:
    """The arrays that pieces read and write, by kind and index."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, int], np.ndarray] = {}
        self.writes: dict[tuple[str, int], np.ndarray] = {}

    def allocate(self, ref: Ref) -> None:
        """Make room for a result or temporary, filled with what must not be read."""
        key = (ref.kind, ref.index)
        if key in self.arrays:
            return
        dtype = NUMPY_DTYPES[ref.dtype]
        poison = np.nan if ref.dtype in FLOATS else np.iinfo(dtype).min if dtype.kind in "iu" else False
        self.arrays[key] = np.full(ref.shape, poison, dtype)
        self.writes[key] = np.zeros(ref.shape, np.int64)


Span = tuple[int, int]


def _chunks(axes: tuple[Axis, ...]) -> Iterator[tuple[Span, ...]]:
    """The whole range of every axis, cut along the first parallel one where there are too many points."""
    whole = tuple((0, a.extent) for a in axes)
    points = math.prod(a.extent for a in axes)
    cut = next((k for k, a in enumerate(axes) if a.kind == "parallel" and a.extent > 1), None)
    if points <= CHUNK_POINTS or cut is None:
        yield whole
        return
    step = max(1, CHUNK_POINTS * axes[cut].extent // points)
    for start in range(0, axes[cut].extent, step):
        yield (*whole[:cut], (start, min(start + step, axes[cut].extent)), *whole[cut + 1 :])


class _Points:
    """One piece at a box of points; every expression becomes an array that broadcasts to the box."""

    def __init__(self, piece: Piece, spans: tuple[Span, ...], memory: _Memory) -> None:
        self.piece = piece
        self.spans = dict(zip(piece.axes, spans, strict=True))
        self.position = {axis: k for k, axis in enumerate(piece.axes)}
        self.extents = tuple(stop - start for start, stop in spans)
        self.memory = memory
        self.known: dict[int, np.ndarray] = {}

    def run(self) -> None:
        """Write what the piece writes."""
        piece = self.piece
        key = (piece.target.kind, piece.target.index)
        target, writes = self.memory.arrays[key], self.memory.writes[key]
        if piece.sequential and piece.combine != "store":
            self.scatter(target, writes)
            return
        folded = tuple(self.position[a] for a in piece.reduce)
        value = self.folded(folded) if piece.combine != "store" else self.full(self.value(piece.value))
        kept = tuple(n for k, n in enumerate(self.extents) if k not in folded)
        if 0 in kept:
            return
        at = tuple(
            np.broadcast_to(np.squeeze(index, folded) if index.ndim else index, kept)
            for index in (self.reshaped(self.value(e)) for e in piece.at)
        )
        if piece.combine == "store" and piece.where is not None:
            mask = self.full(self.value(piece.where))
            at, value = tuple(index[mask] for index in at), value[mask]
        self.check(at, target.shape, None)
        if not at:  # a number: the points that write it, one if all is well, follow one another
            target[...] = value.flat[-1] if value.size else target
            writes += value.size
            return
        target[at] = value
        np.add.at(writes, at, 1)

    def folded(self, dims: tuple[int, ...]) -> np.ndarray:
        """The fold of the value over the reduce axes."""
        piece = self.piece
        value = self.full(self.value(piece.value))
        mask = None if piece.where is None else self.full(self.value(piece.where))
        if piece.combine == "add":
            value = value if mask is None else np.where(mask, value, value.dtype.type(0))
            return np.asarray(np.sum(value, axis=dims, dtype=value.dtype))
        least = -np.inf if value.dtype.kind == "f" else np.iinfo(value.dtype).min
        value = value if mask is None else np.where(mask, value, value.dtype.type(least))
        if piece.combine == "max":
            return np.asarray(np.max(value, axis=dims, initial=least))
        assert piece.index is not None, "argmax needs an index"
        points = math.prod(self.extents[k] for k in dims)
        last = np.moveaxis(value, dims, range(-len(dims), 0)).reshape(*self.kept(dims), points)
        indices = np.moveaxis(self.full(self.value(piece.index)), dims, range(-len(dims), 0)).reshape(last.shape)
        best = np.argmax(last, axis=-1)  # NumPy: the first of the largest, and a NaN before everything
        return np.take_along_axis(indices, best[..., None], -1)[..., 0].astype(np.int32)

    def kept(self, dims: tuple[int, ...]) -> tuple[int, ...]:
        """The extents of the axes that are not folded."""
        return tuple(n for k, n in enumerate(self.extents) if k not in dims)

    def scatter(self, target: np.ndarray, writes: np.ndarray) -> None:
        """Fold values into elements that the data choose, in the order of the axes."""
        piece = self.piece
        least = 0 if piece.combine == "add" else -np.inf if target.dtype.kind == "f" else np.iinfo(target.dtype).min
        if not writes.any():
            target[...] = least
            writes[...] = 1
        at = tuple(self.full(self.value(e)) for e in piece.at)
        value = self.full(self.value(piece.value))
        if piece.where is not None:
            mask = self.full(self.value(piece.where))
            at, value = tuple(index[mask] for index in at), value[mask]
        self.check(at, target.shape, None)
        fold = np.add if piece.combine == "add" else np.maximum
        fold.at(target, at, value)

    def full(self, value: np.ndarray) -> np.ndarray:
        """``value`` at every point of the box."""
        return np.broadcast_to(value, self.extents)

    def reshaped(self, value: np.ndarray) -> np.ndarray:
        """A scalar as it is, anything else with one dimension an axis."""
        return value if value.ndim in (0, len(self.extents)) else np.asarray(self.full(value))

    def value(self, expr: Expr) -> np.ndarray:
        """The array of an expression; each shared subexpression is computed once."""
        found = self.known.get(id(expr))
        if found is None:
            found = self.known[id(expr)] = np.asarray(self.compute(expr))
        return found

    def compute(self, expr: Expr) -> np.ndarray:
        match expr:
            case Axis():
                shape = [1] * len(self.extents)
                shape[self.position[expr]] = -1
                return np.arange(*self.spans[expr], dtype=np.int64).reshape(shape)
            case Const(value, dtype):
                return np.asarray(value).astype(_numpy_dtype(dtype))
            case Size(value):
                return np.asarray(value, np.int64)
            case Load():
                return self.load(expr)
            case Arith(op, args):
                return ARITHMETIC[op](*(self.value(a) for a in args))
            case Select(condition, yes, no):
                return np.where(self.value(condition), self.value(yes), self.value(no))
            case Cast(dtype, value):
                return self.value(value).astype(_numpy_dtype(dtype))
        raise TypeError(f"{expr} is no expression")

    def load(self, load: Load) -> np.ndarray:
        array = self.memory.arrays[load.ref.kind, load.ref.index]
        if load.where is None:
            view = self.view(array, load)
            if view is not None:
                return view
        at = tuple(self.value(e) for e in load.at)
        where = None if load.where is None else self.value(load.where)
        self.check(at, array.shape, where)
        if where is None:
            return array[np.broadcast_arrays(*at)] if 0 not in self.extents else np.empty(self.extents, array.dtype)
        assert load.other is not None
        if array.size == 0:
            return np.asarray(np.broadcast_to(self.value(load.other), self.extents))
        inside = tuple(np.where(where, index, 0) for index in at)
        return np.where(where, array[np.broadcast_arrays(*inside)] if inside else array, self.value(load.other))

    def view(self, array: np.ndarray, load: Load) -> np.ndarray | None:
        """A view, where each index is an axis, an axis and a constant, or a constant, and no axis stands twice."""
        cuts: list[slice] = []
        axes: list[Axis] = []
        for e, n in zip(load.at, array.shape, strict=True):
            axis, offset = _affine(e)
            if offset is None or axis in axes:
                return None
            start, stop = self.spans[axis] if axis is not None else (0, 1)
            if not 0 <= offset + start <= offset + stop <= n:
                return None  # out of range, if there are points at all: the general path decides
            cuts.append(slice(offset + start, offset + stop))
            if axis is not None:
                axes.append(axis)
        taken = array[tuple(cuts)]
        order = sorted(
            (self.position[axis], d)
            for d, axis in enumerate(a for a in (_affine(e)[0] for e in load.at))
            if axis is not None
        )
        shape = [1] * len(self.extents)
        for k, d in order:
            shape[k] = taken.shape[d]
        moved = [d for _, d in order]
        return taken.transpose([*moved, *(d for d in range(taken.ndim) if d not in moved)]).reshape(shape)

    def check(self, at: tuple[np.ndarray, ...], shape: tuple[int, ...], where: np.ndarray | None) -> None:
        if 0 in self.extents:
            return
        for d, (index, n) in enumerate(zip(at, shape, strict=True)):
            wrong = (index < 0) | (index >= n)
            if where is not None:
                wrong = wrong & where
            if np.any(wrong):
                raise IndexError(f"index {index[np.broadcast_to(wrong, index.shape)][:1]} on axis {d} of size {n}")


def _affine(expr: Expr) -> tuple[Axis | None, int | None]:
    """``axis + offset`` as such; an offset of None where the expression is something else."""
    match expr:
        case Axis():
            return expr, 0
        case Const(value):
            return None, int(value)
        case Arith("add", (Axis() as axis, Const(value))) | Arith("add", (Const(value), Axis() as axis)):
            return axis, int(value)
    return None, None


def _numpy_dtype(dtype: str) -> np.dtype:
    return np.dtype(np.int64) if dtype == "index" else NUMPY_DTYPES[dtype]
