"""``constant``: a tensor filled with one value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import NUMPY_DTYPES, TensorType
from concatc.loops.expr import Ref, wrap
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, ShapeError


class Constant(Op):
    """``y[..] = value``: the seed of the backward pass, and the cotangent of a slice that nobody reads.

    Shapes: none -> ``shape``, of element type ``dtype`` (an integer type takes an integral value).
    """

    internal = True
    operands = ()
    shape: tuple[int, ...]
    value: float
    dtype: Literal["f32", "f64", "i32", "i64"] = "f32"

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        if any(n < 0 for n in self.shape):
            raise ShapeError(f"constant: a shape holds no negative sizes, as {list(self.shape)} does")
        if self.dtype in ("i32", "i64") and not self.value.is_integer():
            raise ShapeError(f"constant: {self.value} is no {self.dtype}")
        return [TensorType(self.shape, self.dtype)]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.full(self.shape, self.value, NUMPY_DTYPES[self.dtype])]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return []

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield pointwise(ys[0], lambda *i: wrap(self.value, self.dtype))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(shape=(), value=1.0), ())
        yield Sample(cls(shape=(2, 3), value=0.0), ())
        yield Sample(cls(shape=(2,), value=3.0, dtype="i32"), ())
        yield Sample(cls(shape=(0, 3), value=2.0), ())
