"""``matmul``: products of matrices, batched over leading axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref
from concatc.loops.pieces import Piece, axes_for
from concatc.op import Builder, Op, Sample, ShapeError, f32


class Matmul(Op):
    """``y[.., i, j] = sum_k A[.., i, k] * B[.., k, j]`` with ``A`` and ``B`` the operands or their transposes.

    Shapes: ``[.., m, k]`` and ``[.., k, n]`` -> ``[.., m, n]``; with ``transpose_a`` the first is ``[.., k, m]``, with
    ``transpose_b`` the second is ``[.., n, k]``.  Both have the same rank, at least 2, and the same leading axes.

    Gradient: ``dA = dy B^T``, ``dB = A^T dy``.
    """

    example = "scores = matmul(q, k, transpose_b=true)"
    operands = ("a", "b")
    transpose_a: bool = False
    transpose_b: bool = False

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        a, b = xs
        if a.dtype != b.dtype:
            raise ShapeError(f"matmul of two element types: {{0}} is {a}, {{1}} is {b}")
        if a.rank < 2 or b.rank < 2:
            raise ShapeError(f"matmul needs matrices: {{0}} is {a}, {{1}} is {b}")
        if a.shape[:-2] != b.shape[:-2]:
            raise ShapeError(
                f"matmul: the leading axes must agree; {{0}} is {a}, {{1}} is {b}",
                help="linear applies one matrix to all leading axes" if b.rank == 2 else None,
            )
        m, k = _oriented(a, self.transpose_a)
        k_b, n = _oriented(b, self.transpose_b)
        if k != k_b:
            raise ShapeError(
                f"matmul: {{0}} has {k} columns, but {{1}} has {k_b} rows ({a} and {b}{self._flags()})",
                help=self._fitting(a, b),
            )
        return [a.with_shape((*a.shape[:-2], m, n))]

    def _flags(self) -> str:
        flags = [name for name in ("transpose_a", "transpose_b") if getattr(self, name)]
        return ", with " + " and ".join(flags) if flags else ""

    def _fitting(self, a: TensorType, b: TensorType) -> str | None:
        if _oriented(a, self.transpose_a)[1] == _oriented(b, not self.transpose_b)[0]:
            return f"transpose_b={str(not self.transpose_b).lower()} would fit"
        if _oriented(a, not self.transpose_a)[1] == _oriented(b, self.transpose_b)[0]:
            return f"transpose_a={str(not self.transpose_a).lower()} would fit"
        return None

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        a, b = xs
        return [
            np.matmul(
                np.swapaxes(a, -1, -2) if self.transpose_a else a,
                np.swapaxes(b, -1, -2) if self.transpose_b else b,
            )
        ]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        left, right = xs
        dy = dys[0]
        d_left = d_right = None
        if needs[0] and self.transpose_a:
            d_left = b.matmul(right, dy, transpose_a=self.transpose_b, transpose_b=True)
        elif needs[0]:
            d_left = b.matmul(dy, right, transpose_b=not self.transpose_b)
        if needs[1] and self.transpose_b:
            d_right = b.matmul(dy, left, transpose_a=True, transpose_b=self.transpose_a)
        elif needs[1]:
            d_right = b.matmul(left, dy, transpose_a=not self.transpose_a)
        return [d_left, d_right]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        a, b = xs
        *lead, i, j = axes_for(ys[0].shape)
        k = Axis("k", _oriented(a.type, self.transpose_a)[1], "reduce")
        left = a[(*lead, k, i)] if self.transpose_a else a[(*lead, i, k)]
        right = b[(*lead, j, k)] if self.transpose_b else b[(*lead, k, j)]
        yield Piece(ys[0], (*lead, i, j, k), (*lead, i, j), left * right, combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(3, 4), f32(4, 5)))
        yield Sample(cls(transpose_a=True), (f32(4, 3), f32(4, 5)))
        yield Sample(cls(transpose_b=True), (f32(2, 3, 4), f32(2, 5, 4)))
        yield Sample(cls(transpose_a=True, transpose_b=True), (f32(2, 2, 4, 3), f32(2, 2, 5, 4)))
        yield Sample(cls(), (f32(1, 7), f32(7, 1)))


def _oriented(x: TensorType, transpose: bool) -> tuple[int, int]:
    rows, columns = x.shape[-2:]
    return (columns, rows) if transpose else (rows, columns)
