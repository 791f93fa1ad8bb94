"""What elementwise ops share: inference and lowering from one scalar formula, broadcasting and its transpose."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, ShapeError
from concatc.ops._checks import check_float, check_same_shape


class Pointwise(Op, abstract=True):
    """``y[i] = scalar(x0[i], x1[i], ..)`` over float operands of one shape."""

    @abstractmethod
    def scalar(self, *x: Expr) -> Expr:
        """One element of the result from the elements of the operands at the same place."""

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_float(self.name, *xs)
        check_same_shape(self.name, xs)
        return [xs[0]]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield pointwise(ys[0], lambda *i: self.scalar(*(x[i] for x in xs)))


class Broadcasting(Op, abstract=True):
    """``y[i] = scalar(a[i], b[i])``, where an axis of size 1 and an operand of rank 0 are repeated."""

    operands = ("a", "b")

    @abstractmethod
    def scalar(self, *x: Expr) -> Expr:
        """One element of the result."""

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_float(self.name, *xs)
        a, b = xs
        return [a.with_shape(broadcast_shape(self.name, a, b))]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield pointwise(ys[0], lambda *i: self.scalar(*(load_broadcast(x, i) for x in xs)))


def broadcast_shape(op: str, a: TensorType, b: TensorType) -> tuple[int, ...]:
    """The shape of ``a`` and ``b`` together: equal shapes, axes of size 1 at equal rank, or a number (rank 0)."""
    if a.rank == 0 or b.rank == 0:
        return a.shape or b.shape
    fits = a.rank == b.rank and all(m == n or 1 in (m, n) for m, n in zip(a.shape, b.shape, strict=True))
    if fits:
        return tuple(n if m == 1 else m for m, n in zip(a.shape, b.shape, strict=True))
    help = None
    if a.rank != b.rank:
        short, long, name = (a, b, "{0}") if a.rank < b.rank else (b, a, "{1}")
        ways = _paddings(short.shape, long.shape)
        to = str(list(ways[0])) if len(ways) == 1 else f"{long.rank} axes, with 1 where it repeats"
        help = f"reshape {name} to {to}"
    raise ShapeError(f"{op} needs equal shapes, or axes of size 1 at equal rank: {{0}} is {a}, {{1}} is {b}", help)


def _paddings(short: tuple[int, ...], long: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The ways to put axes of size 1 into ``short`` so that it repeats to ``long``."""
    if not long:
        return [] if short else [()]
    taken = [(short[0], *rest) for rest in _paddings(short[1:], long[1:])] if short and short[0] in (1, long[0]) else []
    skipped = [(1, *rest) for rest in _paddings(short, long[1:])]
    return list(dict.fromkeys(taken + skipped))


def load_broadcast(x: Ref, at: tuple[Expr, ...]) -> Expr:
    """The element of ``x`` that stands at ``at`` of the broadcast shape."""
    if not x.shape:
        return x[()]
    return x[tuple(0 if n == 1 else i for i, n in zip(at, x.shape, strict=True))]


def sum_to(b: Builder, dy: Value, x: Value) -> Value:
    """The transpose of broadcasting ``x`` to the shape of ``dy``: sum over what was repeated."""
    if x.shape == dy.shape:
        return dy
    if not x.shape:
        return _value(b.sum(dy, axes=tuple(range(len(dy.shape)))))
    repeated = tuple(d for d, (n, m) in enumerate(zip(x.shape, dy.shape, strict=True)) if n != m)
    return _value(b.sum(dy, axes=repeated, keepdims=True))


def _value(made: object) -> Value:
    assert isinstance(made, Value)
    return made


Data = Callable[[np.random.Generator], list[np.ndarray]]


def normal_away_from(kink: float, *shapes: tuple[int, ...]) -> Data:
    """Sample data whose first operand is normal and at least 0.1 from ``kink``; the others are normal."""

    def make(rng: np.random.Generator) -> list[np.ndarray]:
        first, *rest = (rng.normal(size=shape) for shape in shapes)
        return [np.asarray(kink + np.sign(first) * (np.abs(first) + 0.1)), *rest]

    return make


def positive(*shapes: tuple[int, ...]) -> Data:
    """Sample data from 0.2 to 3."""
    return lambda rng: [rng.uniform(0.2, 3.0, size=shape) for shape in shapes]
