"""PyTorch on a GPU: eager, compiled by Inductor, or captured once as a CUDA graph; on the twins of `tests/twins`.

A step takes inputs of the host, in pinned memory, as a net of the target `cuda` does; it ends when its loss is here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.problem import Problem
from benchmarks.systems import Step, Values
from tests.twins import Tensor, Twin, net_named

KINDS = ("eager", "compiled", "graph", "compiled graph")
WARM_UP = 3  # steps before a capture, so that libraries have chosen their kernels


def training_step(problem: Problem, kind: str, device: str = "cuda", tf32: bool = False) -> Step:
    """Forward and backward; ``tf32`` lets products of f32 be computed in it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    twin = net_named(problem.work.twin_name)

    def total(params: dict[str, Tensor], states: dict[str, Tensor], inputs: dict[str, Tensor]) -> Any:
        losses = twin(Twin.of(params, states), **inputs)[0]()
        return functools.reduce(operator.add, [problem.weights[name] * value for name, value in losses.items()])

    run: Callable[..., Any] = torch.compile(total) if kind.startswith("compiled") else total
    params = {k: torch.from_numpy(v.copy()).to(device).requires_grad_() for k, v in problem.params.items()}
    states = {k: torch.from_numpy(v.copy()).to(device) for k, v in problem.states.items()}
    host = {k: torch.from_numpy(v if v.dtype.kind == "f" else v.astype(np.int64)) for k, v in problem.inputs.items()}
    if device == "cuda":
        host = {name: tensor.pin_memory() for name, tensor in host.items()}
    inputs = {name: torch.empty_like(tensor, device=device) for name, tensor in host.items()}
    kept: dict[str, Any] = {}

    def copy_in() -> None:
        for name, tensor in inputs.items():
            tensor.copy_(host[name], non_blocking=True)

    def compute() -> None:
        for p in params.values():
            p.grad = None
        kept["loss"] = run(params, states, inputs)
        kept["loss"].backward()

    with torch.device(device):  # what twins make themselves
        compute_all = compute if not kind.endswith("graph") else _captured(copy_in, compute)

    def step() -> float:
        copy_in()
        with torch.device(device):
            compute_all()
        return float(kept["loss"].detach())

    def values() -> Values:
        norms = {f"norm/{k}": p.grad.double().norm().cpu().numpy() for k, p in params.items() if p.grad is not None}
        return {"loss": kept["loss"].detach().cpu().numpy(), **norms}

    return Step(step, values)


def _captured(copy_in: Callable[[], None], compute: Callable[[], None]) -> Callable[[], None]:
    """The same work as one launch."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            copy_in()
            compute()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    replay: Callable[[], None] = graph.replay
    return replay


def counter() -> Callable[[], int]:
    """Says how many bytes of the device PyTorch held at most since now, of those that it did not hold before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    return lambda: int(torch.cuda.max_memory_allocated()) - before
