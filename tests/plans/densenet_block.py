"""A three-layer DenseNet block planned by hand: what plan and kernel ABI must be able to say.

- all layers' outputs lie in one buffer ``H``, channels last with a pitch: a layer reads a prefix and writes the next
  ``growth`` channels of every pixel; windows have the shape ``[n, c, h, w]`` and the strides of ``[n, h, w, pitch]``
- batch norm and relu are recomputed where a convolution reads (forward, weight gradient, data gradient); only H is kept
- the statistics of a channel are computed once, however many layers normalise it
- gradients are added into windows of one buffer ``G`` of the same layout; so are the cotangents of the statistics,
  which correct a channel once, after its last reader

The net: ``h0 = conv(x)``, ``h[k+1] = concat(h[k], conv(relu(bn(h[k]))))`` for k in 0..3, loss = sum(h3^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from concatc.diagnostics import Loc
from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.types import ELEMENT_BYTES, NUMPY_DTYPES, TensorType
from concatc.loops.plan import ALIGN_BYTES, Base, BaseKind, Launch, Plan, Segment, Window
from concatc.op import Builder
from concatc.targets.reference.interpreter import run_function
from tests.small_nets import NetBuilder, joint

Array = np.ndarray[Any, Any]

LAYERS = 3
LANES = 16  # the pitch is a multiple of this many elements
EPS = 1e-5


def densenet_block_plan(
    n: int, c0: int, growth: int, h: int, w: int, dtype: str = "f32", seed: int = 0
) -> tuple[Plan, dict[str, Array], dict[str, Array]]:
    """The plan, a value for every argument, and what every result must be (computed op by op in float64).

    Keys are those of ``Plan.values``: ``input:x``, ``param:conv0``, ``total:loss``, ``grad:conv0``, ..
    """
    inputs, expected = _reference(n, c0, growth, h, w, seed)
    arguments = {key: value.astype(NUMPY_DTYPES[dtype]) for key, value in inputs.items()}
    return _Block(n, c0, growth, h, w, dtype).plan(), arguments, expected


# -- the same net as a graph ---------------------------------------------------------------------------------------


def densenet_block_net(n: int, c0: int, growth: int, h: int, w: int) -> Module:
    """The block as ops, forward and backward."""
    net = NetBuilder("densenet_block")
    x = net.b.conv(net.input("x", n, 2, h, w), net.param("stem", c0, 2, 3, 3), pad=(1, 1))
    for k in range(LAYERS):
        channels = c0 + k * growth
        mean, var = net.b.channel_stats(x)
        y = net.b.scale(net.b.normalize(x, mean, var, eps=EPS), net.param(f"gamma{k}", channels), axis=1)
        y = net.b.relu(net.b.bias(y, net.param(f"beta{k}", channels), axis=1))
        y = net.b.conv(y, net.param(f"conv{k}", growth, channels, 3, 3), pad=(1, 1))
        x = net.b.concat(x, y, axis=1)
    net.loss(net.b.sum(net.b.square(x), axes=(0, 1, 2, 3)), "loss")
    return joint(net.module())


def _reference(n: int, c0: int, growth: int, h: int, w: int, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
    func = densenet_block_net(n, c0, growth, h, w).main
    rng = np.random.default_rng(seed)
    arguments = [
        np.ones(a.shape) if a.attrs["cnet.kind"] == "loss_weights" else rng.normal(size=a.shape) for a in func.args
    ]
    # Inputs are rounded to float32 first, so that every element type starts from the same numbers.
    arguments = [a.astype(np.float32).astype(np.float64) for a in arguments]
    results = run_function(func, arguments, float64=True)
    inputs = {f"{a.attrs['cnet.kind']}:{a.attrs['cnet.name']}": x for a, x in zip(func.args, arguments, strict=True)}
    del inputs["loss_weights:loss_weights"]
    named = zip(func.result_attrs, results, strict=True)
    expected = {f"{attrs['cnet.kind']}:{attrs['cnet.name']}": x for attrs, x in named}
    del expected["loss:loss"]
    return inputs, expected


# -- the plan ------------------------------------------------------------------------------------------------------


@dataclass
class _Block:
    n: int
    c0: int
    growth: int
    h: int
    w: int
    dtype: str
    plan_: Plan = field(default_factory=lambda: Plan("densenet_block"))
    used: dict[str, int] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return self.c0 + LAYERS * self.growth

    @property
    def pitch(self) -> int:
        return -(-self.channels // LANES) * LANES

    def tensor(self, *shape: int) -> TensorType:
        return TensorType(shape, self.dtype)

    # -- windows ---------------------------------------------------------------------------------------------------
    def take(self, base: BaseKind, numel: int) -> int:
        """The offset of a new block of a base."""
        offset = self.used.get(base, 0)
        end = offset + numel * ELEMENT_BYTES[self.dtype]
        self.used[base] = -(-end // ALIGN_BYTES) * ALIGN_BYTES
        return offset

    def dense(self, base: BaseKind, *shape: int, key: str = "") -> Window:
        window = Window.dense(base, 0, self.tensor(*shape))
        window = replace(window, offset_bytes=self.take(base, self.tensor(*shape).numel))
        if key:
            self.name(key, window)
        return window

    def pixels(self) -> Window:
        """A buffer ``[n, h, w, pitch]``, as all its channels ``[n, c, h, w]``."""
        offset = self.take("arena", self.n * self.h * self.w * self.pitch)
        strides = (self.h * self.w * self.pitch, 1, self.w * self.pitch, self.pitch)
        return Window("arena", offset, (self.n, self.channels, self.h, self.w), strides, self.dtype)

    def part(self, buffer: Window, start: int, end: int) -> Window:
        """Channels ``start .. end`` of a buffer of pixels or of a vector of channels."""
        if len(buffer.shape) == 1:
            return buffer.sub((start,), (end - start,))
        return buffer.sub((0, start, 0, 0), (self.n, end - start, self.h, self.w))

    # -- kernels -----------------------------------------------------------------------------------------------------
    def kernel(self, name: str, reads: Sequence[Window], body: Callable[..., Any]) -> str:
        """A function of ops; ``body(builder, *arguments)`` returns its result or results."""
        types = [self.tensor(*window.shape) for window in reads]
        function = FuncOp(name, types, [f"x{k}" for k in range(len(types))])
        made = body(Builder(function.body), *function.args)
        results = made if isinstance(made, list | tuple) else [made]
        function.body.append(Operation("func.return", results))
        function.result_attrs = [{} for _ in results]
        for k, value in enumerate(v for op in function.ops for v in op.results):
            value.name = value.name or f"v{k}"
        self.plan_.kernels[name] = function
        return name

    def launch(
        self,
        name: str,
        body: Callable[..., Any],
        reads: Sequence[Window],
        writes: Sequence[Window],
        add: Sequence[bool] = (),
        backward: bool = True,
        line: int = 0,
    ) -> None:
        """One kernel and its launch; stores unless ``add`` says otherwise."""
        kernel = self.kernel(name, reads, body)
        flags = tuple(add) or (False,) * len(writes)
        phase = "backward" if backward else "forward"
        loc = Loc("densenet_block.cnet", line + 1, 1)
        self.plan_.launches.append(Launch(kernel, tuple(reads), tuple(writes), flags, None, phase, loc))

    # -- the block -----------------------------------------------------------------------------------------------------
    def plan(self) -> Plan:
        sizes = [self.c0 + k * self.growth for k in range(LAYERS + 1)]
        x = self.dense("inputs", self.n, 2, self.h, self.w, key="input:x")
        stem, d_stem = (self.dense(base, self.c0, 2, 3, 3, key=f"{kind}:stem") for base, kind in PARAMETERS)
        weights: dict[str, Window] = {}
        grads: dict[str, Window] = {}
        for k, c in enumerate(sizes[:-1]):
            for base, kind in PARAMETERS:
                into = weights if kind == "param" else grads
                into[f"gamma{k}"] = self.dense(base, c, key=f"{kind}:gamma{k}")
                into[f"beta{k}"] = self.dense(base, c, key=f"{kind}:beta{k}")
                into[f"conv{k}"] = self.dense(base, self.growth, c, 3, 3, key=f"{kind}:conv{k}")
        loss = self.dense("outputs", key="total:loss")

        blobs, gradients, masked = self.pixels(), self.pixels(), self.pixels()
        mean, var, d_mean, d_var = (self.dense("arena", self.channels) for _ in range(4))

        def of(buffer: Window, start: int, end: int) -> Window:
            return self.part(buffer, start, end)

        # forward
        self.launch("stem", _conv, [x, stem], [of(blobs, 0, sizes[0])], backward=False)
        for k, c in enumerate(sizes[:-1]):
            start = sizes[k - 1] if k else 0
            new = [of(mean, start, c), of(var, start, c)]
            self.launch(f"stats{k}", _stats, [of(blobs, start, c)], new, backward=False, line=k + 1)
            reads = [of(blobs, 0, c), of(mean, 0, c), of(var, 0, c), weights[f"gamma{k}"], weights[f"beta{k}"]]
            out = of(blobs, c, c + self.growth)
            self.launch(f"layer{k}", _layer, [*reads, weights[f"conv{k}"]], [out], backward=False, line=k + 1)
        self.launch("loss", _loss, [blobs], [loss], backward=False, line=LAYERS + 1)

        # backward
        self.launch("d_loss", lambda b, y: b.mul_scalar(y, value=2.0), [blobs], [gradients], line=LAYERS + 1)
        for k in reversed(range(LAYERS)):
            c = sizes[k]
            if k < LAYERS - 1:  # the newest channels' last reader has added its part: correct them once
                self.correct(f"correct{k}", c, sizes[k + 1], (blobs, gradients, mean, d_mean, d_var), k + 1)
            dy = of(gradients, c, c + self.growth)
            reads = [of(blobs, 0, c), of(mean, 0, c), of(var, 0, c), weights[f"gamma{k}"], weights[f"beta{k}"]]
            self.launch(f"d_conv{k}", _weight_grad, [dy, *reads], [grads[f"conv{k}"]], line=k + 1)
            dt = of(masked, 0, c)
            self.launch(f"d_relu{k}", _masked_grad, [dy, *reads, weights[f"conv{k}"]], [dt], line=k + 1)
            self.launch(
                f"d_affine{k}", _affine_grads, [dt, *reads[:3]], [grads[f"gamma{k}"], grads[f"beta{k}"]], line=k + 1
            )
            # Layer 2 reads all channels that have statistics, so it stores and the others add.
            again = k < LAYERS - 1
            sums = [of(d_mean, 0, c), of(d_var, 0, c)]
            self.launch(f"d_stats{k}", _stats_grads, [dt, *reads[:4]], sums, add=[again, again], line=k + 1)
            self.launch(
                f"d_data{k}",
                _data_grad,
                [dt, var.sub((0,), (c,)), weights[f"gamma{k}"]],
                [of(gradients, 0, c)],
                add=[True],
                line=k + 1,
            )
        self.correct("correct", 0, self.c0, (blobs, gradients, mean, d_mean, d_var), 0)
        self.launch("d_stem", _stem_grad, [of(gradients, 0, self.c0), x], [d_stem])
        for name in ("inputs", "params", "grads", "outputs", "arena"):
            self.plan_.bases[name] = Base(name, self.used.get(name, 0))
        for k, c in enumerate(sizes):
            self.name(f"h{k}", of(blobs, 0, c))
            self.name(f"h{k}.grad", of(gradients, 0, c))
        for k, (c, end) in enumerate(pairwise(sizes)):
            self.name(f"y{k}", of(blobs, c, end))
            self.name(f"y{k}.grad", of(gradients, c, end))
            self.name(f"t{k}.grad", of(masked, 0, c))
            self.name(f"mean{k}", of(mean, 0, c))
            self.name(f"var{k}", of(var, 0, c))
            self.name(f"mean{k}.grad", of(d_mean, 0, c))
            self.name(f"var{k}.grad", of(d_var, 0, c))
        return self.plan_

    def name(self, name: str, window: Window) -> None:
        self.plan_.values[name] = (Segment((0,) * len(window.shape), window),)

    def correct(self, name: str, start: int, end: int, buffers: Sequence[Window], line: int) -> None:
        """Add what the statistics of these channels owe to their gradients."""
        blobs, gradients, mean, d_mean, d_var = (self.part(buffer, start, end) for buffer in buffers)
        self.launch(name, _correction, [blobs, mean, d_mean, d_var], [gradients], add=[True], line=line)


PARAMETERS: tuple[tuple[BaseKind, str], ...] = (("params", "param"), ("grads", "grad"))


def _conv(b: Builder, x: Value, weight: Value) -> Any:
    return b.conv(x, weight, pad=(1, 1))


def _stats(b: Builder, x: Value) -> Any:
    return b.channel_stats(x)


def _activated(b: Builder, x: Value, mean: Value, var: Value, gamma: Value, beta: Value) -> Any:
    """What a layer's convolution reads; never stored."""
    return b.relu(b.bias(b.scale(b.normalize(x, mean, var, eps=EPS), gamma, axis=1), beta, axis=1))


def _layer(b: Builder, x: Value, mean: Value, var: Value, gamma: Value, beta: Value, weight: Value) -> Any:
    return _conv(b, _activated(b, x, mean, var, gamma, beta), weight)


def _loss(b: Builder, y: Value) -> Any:
    return b.sum(b.square(y), axes=(0, 1, 2, 3))


def _weight_grad(b: Builder, dy: Value, *bn: Value) -> Any:
    return b.conv_weight_grad(dy, _activated(b, *bn), kernel=(3, 3), pad=(1, 1))


def _masked_grad(b: Builder, dy: Value, *rest: Value) -> Any:
    *bn, weight = rest
    dz = b.conv_input_grad(dy, weight, image=bn[0].shape[2:], pad=(1, 1))
    return b.relu_grad(_activated(b, *bn), dz)


def _affine_grads(b: Builder, dt: Value, x: Value, mean: Value, var: Value) -> Any:
    normal = b.normalize(x, mean, var, eps=EPS)
    return [b.sum(b.mul(dt, normal), axes=(0, 2, 3)), b.sum(dt, axes=(0, 2, 3))]


def _stats_grads(b: Builder, dt: Value, x: Value, mean: Value, var: Value, gamma: Value) -> Any:
    return b.normalize_stats_grad(b.scale(dt, gamma, axis=1), x, mean, var, eps=EPS)


def _data_grad(b: Builder, dt: Value, var: Value, gamma: Value) -> Any:
    return b.normalize_grad(b.scale(dt, gamma, axis=1), var, eps=EPS)


def _correction(b: Builder, x: Value, mean: Value, d_mean: Value, d_var: Value) -> Any:
    return b.channel_stats_grad(x, mean, d_mean, d_var)


def _stem_grad(b: Builder, dy: Value, x: Value) -> Any:
    return b.conv_weight_grad(dy, x, kernel=(3, 3), pad=(1, 1))
