"""`jax.jit` on the graph of the net (`benchmarks/jax_graph.py`), compiled ahead."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.jax_graph import TO_NCHW, TO_NHWC, loss_function, output_function
from benchmarks.problem import Problem
from benchmarks.systems import Start, Step, Values


def prepare(problem: Problem, phase: str, threads: int, *, layout: Any) -> Start:
    """Threads are told by the environment (`XLA_FLAGS`)."""
    inputs = problem.inputs_of(phase)
    if layout == "NHWC":
        inputs = {name: np.ascontiguousarray(x.transpose(TO_NHWC)) if x.ndim == 4 else x for name, x in inputs.items()}
    weights = np.array(list(problem.weights.values()), np.float32)
    graph = problem.compilation.phase(phase).graph.main
    given: tuple[Any, ...] = (problem.params, problem.states, inputs, weights)
    if phase == "train":
        function: Any = jax.value_and_grad(loss_function(graph, layout), has_aux=True)
    else:
        function, given = output_function(graph, layout), given[:3]
    run = jax.jit(function).lower(*given).compile()

    def start() -> Step:
        own = jax.tree.map(jnp.array, given)
        held: dict[str, Any] = {"states": own[1]}

        def train() -> float:
            held.pop("grads", None)
            (held["loss"], held["states"]), held["grads"] = run(own[0], held["states"], *own[2:])
            return float(held["loss"])

        def infer() -> float:
            held["outputs"] = jax.block_until_ready(run(*own))
            return 0.0

        def values() -> Values:
            if phase == "infer":
                return {f"output/{name}": _planar(np.asarray(x), layout) for name, x in held["outputs"].items()}
            norms = {
                f"norm/{k}": np.asarray(np.linalg.norm(np.asarray(g, np.float64))) for k, g in held["grads"].items()
            }
            return {"loss": np.asarray(held["loss"]), **norms}

        return Step(train if phase == "train" else infer, values)

    return start


def _planar(x: np.ndarray, layout: str) -> np.ndarray:
    return x.transpose(TO_NCHW) if x.ndim == 4 and layout == "NHWC" else x
