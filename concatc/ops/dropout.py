"""``dropout``: its own transpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref, select
from concatc.loops.pieces import Piece, axes_for
from concatc.op import Builder, CallSite, Op, Sample, ShapeError, f32, i32
from concatc.ops._checks import check_float
from concatc.ops._hash import STEPS, random_steps, random_steps_expr
from concatc.ops._pointwise import Data


class Dropout(Op):
    """``y = x / (1 - p)`` for an element that is kept, else 0; an element is dropped with probability ``p`` (to 2^-24).

    Which elements are kept is a function of the run's seed and step, the key of the call and the row-major index of the
    element, nothing else: the gradient drops the same ones, and layout, threads and fusion cannot change them.
    In the inference phase, and for ``p=0``, it is the identity.  A dropped NaN is 0.

    Shapes: any -> the same.  Gradient: ``dx`` is the dropout of ``dy``.  Source: Srivastava et al. 2014, inverted form.
    """

    example = "h = x |> linear(64) |> relu |> dropout(0.5)"
    size = "p"
    operands = ("x",)
    p: float = 0.5
    key: int

    @classmethod
    def build(cls, site: CallSite, *xs: Value, p: float = 0.5) -> Value:
        _check_p(p)
        if not site.train or p == 0:
            return xs[0]
        random, key = site.random()
        y: Value = site.b.dropout(xs[0], random, p=p, key=key)
        return y

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, random = xs
        _check_p(self.p)
        check_float("dropout", x)
        if random != i32(2):
            raise ShapeError(f"dropout needs the random state, {i32(2)}; {{1}} is {random}")
        return [x]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, random = xs
        kept = random_steps(random, self.key, x.shape) >= self._dropped_steps
        return [np.where(kept, x * x.dtype.type(1 / (1 - self.p)), x.dtype.type(0))]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.dropout(dys[0], xs[1], p=self.p, key=self.key) if needs[0] else None, None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, random = xs
        at = axes_for(x.shape)
        kept: Expr = random_steps_expr(random, self.key, at) >= self._dropped_steps
        yield Piece(ys[0], at, at, select(kept, x[at] * (1 / (1 - self.p)), 0.0))

    @property
    def _dropped_steps(self) -> int:
        return round(self.p * STEPS)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for p, key, shape in ((0.5, 0, (4, 5)), (0.1, -7, (2, 3, 4)), (0.9, 123456789, (30,)), (0.5, 1, (0, 2))):
            yield Sample(cls(p=p, key=key), (f32(*shape), i32(2)), _data(shape))


def _data(shape: tuple[int, ...]) -> Data:
    return lambda rng: [rng.normal(size=shape), np.array([17, -3], np.int32)]


def _check_p(p: float) -> None:
    if not 0 <= p < 1:
        raise ShapeError(f"dropout: `p` is the probability to drop an element, 0 <= p < 1, not {p:g}")
