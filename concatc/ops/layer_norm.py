"""``layer_norm``: normalisation over the last axes of each element, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from concatc.initial_values import constant
from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Expr, Ref, sqrt
from concatc.loops.pieces import Piece, axes_for, pointwise, temp
from concatc.op import Builder, CallSite, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_float


class LayerNorm(Op):
    """``y = (x - mean) / sqrt(var + eps) * weight + bias``, mean and (biased) variance over the last ``axes`` axes
    (Ba, Kiros & Hinton 2016).

    Shapes: ``[.., d]`` -> the same; ``axes`` is how many axes, from the last, are normalised together (1).  ``weight``
    (one) and ``bias`` (zero) have the shape of these axes and are left out with ``weight=false``, ``bias=false``.

    Gradient, with ``r = 1 / sqrt(var + eps)`` and ``z = (x - mean) r``:
    ``dx = r (dy - mean(dy) - z mean(dy z))``, means over the same axes (``layer_norm_grad``, which computes the
    statistics again).
    """

    example = "h = layer_norm(q)"
    params = ("weight", "bias")
    eps: float = 1e-5

    @classmethod
    def build(cls, site: CallSite, *xs: Value, eps: float = 1e-5, axes: int = 1) -> Value:
        (x,) = xs
        b, shape = site.b, x.shape
        if not 1 <= axes <= len(shape):
            raise ShapeError(f"layer_norm: `axes` must lie between 1 and {len(shape)}, the axes of {{0}}; it is {axes}")
        lead, inner = shape[: len(shape) - axes], shape[len(shape) - axes :]
        flat = (*lead, math.prod(inner))
        y = x if axes == 1 else b.reshape(x, shape=flat)
        y = b.layer_norm(y, eps=eps)
        for name, start in (("weight", 1.0), ("bias", 0.0)):
            if not site.has_param(name):
                continue
            p = site.param(name, inner, constant(start), x.dtype)
            p = p if axes == 1 else b.reshape(p, shape=flat[-1:])
            y = (b.scale if name == "weight" else b.bias)(y, p, axis=len(lead))
        result: Value = y if axes == 1 else b.reshape(y, shape=shape)
        return result

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        check_float("layer_norm", x)
        if x.rank == 0 or x.shape[-1] == 0:
            raise ShapeError(f"layer_norm needs elements along the last axis; {{0}} is {x}")
        if self.eps <= 0:
            raise ShapeError(f"layer_norm: `eps` must be greater than 0, not {self.eps}")
        return [x]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        deviation, r = _normalized(xs[0], self.eps)
        return [deviation * r]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        return [b.layer_norm_grad(xs[0], dys[0], eps=self.eps)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        (x,) = xs
        mean, var = yield from _statistics(x)
        yield pointwise(ys[0], lambda *i: (x[i] - mean[i[:-1]]) * (1.0 / sqrt(var[i[:-1]] + self.eps)))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(eps=1e-3), (f32(3, 5),))
        yield Sample(cls(eps=1e-3), (f32(2, 3, 4),))
        yield Sample(cls(eps=1e-3), (f32(6),))
        yield Sample(cls(eps=1e-3), (f32(0, 4),))


class LayerNormGrad(Op):
    """``dx = r (dy - mean(dy) - z mean(dy z))``,  ``r = 1 / sqrt(var(x) + eps)``,  ``z = (x - mean(x)) r``, means over
    the last axis.
    """

    internal = True
    operands = ("x", "dy")
    eps: float

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, dy = xs
        deviation, r = _normalized(x, self.eps)
        z = deviation * r
        mean_dy, mean_dyz = (v.mean(axis=-1, keepdims=True, dtype=x.dtype) for v in (dy, dy * z))
        return [r * (dy - mean_dy - z * mean_dyz)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, dy = xs
        mean, var = yield from _statistics(x)
        rows = x.shape[:-1]
        share = 1.0 / x.shape[-1]
        total, moment = temp(4, rows, x.dtype), temp(5, rows, x.dtype)
        axes, at = _row_loop(x.shape)

        def scale(row: tuple[Expr, ...]) -> Expr:
            return 1.0 / sqrt(var[row] + self.eps)

        def z(i: tuple[Expr, ...]) -> Expr:
            return (x[i] - mean[i[:-1]]) * scale(i[:-1])

        yield Piece(total, axes, at, dy[axes], combine="add")
        yield Piece(moment, axes, at, dy[axes] * z(axes), combine="add")
        yield pointwise(
            ys[0],
            lambda *i: scale(i[:-1]) * (dy[i] - total[i[:-1]] * share - z(i) * (moment[i[:-1]] * share)),
        )

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(eps=1e-3), (f32(3, 5), f32(3, 5)))
        yield Sample(cls(eps=1e-3), (f32(2, 3, 4), f32(2, 3, 4)))


def _normalized(x: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    deviation = x - x.mean(axis=-1, keepdims=True, dtype=x.dtype)
    var = np.square(deviation).mean(axis=-1, keepdims=True, dtype=x.dtype)
    return deviation, np.asarray(1 / np.sqrt(var + x.dtype.type(eps)))


def _row_loop(shape: tuple[int, ...]) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    rows = axes_for(shape[:-1])
    return (*rows, Axis("d", shape[-1], "reduce")), rows


def _statistics(x: Ref) -> Generator[Piece, None, tuple[Ref, Ref]]:
    """Yield the pieces of mean and variance of each row (temporaries 0 to 3); return the two."""
    total, mean, squares, var = (temp(t, x.shape[:-1], x.dtype) for t in range(4))
    share = 1.0 / x.shape[-1]
    axes, at = _row_loop(x.shape)
    deviation = x[axes] - mean[at]
    yield Piece(total, axes, at, x[axes], combine="add")
    yield pointwise(mean, lambda *row: total[row] * share)
    yield Piece(squares, axes, at, deviation * deviation, combine="add")
    yield pointwise(var, lambda *row: squares[row] * share)
    return mean, var
