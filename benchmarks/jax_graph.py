"""A net at the graph level as a JAX function, so that `jax.jit` can be measured on any net of the language.

`loss_function(net, layout)` gives `f(params, states, inputs, weights) -> total, states`, `output_function(net, layout)`
`f(params, states, inputs) -> outputs`.  Images are [n, c, h, w] as in
the language, or [n, h, w, c] where ``layout`` is ``NHWC``; weights of convolutions are as in the language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from concatc.ir.core import FuncOp
from concatc.op import op_of

Array: TypeAlias = jax.Array
Tree = dict[str, Array]
LossFunction = Callable[[Tree, Tree, Tree, Array], tuple[Array, Tree]]
OutputFunction = Callable[[Tree, Tree, Tree], Tree]
Layout = Literal["NCHW", "NHWC"]
Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


@dataclass(frozen=True)
class Place:
    """How the values of one call are laid out."""

    layout: Layout

    def axis(self, x: Array, axis: int) -> int:
        """Where an axis of the language lies in ``x``."""
        return TO_NCHW[axis] if x.ndim == 4 and self.layout == "NHWC" else axis

    def axes(self, x: Array, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The same for several axes."""
        return tuple(self.axis(x, a) for a in axes)

    def along(self, vector: Array, x: Array, axis: int) -> Array:
        """``vector`` with the axes of ``x``, its elements along ``axis``."""
        return vector.reshape([-1 if d == self.axis(x, axis) else 1 for d in range(x.ndim)])

    def window(self, pair: tuple[int, int], other: Any) -> tuple[Any, ...]:
        """One entry an axis: ``pair`` for height and width, ``other`` for the rest."""
        return (other, other, *pair) if self.layout == "NCHW" else (other, *pair, other)


def rule(name: str) -> Callable[[Rule], Rule]:
    """The decorated function is what the op of that name computes."""

    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def pointwise(**functions: Callable[..., Array]) -> None:
    """Ops without attributes whose result does not depend on the layout."""
    for name, function in functions.items():
        RULES[name] = lambda place, op, *xs, function=function: function(*xs)


pointwise(
    relu=lambda x: jnp.maximum(x, 0),
    add=jnp.add,
    sub=jnp.subtract,
    mul=jnp.multiply,
    div=jnp.divide,
    exp=jnp.exp,
    sqrt=jnp.sqrt,
    square=jnp.square,
)
RULES["add_scalar"] = lambda place, op, x: x + op.value
RULES["mul_scalar"] = lambda place, op, x: x * op.value
RULES["bias"] = lambda place, op, x, b: x + place.along(b, x, op.axis)
RULES["scale"] = lambda place, op, x, w: x * place.along(w, x, op.axis)
RULES["linear"] = lambda place, op, x, w: x @ (w if op.transpose else w.T)
RULES["embedding"] = lambda place, op, index, table: table[index]
RULES["iota"] = lambda place, op: jnp.arange(op.n)
RULES["total_loss"] = lambda place, op, *xs: sum(loss * w for loss, w in zip(xs[:-1], xs[-1], strict=True))
RULES["concat"] = lambda place, op, *xs: jnp.concatenate(xs, place.axis(xs[0], op.axis))
RULES["mean"] = lambda place, op, x: x.mean(place.axes(x, op.axes), keepdims=op.keepdims)
RULES["sum"] = lambda place, op, x: x.sum(place.axes(x, op.axes), keepdims=op.keepdims)
RULES["global_avg_pool"] = lambda place, op, x: x.mean(place.axes(x, (2, 3)), keepdims=True)


@rule("running_average")
def _running_average(place: Place, op: Any, state: Array, value: Array) -> Array:
    correction = op.count / (op.count - 1) if op.count else 1.0
    return (1 - op.momentum) * state + op.momentum * correction * value


@rule("matmul")
def _matmul(place: Place, op: Any, a: Array, b: Array) -> Array:
    return (a.mT if op.transpose_a else a) @ (b.mT if op.transpose_b else b)


@rule("flatten")
def _flatten(place: Place, op: Any, x: Array) -> Array:
    x = x.transpose(TO_NCHW) if x.ndim == 4 and place.layout == "NHWC" else x
    return x.reshape(*x.shape[: op.axis], -1)


@rule("channel_stats")
def _channel_stats(place: Place, op: Any, x: Array) -> list[Array]:
    others = place.axes(x, tuple(d for d in range(x.ndim) if d != 1))
    return [x.mean(others), x.var(others)]


@rule("normalize")
def _normalize(place: Place, op: Any, x: Array, mean: Array, var: Array) -> Array:
    return (x - place.along(mean, x, 1)) * place.along(lax.rsqrt(var + op.eps), x, 1)


@rule("conv")
def _conv(place: Place, op: Any, x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(
        x,
        w,
        op.stride,
        [(p, p) for p in op.pad],
        rhs_dilation=op.dilation,
        feature_group_count=op.groups,
        dimension_numbers=(place.layout, "OIHW", place.layout),
    )


@rule("conv_transpose")
def _conv_transpose(place: Place, op: Any, x: Array, w: Array) -> Array:
    # The transpose of a convolution: its input dilated by the stride, its taps turned round.
    reach = [d * (k - 1) for d, k in zip(op.dilation, w.shape[2:], strict=True)]
    pad = [(r - p, r - p + more) for r, p, more in zip(reach, op.pad, op.output_pad, strict=True)]
    # JAX counts the channels of a group behind each other in the result, the language in the input.
    inputs, outputs, *kernel = w.shape
    grouped = w.reshape(op.groups, inputs // op.groups, outputs, *kernel).swapaxes(0, 1)
    turned = grouped.reshape(inputs // op.groups, op.groups * outputs, *kernel)[:, :, ::-1, ::-1]
    return lax.conv_general_dilated(
        x,
        turned,
        (1, 1),
        pad,
        lhs_dilation=op.stride,
        rhs_dilation=op.dilation,
        feature_group_count=op.groups,
        dimension_numbers=(place.layout, "IOHW", place.layout),
    )


@rule("max_pool")
def _max_pool(place: Place, op: Any, x: Array) -> list[Array | None]:
    return [_reduce_window(place, op, x, -jnp.inf, lax.max), None]


@rule("avg_pool")
def _avg_pool(place: Place, op: Any, x: Array) -> Array:
    divisors = op.divisors([x.shape[a] for a in place.axes(x, (2, 3))])
    return _reduce_window(place, op, x, 0.0, lax.add) / divisors.reshape(place.window(divisors.shape, 1))


def _reduce_window(place: Place, op: Any, x: Array, start: float, fold: Callable[..., Array]) -> Array:
    pads = []
    for axis, k, s, p in zip(place.axes(x, (2, 3)), op.kernel, op.stride, op.pad, strict=True):
        free = x.shape[axis] + 2 * p - k
        count = (-(-free // s) if op.ceil else free // s) + 1
        if op.ceil and (count - 1) * s >= x.shape[axis] + p:
            count -= 1
        pads.append((p, p + max(0, (count - 1) * s - free)))
    window = place.window(op.kernel, 1)
    return lax.reduce_window(x, start, fold, window, place.window(op.stride, 1), place.window(pads, (0, 0)))  # type: ignore[arg-type]


@rule("softmax_loss")
def _softmax_loss(place: Place, op: Any, x: Array, label: Array) -> Array:
    axis = place.axis(x, op.axis)
    valid = jnp.not_equal(label, -1 if op.ignore is None else op.ignore)
    index = jnp.expand_dims(jnp.where(valid, label, 0), axis)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(x, axis), index, axis).squeeze(axis)
    counts = {"sum": 1, "mean": label.size, "valid": valid.sum()}
    return -jnp.where(valid, chosen, 0).sum() / jnp.maximum(counts[op.reduction], 1)


@rule("contrastive_loss")
def _contrastive_loss(place: Place, op: Any, a: Array, b: Array, same: Array) -> Array:
    square = jnp.square(a - b).sum(1)
    apart = jnp.square(jnp.maximum(op.margin - jnp.sqrt(square), 0))
    return (same * square + (1 - same) * apart).sum() / (2 * a.shape[0])


def loss_function(net: FuncOp, layout: Layout = "NCHW") -> LossFunction:
    """The weighted total of the losses of a net at the graph level, and the new states by path."""

    def function(params: Tree, states: Tree, inputs: Tree, weights: Array) -> tuple[Array, Tree]:
        results = _results(net, layout, {"param": params, "state": states, "input": inputs}, weights)
        return results["total", "loss"], {name: x for (kind, name), x in results.items() if kind == "state"}

    return function


def output_function(net: FuncOp, layout: Layout = "NCHW") -> OutputFunction:
    """The outputs of a net at the graph level by name."""

    def function(params: Tree, states: Tree, inputs: Tree) -> Tree:
        results = _results(net, layout, {"param": params, "state": states, "input": inputs}, None)
        return {name: x for (kind, name), x in results.items() if kind == "output"}

    return function


def _results(
    net: FuncOp, layout: Layout, given: Mapping[str, Tree], weights: Array | None
) -> dict[tuple[str, str], Array]:
    """What the net returns, by kind and name."""
    place = Place(layout)
    env: dict[Any, Any] = {}
    for arg in net.args:
        kind, name = str(arg.attrs["cnet.kind"]), str(arg.attrs["cnet.name"])
        env[arg] = weights if kind == "loss_weights" else given[kind][name]
    for operation in net.ops[:-1]:
        op = op_of(operation)
        made = RULES[op.name](place, op, *(env[x] for x in operation.operands))
        env.update(zip(operation.results, made if isinstance(made, list) else [made], strict=True))
    return {
        (str(attrs["cnet.kind"]), str(attrs["cnet.name"])): env[value]
        for attrs, value in zip(net.result_attrs, net.ret.operands, strict=True)
    }
