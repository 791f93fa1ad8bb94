"""The JAX side of the benchmarks computes what the nets of ``examples/nets`` say, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed (the extra `peers`)")

import jax

from benchmarks.jax_graph import RULES, TO_NCHW, TO_NHWC, Place, loss_function
from concatc.frontend.cnet import load_file
from concatc.op import Sample, load_all_ops
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


# Ops whose rank-4 operands are images, so that they have a layout.
OF_IMAGES = ("conv", "conv_transpose", "avg_pool", "max_pool", "channel_stats", "normalize", "bias", "scale", "concat")
SAMPLES = [
    pytest.param(sample, layout, id=f"{name}-{k}-{layout}")
    for name, op in load_all_ops().items()
    if name in RULES
    for k, sample in enumerate(op.samples())
    if all(type.numel for type in sample.types)  # no net is measured on no rows
    for layout in (("NCHW", "NHWC") if name in OF_IMAGES and sample.types[0].rank == 4 else ("NCHW",))
]


@pytest.mark.parametrize(("sample", "layout"), SAMPLES)
def test_rules_compute_what_their_ops_do(sample: Sample, layout: Any) -> None:
    data = sample.operands(np.random.default_rng(0))
    with np.errstate(all="ignore"):
        expected = sample.op.reference(*data)
    with jax.enable_x64(True):
        # Weights of convolutions are as in the language in both layouts.
        given = [x if k and sample.op.name.startswith("conv") else in_layout(x, layout) for k, x in enumerate(data)]
        made = RULES[sample.op.name](Place(layout), sample.op, *(jax.numpy.asarray(x) for x in given))
        for want, got in zip(expected, made if isinstance(made, list) else [made], strict=True):
            if got is None:
                continue  # where each maximum is, which JAX does not say
            shown = np.asarray(got).transpose(TO_NCHW) if layout == "NHWC" and want.ndim == 4 else np.asarray(got)
            np.testing.assert_allclose(shown, want, rtol=0, atol=1e-12 * max(1.0, np.abs(want).max(initial=0.0)))
