"""``normalize``: each channel less its mean, over its standard deviation; and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Expr, Ref, sqrt
from concatc.loops.pieces import Piece, pointwise, temp
from concatc.op import Builder, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_float, check_same_shape
from concatc.ops.channel_stats import along_channels, channel_loop


class Normalize(Op):
    """``y[n, c, ..] = (x[n, c, ..] - mean[c]) r[c]``  with  ``r[c] = 1 / sqrt(var[c] + eps)``.

    Shapes: ``[n, c, ..]``, ``[c]``, ``[c]`` -> ``[n, c, ..]``.

    Gradients: ``dx = dy r[c]``; ``dmean[c] = -r[c] sum dy``; ``dvar[c] = -1/2 r[c]^3 sum dy (x - mean[c])``.  They are
    apart, so that the cotangents of shared statistics add up before ``channel_stats`` spreads them over x; all
    three together are the gradient of batch normalisation (Ioffe & Szegedy 2015).
    """

    example = "mean, var = channel_stats(image); h = normalize(image, mean, var)"
    operands = ("x", "mean", "var")
    eps: float = 1e-5

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, mean, var = xs
        check_float("normalize", *xs)
        if x.rank < 2:
            raise ShapeError(f"normalize reads [n, channels, ..]; {{0}} is {x}, of rank {x.rank}")
        for name, v in (("mean", mean), ("var", var)):
            if v.shape != (x.shape[1],):
                raise ShapeError(f"normalize: {{0}} is {x}, so `{name}` holds {x.shape[1]} numbers; it is {v}")
        if self.eps < 0:
            raise ShapeError(f"normalize: `eps` must be at least 0, not {self.eps}")
        return [x]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, mean, var = xs
        return [(x - along_channels(mean, x.ndim)) * along_channels(_scale(var, self.eps), x.ndim)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, mean, var = xs
        dx = b.normalize_grad(dys[0], var, eps=self.eps) if needs[0] else None
        if not (needs[1] or needs[2]):
            return [dx, None, None]
        dmean, dvar = b.normalize_stats_grad(dys[0], x, mean, var, eps=self.eps)
        return [dx, dmean if needs[1] else None, dvar if needs[2] else None]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, mean, var = xs
        yield pointwise(ys[0], lambda *i: (x[i] - mean[i[1]]) * (1.0 / sqrt(var[i[1]] + self.eps)))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for shape in ((4, 3), (2, 3, 2, 2), (2, 2, 2, 1, 3), (0, 2)):
            c = shape[1]
            yield Sample(cls(eps=1e-3), (f32(*shape), f32(c), f32(c)), data=_data(shape, (c,), (c,)))


class NormalizeGrad(Op):
    """``dx[n, c, ..] = dy[n, c, ..] / sqrt(var[c] + eps)``: the gradient of ``normalize`` with fixed statistics."""

    internal = True
    operands = ("dy", "var")
    eps: float

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[0]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        dy, var = xs
        return [dy * along_channels(_scale(var, self.eps), dy.ndim)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        dy, var = xs
        yield pointwise(ys[0], lambda *i: dy[i] * (1.0 / sqrt(var[i[1]] + self.eps)))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(eps=1e-3), (f32(4, 3), f32(3)), data=_data((4, 3), (3,)))
        yield Sample(cls(eps=1e-3), (f32(2, 3, 2, 2), f32(3)), data=_data((2, 3, 2, 2), (3,)))


class NormalizeStatsGrad(Op):
    """``dmean[c] = -r[c] sum dy``,  ``dvar[c] = -1/2 r[c]^3 sum dy (x - mean[c])``,  ``r[c] = 1 / sqrt(var[c] + eps)``:
    the gradient of ``normalize`` with respect to the statistics.
    """

    internal = True
    operands = ("dy", "x", "mean", "var")
    eps: float

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        return [xs[2], xs[3]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        dy, x, mean, var = xs
        others = (0, *range(2, x.ndim))
        r = _scale(var, self.eps)
        moment = (dy * (x - along_channels(mean, x.ndim))).sum(axis=others, dtype=x.dtype)
        return [-r * dy.sum(axis=others, dtype=x.dtype), x.dtype.type(-0.5) * r * r * r * moment]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        dy, x, mean, var = xs
        axes, channel = channel_loop(x.shape)
        total, moment = temp(0, mean.shape, x.dtype), temp(1, mean.shape, x.dtype)

        def scale(c: Expr) -> Expr:
            return 1.0 / sqrt(var[c] + self.eps)

        yield Piece(total, axes, (channel,), dy[axes], combine="add")
        yield Piece(moment, axes, (channel,), dy[axes] * (x[axes] - mean[channel]), combine="add")
        yield pointwise(ys[0], lambda c: -total[c] * scale(c))
        yield pointwise(ys[1], lambda c: -0.5 * moment[c] * scale(c) * scale(c) * scale(c))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for shape in ((4, 3), (2, 3, 2, 2)):
            c = shape[1]
            types = (f32(*shape), f32(*shape), f32(c), f32(c))
            yield Sample(cls(eps=1e-3), types, data=_data(shape, shape, (c,), (c,)))


class NormalizeStatsGradOfSums(Op):
    """``dmean[c] = -r[c] weight[c] dbias[c]``,  ``dvar[c] = -1/2 r[c]^2 weight[c] dweight[c]``  with
    ``r[c] = 1 / sqrt(var[c] + eps)``: what ``normalize_stats_grad`` is where ``scale`` and ``bias`` follow.

    With ``h = (x - mean) r`` and ``z = weight h + bias``: ``dbias = sum dz``, ``dweight = sum dz h``, and what
    ``normalize`` is given is ``weight dz``, so ``sum weight dz = weight dbias`` and
    ``sum weight dz (x - mean) = weight dweight / r``.  Shapes: ``[c]`` four times -> ``[c]`` and ``[c]``.
    """

    internal = True
    operands = ("dbias", "dweight", "weight", "var")
    eps: float

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        check_same_shape("normalize_stats_grad_of_sums", xs)
        return [xs[3], xs[3]]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        dbias, dweight, weight, var = xs
        r = _scale(var, self.eps)
        return [-r * weight * dbias, var.dtype.type(-0.5) * r * r * weight * dweight]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        dbias, dweight, weight, var = xs

        def scale(c: Expr) -> Expr:
            return 1.0 / sqrt(var[c] + self.eps)

        yield pointwise(ys[0], lambda c: -dbias[c] * weight[c] * scale(c))
        yield pointwise(ys[1], lambda c: -0.5 * dweight[c] * weight[c] * scale(c) * scale(c))

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(eps=1e-3), (f32(3),) * 4, data=_data(*((3,),) * 4))


def _scale(var: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(1 / np.sqrt(var + var.dtype.type(eps)))


def _data(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], list[np.ndarray]]:
    """Normal data, the last operand (the variance) positive."""

    def data(rng: np.random.Generator) -> list[np.ndarray]:
        *others, var = (rng.normal(size=shape) for shape in shapes)
        return [*others, np.square(var) + 0.5]

    return data
