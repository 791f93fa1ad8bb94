"""PyTorch, eager or compiled by Inductor, on the twins of `tests/twins`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.problem import Problem
from benchmarks.systems import Start, Step, Values
from tests.twins import Tensor, Twin, net_named

Tensors = dict[str, Tensor]


def prepare(
    problem: Problem, phase: str, threads: int, *, channels_last: bool, compiled: bool, double: bool = False
) -> Start:
    """``double`` computes in float64: the reference that all are compared with."""
    torch.set_num_threads(threads)
    function = net_named(problem.work.twin_name)
    names = list(problem.inputs)

    def total_loss(params: Tensors, states: Tensors, inputs: Tensors) -> Tensor:
        losses = function(Twin.of(params, states), **inputs)[0]()
        return functools.reduce(operator.add, [problem.weights[name] * value for name, value in losses.items()])

    def outputs_of(params: Tensors, states: Tensors, inputs: Tensors) -> Tensors:
        given = {name: inputs.get(name) for name in names}
        return function(Twin.of(params, states, train=False), **given)[1]

    made: Callable[..., Any] = total_loss if phase == "train" else outputs_of
    run = torch.compile(made) if compiled else made

    def tensor(array: np.ndarray) -> Tensor:
        if array.dtype.kind != "f":
            return torch.from_numpy(array.astype(np.int64))
        made = torch.from_numpy(array.astype(np.float64) if double else array.copy())
        return made.contiguous(memory_format=torch.channels_last) if channels_last and made.dim() == 4 else made

    def start() -> Step:
        params = {name: tensor(value).requires_grad_(phase == "train") for name, value in problem.params.items()}
        states = {name: tensor(value) for name, value in problem.states.items()}
        inputs = {name: tensor(array) for name, array in problem.inputs_of(phase).items()}
        kept: dict[str, Any] = {}

        def train() -> float:
            for p in params.values():
                p.grad = None
            kept["loss"] = run(params, states, inputs)
            kept["loss"].backward()
            return float(kept["loss"].detach())

        def infer() -> float:
            with torch.no_grad():
                kept["outputs"] = run(params, states, inputs)
            return 0.0

        def values() -> Values:
            if phase == "infer":
                return {f"output/{name}": x.numpy() for name, x in kept["outputs"].items()}
            norms = {f"norm/{k}": p.grad.double().norm().numpy() for k, p in params.items() if p.grad is not None}
            return {"loss": kept["loss"].detach().numpy(), **norms}

        return Step(train if phase == "train" else infer, values)

    return start
