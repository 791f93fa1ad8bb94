"""The systems that are measured: each builds a training step `step() -> loss` for a workload."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.nets import Workload

Step = Callable[[], float]
SYSTEMS = ("concatc", "torch")


def concatc_net(work: Workload, target: str) -> tuple[Any, dict[str, np.ndarray]]:
    """The net, initialised, and a batch for it."""
    import concatc

    net = concatc.compile(work.path, dims=work.dims, target=target)
    net.init(seed=0)
    shapes = {
        name: (i.type.shape, {"f32": "float32", "i32": "int32"}[i.type.dtype])
        for name, i in net.signature.inputs.items()
    }
    return net, work.batch(shapes)


def concatc_step(work: Workload) -> Step:
    """Forward and backward by concatc, gradients left in place; the first call compiles."""
    net, batch = concatc_net(work, "cpu")
    return lambda: net.train_step(batch)["loss"]


def torch_step(work: Workload) -> Step:
    """Forward and backward by PyTorch eager (channels-last where images are read) on the same parameters."""
    import torch

    from tests.twins import Twin

    torch.set_num_threads(1)
    net, batch = concatc_net(work, "reference")  # which generates no code
    twin = Twin(net.params, net.states, dtype=np.float32)
    inputs = {}
    for name, array in batch.items():
        tensor = torch.from_numpy(array if array.dtype.kind == "f" else array.astype(np.int64))
        inputs[name] = tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
    weights = dict(net.loss_weights)
    function = importlib.import_module(f"tests.twins.{work.name}").net

    def step() -> float:
        for p in twin.params.values():
            p.grad = None
        losses, _ = function(twin, **inputs)
        total = sum(weights[name] * value for name, value in losses.items())
        total.backward()  # type: ignore[union-attr]
        return float(total.detach())

    return step


def make_step(system: str, work: Workload) -> Step:
    """The training step of a system."""
    return {"concatc": concatc_step, "torch": torch_step}[system](work)
