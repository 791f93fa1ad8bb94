"""``transpose``: axes in another order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, ShapeError, f32


class Transpose(Op):
    """Axis ``d`` of ``y`` is axis ``perm[d]`` of ``x``.

    Shapes: ``x`` -> its sizes in the order ``perm``, which holds each axis once.  Gradient: ``dy``, transposed back.
    """

    example = "h = transpose(q, perm=[0, 2, 1])"
    size = "perm"
    perm: tuple[int, ...]

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        if sorted(self.perm) != list(range(x.rank)):
            raise ShapeError(
                f"transpose: `perm` holds each axis of {{0}}, {x}, once; {list(self.perm)} does not",
                help=f"{list(reversed(range(x.rank)))} reverses the axes" if x.rank > 1 else None,
            )
        return [x.with_shape(tuple(x.shape[d] for d in self.perm))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [np.transpose(xs[0], self.perm).copy()]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.transpose(dys[0], perm=self._inverse)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        yield pointwise(ys[0], lambda *i: xs[0][tuple(i[d] for d in self._inverse)])

    @property
    def _inverse(self) -> tuple[int, ...]:
        return tuple(self.perm.index(d) for d in range(len(self.perm)))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(perm=(1, 0)), (f32(2, 3),))
        yield Sample(cls(perm=(2, 0, 1)), (f32(2, 3, 4),))
        yield Sample(cls(perm=(0, 2, 1, 3)), (f32(2, 3, 4, 2),))
        yield Sample(cls(perm=()), (f32(),))
