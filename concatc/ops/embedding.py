"""``embedding``: rows of a table by index, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from concatc.initial_values import Init
from concatc.ir.core import Value
from concatc.ir.types import INTEGERS, TensorType
from concatc.loops.expr import Axis, Expr, Load, Ref, cast
from concatc.loops.pieces import Piece, axes_for, pointwise
from concatc.op import Builder, CallSite, Op, Sample, ShapeError, f32, i32


class Embedding(Op):
    """``y[.., d] = weight[index[..], d]``: a row of a table for each index.

    Shapes: ``[..]`` of i32 or i64 -> ``[.., dim]``; ``weight`` is ``[vocab, dim]`` (gaussian, mean 0, deviation 1, as
    PyTorch).  An index outside ``0..vocab`` ends the run with an error that names the input; memory outside the table
    is never read.

    Gradient: ``dweight[v, d]`` is the sum of ``dy[.., d]`` over the places where ``index`` is ``v``, added in their
    order (``embedding_grad``); there is none for ``index``.
    """

    example = "h = words |> embedding(10000, dim=64)"
    operands = ("index",)
    size = "vocab"
    params = ("weight",)

    @classmethod
    def build(cls, site: CallSite, *xs: Value, vocab: int, dim: int) -> Value:
        (index,) = xs
        for name, number in (("vocab", vocab), ("dim", dim)):
            if number < 1:
                raise ShapeError(f"embedding: `{name}` must be at least 1, not {number}")
        _check_index(index.tensor)
        if not site.has_param("weight"):
            raise ShapeError("embedding is its weight; it cannot go without")
        weight = site.param("weight", (vocab, dim), Init("gaussian", (0.0, 1.0)))
        y: Value = site.b.embedding(index, weight)
        return y

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        index, weight = xs
        _check_index(index)
        if weight.rank != 2 or not weight.is_float:
            raise ShapeError(f"embedding: a weight is [vocab, dim] of floats, not {weight}")
        return [weight.with_shape((*index.shape, weight.shape[1]))]

    def index_bounds(self, xs: Sequence[TensorType]) -> dict[int, tuple[int, int | None]]:
        return {0: (xs[1].shape[0], None)}

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        index, weight = xs
        return [weight[index]]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        index, weight = xs
        return [None, b.embedding_grad(index, dys[0], vocab=weight.shape[0]) if needs[1] else None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        index, weight = xs

        def element(*i: Expr) -> Expr:
            *where, d = i
            row = index[tuple(where)]
            return weight.load((cast(row, "index"), d), _inside(row, weight.shape[0]))

        yield pointwise(ys[0], element)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (i32(6), f32(4, 3)), data=_indices((6,), 4, (4, 3)))
        yield Sample(cls(), (i32(2, 3), f32(5, 2)), data=_indices((2, 3), 5, (5, 2)))
        yield Sample(cls(), (i32(), f32(5, 2)), data=_indices((), 5, (5, 2)))
        yield Sample(cls(), (i32(0), f32(5, 2)), data=_indices((0,), 5, (5, 2)))


class EmbeddingGrad(Op):
    """``dweight[v, d] = sum of dy[.., d] over the places where index[..] is v``, in the order of the places."""

    internal = True
    operands = ("index", "dy")
    vocab: int

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[1].with_shape((self.vocab, xs[1].shape[-1]))]

    def index_bounds(self, xs: Sequence[TensorType]) -> dict[int, tuple[int, int | None]]:
        return {0: (self.vocab, None)}

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        index, dy = xs
        dweight = np.zeros((self.vocab, dy.shape[-1]), dy.dtype)
        np.add.at(dweight, index.reshape(-1), dy.reshape(-1, dy.shape[-1]))
        return [dweight]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        index, dy = xs
        places = tuple(Axis(f"i{k}", n, "sequential") for k, n in enumerate(index.shape))
        (d,) = axes_for(dy.shape[-1:], "d")
        row = index[places]
        # Columns in parallel, places in order: two places of one row meet in the same loop, so nothing races.
        yield Piece(
            ys[0],
            (d, *places),
            (cast(row, "index"), d),
            dy[(*places, d)],
            combine="add",
            where=_inside(row, self.vocab),
        )

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(vocab=4), (i32(6), f32(6, 3)), data=_indices((6,), 4, (6, 3)))
        yield Sample(cls(vocab=5), (i32(2, 3), f32(2, 3, 2)), data=_indices((2, 3), 5, (2, 3, 2)))


def _check_index(index: TensorType) -> None:
    if index.dtype not in INTEGERS:
        raise ShapeError(f"embedding needs integer indices; {{0}} is {index}", help="declare it as i32")


def _inside(row: Load, vocab: int) -> Expr:
    return (row >= 0) & (row < vocab)


def _indices(
    shape: tuple[int, ...], vocab: int, floats: tuple[int, ...]
) -> Callable[[np.random.Generator], list[np.ndarray]]:
    def data(rng: np.random.Generator) -> list[np.ndarray]:
        return [np.asarray(rng.integers(0, vocab, shape), np.int32), rng.normal(size=floats)]

    return data
