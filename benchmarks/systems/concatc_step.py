"""concatc as a user calls it: `train_step` without an optimizer, and `eval`."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.problem import Problem
from benchmarks.systems import Start, Step, Values


def prepare(problem: Problem, phase: str, threads: int, precision: str = "") -> Start:
    """The first step compiles.."""
    import concatc

    work = problem.work
    budget = None if work.budget_mib is None else work.budget_mib << 20
    more: dict[str, Any] = {"precision": precision} if precision else {}
    # Each start has memory of its own on this net's code.
    code = concatc.compile(work.path, dims=work.dims, max_memory=budget, **more)._source
    inputs = problem.inputs_of(phase)

    def start() -> Step:
        net = concatc.CompiledModule(code, threads)
        net.init(seed=0)
        for name, value in problem.params.items():
            net.params[name][...] = value
        losses: dict[str, float] = {}
        outputs: Values = {}

        def train() -> float:
            losses.update(net.train_step(inputs))
            return losses["loss"]

        def infer() -> float:
            outputs.update(net.eval(inputs))
            return 0.0

        def values() -> Values:
            if phase == "infer":
                return {f"output/{name}": np.array(x) for name, x in outputs.items()}
            norms = {f"norm/{name}": np.asarray(np.linalg.norm(g.astype(np.float64))) for name, g in net.grads.items()}
            return {"loss": np.asarray(losses["loss"]), **norms}

        return Step(train if phase == "train" else infer, values)

    return start
