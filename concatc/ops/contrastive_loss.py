"""``contrastive_loss`` of pairs of feature vectors, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, cast, maximum, select, share_of, sqrt
from concatc.loops.pieces import Piece, axes_for, temp
from concatc.op import Builder, Op, Sample, ShapeError, f32, i32
from concatc.ops._checks import check_float, check_same_shape
from concatc.ops._pointwise import Data


class ContrastiveLoss(Op):
    """``loss = sum over pairs of (same * d^2 + (1 - same) * max(margin - d, 0)^2) / (2 n)``, ``d = |a - b|``.

    Pairs of the same kind are drawn together, others are pushed to a distance of ``margin``: Hadsell, Chopra and LeCun
    2006 with ``same = 1 - Y``, Caffe's ContrastiveLoss.  Shapes: ``a`` and ``b`` ``[n, features]``, ``same`` ``[n]``
    (1 or 0, float or integer) -> ``[]``.  NaN propagates.  The loss of no pairs is 0.
    Gradient: ``da = dy / n * (same - (1 - same) * max(margin - d, 0) / d) * (a - b)``, ``db = -da``; the push is 0 at
    ``d = 0``, where it has no direction.  ``same`` is a label and gets none.
    """

    example = "loss contrastive_loss(x, y, same, margin=1)"
    operands = ("a", "b", "same")
    margin: float = 1.0

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        _check_pairs("contrastive_loss", xs)
        if self.margin <= 0:
            raise ShapeError(f"contrastive_loss: `margin` must be positive, not {self.margin:g}")
        return [xs[0].with_shape(())]

    def row_factor(self, xs: Sequence[TensorType]) -> float | None:
        return 1.0 / max(2 * xs[0].shape[0], 1)

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b, same = xs
        like = same.astype(a.dtype)
        squared = np.sum(np.square(a - b), axis=1, dtype=a.dtype)
        gap = np.maximum(a.dtype.type(self.margin) - np.sqrt(squared), 0)
        total = np.sum(like * squared + (1 - like) * gap * gap, dtype=a.dtype)
        return [np.asarray(total / a.dtype.type(max(2 * len(a), 1)))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        left, right, same = xs
        da = b.contrastive_loss_grad(left, right, same, dys[0], margin=self.margin) if needs[0] else None
        # The loss is symmetric in a and b.
        db = b.contrastive_loss_grad(right, left, same, dys[0], margin=self.margin) if needs[1] else None
        return [da, db, None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        a, b, same = xs
        squared = temp(0, a.shape[:1], a.dtype)
        yield _squared_piece(squared, a, b)
        n = Axis("n", a.shape[0], "reduce")
        like = cast(same[n], a.dtype)
        gap = maximum(self.margin - sqrt(squared[n]), 0.0)
        loss = like * squared[n] + (1.0 - like) * gap * gap
        yield Piece(ys[0], (n,), (), loss * share_of(max(2 * a.shape[0], 1), a.dtype), combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        flags = (True, True, False)
        yield Sample(cls(), (f32(6, 3), f32(6, 3), f32(6)), _data(6, 3), flags)
        yield Sample(cls(margin=2.5), (f32(5, 2), f32(5, 2), i32(5)), _data(5, 2), flags)
        yield Sample(cls(), (f32(0, 2), f32(0, 2), f32(0)), _data(0, 2), flags)


class ContrastiveLossGrad(Op):
    """``da = dy / n * (same - (1 - same) * max(margin - d, 0) / d) * (a - b)``, the push 0 at ``d = 0``."""

    internal = True
    operands = ("a", "b", "same", "dy")
    margin: float = 1.0

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        _check_pairs("contrastive_loss_grad", xs[:3])
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b, same, dy = xs
        like = same.astype(a.dtype)[:, None]
        difference = a - b
        d = np.sqrt(np.sum(np.square(difference), axis=1, keepdims=True, dtype=a.dtype))
        push = np.where(d == 0, 0, np.maximum(a.dtype.type(self.margin) - d, 0) / d)
        scale = dy / a.dtype.type(max(len(a), 1))
        return [np.asarray((like - (1 - like) * push) * difference * scale, a.dtype)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        a, b, same, dy = xs
        squared = temp(0, a.shape[:1], a.dtype)
        yield _squared_piece(squared, a, b)
        at = axes_for(a.shape)
        n = at[0]
        d: Expr = sqrt(squared[n])
        like = cast(same[n], a.dtype)
        push = select(d.eq(0.0), 0.0, maximum(self.margin - d, 0.0) / d)
        scale = dy[()] * share_of(max(a.shape[0], 1), a.dtype)
        yield Piece(ys[0], at, at, (like - (1.0 - like) * push) * (a[at] - b[at]) * scale)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        def data(rng: np.random.Generator) -> list[np.ndarray]:
            return [*_data(6, 3)(rng), rng.normal(size=())]

        yield Sample(cls(), (f32(6, 3), f32(6, 3), f32(6), f32()), data)


def _check_pairs(op: str, xs: Sequence[TensorType]) -> None:
    a, b, same = xs
    check_float(op, a, b)
    check_same_shape(op, (a, b))
    if a.rank != 2:
        raise ShapeError(f"{op} takes vectors, [n, features]; {{0}} is {a}", help="flatten them first")
    if same.shape != a.shape[:1] or (same.is_float and same.dtype != a.dtype):
        raise ShapeError(f"{op} needs one label a pair, {a.with_shape(a.shape[:1])} or integers; {{2}} is {same}")


def _squared_piece(squared: Ref, a: Ref, b: Ref) -> Piece:
    n, k = Axis("n", a.shape[0]), Axis("k", a.shape[1], "reduce")
    difference = a[n, k] - b[n, k]
    return Piece(squared, (n, k), (n,), difference * difference, combine="add")


def _data(pairs: int, features: int) -> Data:
    # Distances from 0.2 to 0.9 and from 1.6 to 2.4: within and beyond either margin, away from both.
    def make(rng: np.random.Generator) -> list[np.ndarray]:
        a, direction = rng.normal(size=(pairs, features)), rng.normal(size=(pairs, features))
        far = np.arange(pairs) % 3 == 2
        d = np.where(far, rng.uniform(1.6, 2.4, pairs), rng.uniform(0.2, 0.9, pairs))
        b = a + direction / np.linalg.norm(direction, axis=1, keepdims=True) * d[:, None]
        return [a, b, np.asarray(np.arange(pairs) % 2, np.float64)]

    return make
