"""The JAX side of the benchmarks computes what the nets of ``examples/nets`` say, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed (the extra `peers`)")

import jax

from benchmarks.jax_graph import TO_NHWC, loss_function
from concatc.frontend.cnet import load_file
from tests.example_nets import CASES, NETS, Case, assert_equal, compiled, inputs_of

pytestmark = pytest.mark.peers
BENCHED = [case for case in CASES if case.name not in ("two_tower", "two_task")]


def in_layout(x: np.ndarray[Any, Any], layout: str) -> np.ndarray[Any, Any]:
    return x.transpose(TO_NHWC) if x.ndim == 4 and layout == "NHWC" else x


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", BENCHED, ids=[case.name for case in BENCHED])
def test_loss_and_gradients(case: Case, layout: Any) -> None:
    net = compiled(case, "reference")
    inputs = inputs_of(net, case)
    graph, _ = load_file(NETS / f"{case.name}.cnet", dims=case.dims)
    weights = np.array(list(net.loss_weights.values()))
    params = {name: value.copy() for name, value in net.params.items()}
    states = {name: value.copy() for name, value in net.states.items()}
    out = net.forward(**inputs)
    grads = net.backward()
    with jax.enable_x64(True):
        given = {name: in_layout(x, layout) for name, x in inputs.items()}
        run = jax.jit(jax.value_and_grad(loss_function(graph.main, layout), has_aux=True))
        (total, updated), wanted = run(params, states, given, weights)
        assert total.dtype == np.float64
        assert_equal("loss", {"loss": out["loss"]}, {"loss": np.asarray(total)})
        assert_equal("gradient of", grads, {name: np.asarray(x) for name, x in wanted.items()})
        assert_equal("state", net.states, {name: np.asarray(x) for name, x in updated.items()})
