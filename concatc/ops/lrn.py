"""``lrn``: local response normalisation across channels, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, exp, log
from concatc.loops.pieces import Piece, axes_for, pointwise, temp
from concatc.loops.windows import Slide
from concatc.op import Builder, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_float


class LrnOp(Op, abstract=True):
    """Attributes and sums that ``lrn`` and its gradient share."""

    window: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def over_window(self, v: np.ndarray) -> np.ndarray:
        """The sum of ``v`` over the channels around each channel."""
        half = self.window // 2
        padded = np.pad(v, ((0, 0), (half, half), *((0, 0),) * (v.ndim - 2)))
        total = np.zeros_like(v)
        for start in range(self.window):
            total += padded[:, start : start + v.shape[1]]
        return total

    def base(self, x: np.ndarray) -> np.ndarray:
        """``s``, the number that is raised to the power ``-beta``."""
        number = x.dtype.type
        return np.asarray(number(self.k) + number(self.alpha / self.window) * self.over_window(np.square(x)))

    def window_piece(self, target: Ref, value_of: Ref, square: bool) -> Piece:
        """``target[n, c, ..] = sum over the channels around c of value_of`` (or of its square)."""
        shape = target.shape
        n, c, *space = axes_for(shape)
        r = Axis("r", self.window, "reduce")
        slide = Slide(shape[1], self.window, 1, self.window // 2, 1, shape[1])
        at, guard = slide.source(c, r)
        value = value_of.load((n, at, *space), guard)
        return Piece(target, (n, c, *space, r), (n, c, *space), value * value if square else value, combine="add")

    def scaled(self, total: Expr) -> Expr:
        """``s`` from the sum of squares."""
        return total * (self.alpha / self.window) + self.k


class Lrn(LrnOp):
    """``y[n, c, ..] = x[n, c, ..] / s[n, c, ..]^beta``  with
    ``s[n, c, ..] = k + alpha / window * sum of x[n, c', ..]^2`` over ``|c' - c| <= (window - 1) / 2``, channels that
    are there.

    Shapes: ``[n, c, ..]`` -> the same, at least 2 axes.  ``window`` is odd.  The form of Caffe and PyTorch: ``alpha``
    is divided by the window, as Krizhevsky et al. 2012, section 3.3, do not (theirs is ``alpha = 5e-4, k = 2`` here).

    Gradient: ``dx[c] = dy[c] s[c]^-beta - 2 alpha beta / window * x[c] * sum of dy[c'] x[c'] s[c']^(-beta - 1)`` over
    the same channels ``c'``.
    """

    example = "h = image |> lrn(5, alpha=1e-4, beta=0.75)"
    operands = ("x",)
    size = "window"

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        check_float("lrn", x)
        if x.rank < 2:
            raise ShapeError(f"lrn reads [n, channels, ..]; {{0}} is {x}, of rank {x.rank}")
        if self.window < 1 or self.window % 2 == 0:
            raise ShapeError(
                f"lrn: `window` must be odd and at least 1, not {self.window}", help="it is centred on a channel"
            )
        if self.k <= 0 or self.alpha < 0:
            raise ShapeError(f"lrn needs k > 0 and alpha >= 0; they are {self.k} and {self.alpha}")
        return [x]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        (x,) = xs
        return [x * self.base(x) ** x.dtype.type(-self.beta)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.lrn_grad(xs[0], dys[0], window=self.window, alpha=self.alpha, beta=self.beta, k=self.k)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        squares = temp(0, x.shape, x.dtype)
        yield self.window_piece(squares, x, square=True)
        yield pointwise(ys[0], lambda *i: x[i] * _power(self.scaled(squares[i]), -self.beta))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(window=3, alpha=0.5), (f32(2, 5, 2, 2),))
        yield Sample(cls(window=5, alpha=1.0, beta=0.6, k=2.0), (f32(1, 3, 3, 1),))
        yield Sample(cls(window=1, alpha=0.3), (f32(2, 4),))


class LrnGrad(LrnOp):
    """``dx[c] = dy[c] s[c]^-beta - 2 alpha beta / window * x[c] * sum of dy[c'] x[c'] s[c']^(-beta - 1)``, with ``s``
    and the channels ``c'`` of ``lrn``; ``s`` is computed again.
    """

    internal = True
    operands = ("x", "dy")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, dy = xs
        number = x.dtype.type
        s = self.base(x)
        power = s ** number(-self.beta)
        around = self.over_window(dy * x * power / s)
        return [dy * power - number(self._factor) * x * around]

    @property
    def _factor(self) -> float:
        return 2 * self.alpha * self.beta / self.window

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, dy = xs
        squares, part, around = (temp(t, x.shape, x.dtype) for t in range(3))
        yield self.window_piece(squares, x, square=True)
        yield pointwise(part, lambda *i: dy[i] * x[i] * _power(self.scaled(squares[i]), -self.beta - 1))
        yield self.window_piece(around, part, square=False)
        yield pointwise(
            ys[0],
            lambda *i: dy[i] * _power(self.scaled(squares[i]), -self.beta) - self._factor * x[i] * around[i],
        )

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(window=3, alpha=0.5), (f32(2, 5, 2, 2), f32(2, 5, 2, 2)))
        yield Sample(cls(window=5, alpha=1.0, beta=0.6, k=2.0), (f32(1, 3, 3, 1), f32(1, 3, 3, 1)))


def _power(base: Expr, exponent: float) -> Expr:
    return exp(log(base) * exponent)
