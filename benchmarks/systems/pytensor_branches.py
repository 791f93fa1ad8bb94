"""PyTensor on the net of two branches (`examples/thread.cnet`), with parameters as shared variables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from benchmarks.problem import Problem
from benchmarks.systems import Start, Step, Values


def prepare(problem: Problem, phase: str, threads: int) -> Start:
    """Threads are told by the environment (`OMP_NUM_THREADS`)."""
    a, b, label = pt.fmatrix("a"), pt.fmatrix("b"), pt.ivector("label")
    p = {name: pytensor.shared(value, name) for name, value in problem.params.items()}

    def linear(x: Any, path: str) -> Any:
        return x @ p[f"{path}.weight"].T + p[f"{path}.bias"]

    h = pt.concatenate([pt.maximum(linear(a, "ha"), 0), pt.maximum(linear(b, "hb"), 0)], axis=0)
    logits = linear(h, "logits")
    inputs = [np.array(x) for x in problem.inputs_of(phase).values()]
    if phase == "train":
        loss = -pt.special.log_softmax(logits, axis=1)[pt.arange(label.shape[0]), label].mean()
        run = pytensor.function([a, b, label], [loss, *pytensor.grad(loss, list(p.values()))], trust_input=True)
    else:
        run = pytensor.function([a, b], [logits], trust_input=True)

    def start() -> Step:
        held: list[np.ndarray] = []

        def step() -> float:
            held[:] = run(*inputs)
            return float(held[0]) if phase == "train" else 0.0

        def values() -> Values:
            if phase == "infer":
                return {"output/logits": held[0]}
            norms = (np.asarray(np.linalg.norm(g.astype(np.float64))) for g in held[1:])
            return {"loss": held[0], **{f"norm/{name}": norm for name, norm in zip(p, norms, strict=True)}}

        return Step(step, values)

    return start
