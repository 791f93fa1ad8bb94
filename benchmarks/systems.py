"""The systems that are measured: each builds a training step `step() -> loss` for a workload.

`prepare(system, work)` makes what can be made once (code, initial values, a batch in NumPy arrays) and returns `start`;
`start()` makes parameters and inputs of its own, and returns the step: forward and backward, gradients kept until the
next call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.nets import Workload

Step = Callable[[], float]
Start = Callable[[], Step]
SYSTEMS = ("concatc", "torch-channels-last")  # what `benchmarks.run` times


def values_for(work: Workload) -> tuple[Any, dict[str, np.ndarray]]:
    """The net at its initial values, and a batch for it; nothing is compiled."""
    import concatc

    net = concatc.compile(work.path, dims=work.dims, target="reference")
    net.init(seed=0)
    return net, batch_for(net, work)


def batch_for(net: Any, work: Workload) -> dict[str, np.ndarray]:
    """Random data for the inputs of a compiled module."""
    dtypes = {"f32": "float32", "i32": "int32"}
    return work.batch({name: (i.type.shape, dtypes[i.type.dtype]) for name, i in net.signature.inputs.items()})


def options_of(work: Workload) -> Any:
    """How concatc compiles a workload."""
    from concatc.compiler import Options

    return Options(dims=work.dims, max_memory=None if work.budget_mib is None else work.budget_mib << 20)


def concatc(work: Workload) -> Start:
    """Forward and backward by concatc, gradients left in place; the first step compiles."""
    from concatc.compiler import compile_net
    from concatc.runtime.module import CompiledModule

    code = compile_net(work.path.read_text(encoding="utf-8"), str(work.path), options_of(work))
    batch = batch_for(CompiledModule(code), work)

    def start() -> Step:
        net = CompiledModule(code)
        net.init(seed=0)
        return lambda: float(net.train_step(batch)["loss"])

    return start


def torch(work: Workload, *, channels_last: bool, compiled: bool) -> Start:
    """Forward and backward by PyTorch, eager or compiled by Inductor, on the same parameters and data."""
    import torch

    from tests.twins import Tensor, Twin, net_named

    torch.set_num_threads(1)
    net, batch = values_for(work)
    params = {name: np.array(value) for name, value in net.params.items()}
    states = {name: np.array(value) for name, value in net.states.items()}
    weights = dict(net.loss_weights)
    function = net_named(work.path.stem)

    def total_loss(params: dict[str, Tensor], states: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        losses, _ = function(Twin.of(params, states), **inputs)
        total = sum(weights[name] * value for name, value in losses.items())
        assert isinstance(total, Tensor)
        return total

    run = torch.compile(total_loss) if compiled else total_loss

    def as_input(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array if array.dtype.kind == "f" else array.astype(np.int64))
        if channels_last and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def start() -> Step:
        own = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in params.items()}
        own_states = {name: torch.from_numpy(value.copy()) for name, value in states.items()}
        inputs = {name: as_input(array) for name, array in batch.items()}

        def step() -> float:
            for p in own.values():
                p.grad = None
            total = run(own, own_states, inputs)
            total.backward()
            return float(total.detach())

        return step

    return start


def jax(work: Workload, *, layout: Any) -> Start:
    """Forward and backward by `jax.jit` on the same parameters and data; code is made before the first step."""
    import jax
    import jax.numpy as jnp

    from benchmarks.jax_graph import TO_NHWC, loss_function
    from concatc.frontend.cnet import load_file

    net, batch = values_for(work)
    graph, _ = load_file(work.path, dims=work.dims)
    params = {name: np.array(value) for name, value in net.params.items()}
    states = {name: np.array(value) for name, value in net.states.items()}
    weights = np.array(list(net.loss_weights.values()), np.float32)
    if layout == "NHWC":
        batch = {name: np.ascontiguousarray(x.transpose(TO_NHWC)) if x.ndim == 4 else x for name, x in batch.items()}
    function = jax.value_and_grad(loss_function(graph.main, layout), has_aux=True)
    run = jax.jit(function).lower(params, states, batch, weights).compile()

    def start() -> Step:
        own, own_states, inputs, own_weights = jax.tree.map(jnp.array, (params, states, batch, weights))
        held = {"states": own_states}

        def step() -> float:
            held.pop("grads", None)
            (total, held["states"]), held["grads"] = run(own, held["states"], inputs, own_weights)
            return float(total)

        return step

    return start


MAKERS: dict[str, Callable[[Workload], Start]] = {
    "concatc": concatc,
    "torch": partial(torch, channels_last=False, compiled=False),
    "torch-channels-last": partial(torch, channels_last=True, compiled=False),
    "inductor": partial(torch, channels_last=False, compiled=True),
    "inductor-channels-last": partial(torch, channels_last=True, compiled=True),
    "jax": partial(jax, layout="NCHW"),
    "jax-nhwc": partial(jax, layout="NHWC"),
}


def prepare(system: str, work: Workload) -> Start:
    """What is made once; the result starts a training on it."""
    return MAKERS[system](work)


def make_step(system: str, work: Workload) -> Step:
    """The training step of a system."""
    return prepare(system, work)()
