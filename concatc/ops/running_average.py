"""``running_average``: the next value of a running statistic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref, Size, cast, wrap
from concatc.loops.pieces import Piece, pointwise
from concatc.op import Builder, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_float, check_same_shape


class RunningAverage(Op):
    """``next = (1 - momentum) state + momentum correction value``: an exponential moving average.

    Shapes: any, twice -> the same.  ``correction`` makes an unbiased variance of the biased one of ``count`` elements,
    ``count / (count - 1)``; it is 1 where ``count`` is 0.
    Gradient: both operands get their factor times ``dy``; ``batch_norm`` asks for none.
    """

    internal = True
    operands = ("state", "value")
    momentum: float
    count: int = 0

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_float("running_average", *xs)
        check_same_shape("running_average", xs)
        if not 0 <= self.momentum <= 1:
            raise ShapeError(f"running_average: `momentum` must lie between 0 and 1, not {self.momentum}")
        if self.count < 0 or self.count == 1:
            raise ShapeError(f"running_average: `count` is 0, or at least 2, not {self.count}")
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        state, value = xs
        number = state.dtype.type
        correction = self.count / (self.count - 1) if self.count else 1.0
        return [number(1 - self.momentum) * state + number(self.momentum * correction) * value]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        zero = b.constant(shape=xs[0].shape, value=0.0, dtype=xs[0].dtype)
        d_state = b.running_average(dys[0], zero, momentum=self.momentum) if needs[0] else None
        d_value = None
        if needs[1]:
            d_value = b.running_average(zero, dys[0], momentum=self.momentum, count=self.count)
        return [d_state, d_value]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        state, value = xs
        keep, take = wrap(1 - self.momentum, state.dtype), self._taken(state.dtype)
        yield pointwise(ys[0], lambda *i: keep * state[i] + take * value[i])

    def _taken(self, dtype: str) -> Expr:
        if not self.count:
            return wrap(self.momentum, dtype)
        # In f64 and then rounded, as everywhere; the count is no part of the code, so every batch size runs it.
        count, less = (cast(Size(n), "f64") for n in (self.count, self.count - 1))
        return cast(self.momentum * (count / less), dtype)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(momentum=0.1), (f32(3), f32(3)))
        yield Sample(cls(momentum=0.25, count=8), (f32(2), f32(2)))
