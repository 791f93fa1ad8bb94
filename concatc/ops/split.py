"""``split``: one value for several readers.  Its transpose is ``accumulate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, f32


class Split(Op):
    """Hand ``x`` to ``ways`` readers; no byte moves.

    Shapes: any -> ``ways`` times the same.
    """

    internal = True
    ways: int

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0]] * self.ways

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [xs[0]] * self.ways

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        # The last reader's cotangent exists first: adding in this order lets each contribution go where it is made.
        present = [dy for dy in reversed(dys) if dy is not None]
        return [present[0] if len(present) == 1 else b.accumulate(*present)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        for y in ys:
            yield pointwise(y, lambda *i: xs[0][i])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(ways=3), (f32(2, 3),))
