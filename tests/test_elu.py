"""``elu`` near 0, where ``exp(x) - 1`` loses the digits of ``x``; functions behind a contraction."""

from __future__ import annotations

import math

import numpy as np
import pytest

import concatc
from concatc.compiler import Options, compile_net
from concatc.targets.cpu.nest import recognize

ALONE = "net alone(n = 12) {\n input x: f32[n]\n y = elu(x)\n output y\n}\n"
# The weights are 1, so that each column of the result is a function of x.
BEHIND = """
net behind(n = 12) {
    input x: f32[n, 1]
    y = x |> linear(19, bias=false, weight_init=constant(1)) |> FUNCTION
    output y
}
"""
NEAR_ZERO = [-1e-30, -1e-20, -1e-10, -1e-8, -1e-7, -1e-6, -1e-5, -1e-4, -1e-3, -0.01, -0.1, -3.0]
EPSILON = {"f32": 2.0**-23, "f64": 2.0**-52}
KIND = {"f32": np.float32, "f64": np.float64}


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_elu_keeps_its_digits_near_zero(target: str, dtype: str) -> None:
    x = np.array(NEAR_ZERO, KIND[dtype])
    y = concatc.compile_source(ALONE, target=target, dtype=dtype).eval(x=x)["y"]
    np.testing.assert_allclose(y, [math.expm1(v) for v in x], rtol=2 * EPSILON[dtype])


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize(("name", "exact"), [("elu", math.expm1), ("tanh", math.tanh)])
def test_a_function_behind_a_contraction(name: str, exact: object, dtype: str) -> None:
    text = BEHIND.replace("FUNCTION", name)
    _, kernel, _ = compile_net(text, "behind.cnet", Options(dtype=dtype)).phase("infer").loops.functions
    assert recognize(kernel) is not None  # vectors of lanes
    net = concatc.compile_source(text, dtype=dtype)
    net.init(seed=0)
    x = np.array(NEAR_ZERO, KIND[dtype])
    assert callable(exact)
    want = np.repeat([[exact(v)] for v in x], 19, axis=1)
    np.testing.assert_allclose(net.eval(x=x[:, None])["y"], want, rtol=2 * EPSILON[dtype])
