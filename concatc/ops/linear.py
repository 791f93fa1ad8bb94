"""``linear``: a matrix of weights applied to the last axis, and the gradient of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concatc.initial_values import XAVIER, constant
from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref
from concatc.loops.pieces import Piece, axes_for
from concatc.op import DIALECT, Builder, CallSite, Op, Sample, ShapeError, f32

# Ops that make images, and ops that leave an image one.
_MAKE_IMAGES = (
    "conv",
    "conv_transpose",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "global_max_pool",
    "upsample",
    "lrn",
)
_KEEP_IMAGES = ("relu", "leaky_relu", "elu", "gelu", "sigmoid", "tanh", "normalize", "scale", "bias", "dropout", "add")


class Linear(Op):
    """``y[.., o] = sum_k x[.., k] * weight[o, k] (+ bias[o])``.

    Shapes: ``[.., k]`` -> ``[.., size]``; ``weight`` is ``[size, k]`` (xavier), ``bias`` is ``[size]`` (zero).
    It acts on the last axis and never flattens: write ``flatten`` before it where that is meant.
    """

    example = "h = image |> flatten |> linear(64)"
    operands = ("x",)
    size = "size"
    params = ("weight", "bias")
    transpose: bool = False  # weight is [k, size] (the data gradient of a linear)

    @classmethod
    def build(cls, site: CallSite, *xs: Value, size: int) -> Value:
        (x,) = xs
        if x.tensor.rank < 2:
            raise ShapeError(f"linear needs at least 2 axes; {{0}} is {x.tensor}")
        if size < 1:
            raise ShapeError(f"linear: `size` must be at least 1, not {size}")
        weight = site.param("weight", (size, x.shape[-1]), XAVIER, x.dtype)
        y: Value = site.b.linear(x, weight)
        if not site.has_param("bias"):
            return y
        bias = site.param("bias", (size,), constant(0.0), x.dtype)
        biased: Value = site.b.bias(y, bias, axis=y.tensor.rank - 1)
        return biased

    @classmethod
    def doubt(cls, xs: Sequence[Value]) -> tuple[str, str] | None:
        if not _is_image(xs[0]):
            return None
        return (
            f"linear acts on the last axis of {{0}}, {xs[0].tensor}: the width of an image",
            "`flatten` before it joins channels, height and width",
        )

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        x, w = xs
        size, k = (w.shape[1], w.shape[0]) if self.transpose else (w.shape[0], w.shape[1])
        if x.shape[-1] != k:
            raise ShapeError(f"linear: the last axis of {{0}} is {x.shape[-1]}, but its weight {w} takes {k}")
        return [x.with_shape((*x.shape[:-1], size))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        x, w = xs
        return [x @ w if self.transpose else x @ w.T]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        x, w = xs
        # dw before dx: it reads x for the last time, so dx may take the bytes of x.
        dw = None
        if needs[1]:
            dw = b.linear_weight_grad(x, dys[0]) if self.transpose else b.linear_weight_grad(dys[0], x)
        dx = b.linear(dys[0], w, transpose=not self.transpose) if needs[0] else None
        return [dx, dw]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        x, w = xs
        axes = axes_for(ys[0].shape)
        k = Axis("k", x.shape[-1], "reduce")
        weight = w[k, axes[-1]] if self.transpose else w[axes[-1], k]
        yield Piece(ys[0], (*axes, k), axes, x[(*axes[:-1], k)] * weight, combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(5, 4), f32(3, 4)))
        yield Sample(cls(transpose=True), (f32(5, 4), f32(4, 3)))
        yield Sample(cls(), (f32(2, 3, 4), f32(5, 4)))


def _is_image(x: Value) -> bool:
    """Whether a blob comes from an op on images, through ops that work on each element or channel."""
    op = x.op
    while op is not None and x.tensor.rank == 4:
        name = op.name.removeprefix(DIALECT)
        if name in _MAKE_IMAGES:
            return True
        if name not in _KEEP_IMAGES:
            return False
        op = op.operands[0].op
    return False


class LinearWeightGrad(Op):
    """``dw[o, k] = sum over all leading axes of dy[.., o] * x[.., k]``."""

    internal = True
    operands = ("dy", "x")

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        dy, x = xs
        return [x.with_shape((dy.shape[-1], x.shape[-1]))]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        dy, x = xs
        return [dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        dy, x = xs
        rows = tuple(Axis(f"r{d}", n, "reduce") for d, n in enumerate(x.shape[:-1]))
        o, k = axes_for(ys[0].shape)
        yield Piece(ys[0], (o, k, *rows), (o, k), dy[(*rows, o)] * x[(*rows, k)], combine="add")

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(), (f32(6, 3), f32(6, 4)))
        yield Sample(cls(), (f32(2, 3, 3), f32(2, 3, 4)))
