"""exp, log and the rest on the cpu target: the stated errors, edges, and one result in every lane and width."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.compiler import Options, compile_net
from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch
from concatc.op import Op
from concatc.ops.elu import Elu
from concatc.ops.exp import Exp
from concatc.ops.gelu import Gelu
from concatc.ops.log import Log
from concatc.ops.sigmoid import Sigmoid
from concatc.ops.tanh import Tanh
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu.functions import FUNCTIONS
from concatc.targets.cpu.native import Host, host
from concatc.targets.cpu.nest import recognize
from concatc.targets.cpu.target import CpuTarget
from tests.kernel_plans import Bump, fresh_arena, op_kernel, plan_of
from tests.test_cpu_ops import NARROW
from tests.ulp import Array, exact, native, ulps

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="code for x86-64 beside the host's own")

# What the docstring of `functions.py` and docs/TARGET_CPU.md state, in units in the last place.
STATED = {"exp": 1.1, "expm1": 1.5, "log": 1.0, "log1p": 1.6, "tanh": 2.7, "erf": 1.8}
KIND: dict[str, Any] = {"f32": np.float32, "f64": np.float64}
INTEGER: dict[str, Any] = {"f32": np.int32, "f64": np.int64}
SAMPLES = 1 << 20
# On the widest vectors, one element at a time, and without fused multiply-add.
HOSTS: dict[str, tuple[Host, int]] = {
    "host": (host(), host().vector_bytes // 4),
    "scalar": (host(), 1),
    "no fma": (NARROW["sse2"], 4),
}


@cache
def points(name: str, dtype: str) -> Array:
    """Values of every exponent, denormal numbers too; values where the function changes; neighbours of seams."""
    rng = np.random.default_rng(0)
    kind, integer = KIND[dtype], INTEGER[dtype]
    info = np.iinfo(integer)
    anywhere = rng.integers(info.min, info.max, SAMPLES, dtype=integer).view(kind)
    reach = {"exp": 105.0 if dtype == "f32" else 746.0, "expm1": 90.0 if dtype == "f32" else 711.0}.get(name, 7.0)
    near = rng.uniform(-reach, reach, SAMPLES // 2)
    small = rng.uniform(-1.5, 1.5, SAMPLES // 2)
    n = np.arange(-1080, 1023)
    seams = [
        (n + 0.5) * math.log(2),  # where exp rounds x / log 2 up or down
        (n + 0.5) * math.log(2) / 2,
        np.ldexp(math.sqrt(0.5), n),  # where log cuts mantissas
        np.ldexp(math.sqrt(0.5), n[n < 50]) - 1.0,
        np.ldexp(1.0, n),
        np.ldexp(1.0, n) - 1.0,
        # erf's cut and where it is 1; where tanh is 1; where exp is denormal, 0, infinite
        *([0.875, 3.93, 5.93, 9.02, 19.1, -87.34, -103.98, 88.73, -708.4, -745.2, 709.79, -17.4, -37.5],),
    ]
    with np.errstate(all="ignore"):
        at = np.concatenate([s[abs(s) < 1e30] if dtype == "f32" else s for s in map(np.asarray, seams)]).astype(kind)
        # Neighbours of seams, 32 on each side.
        around = (at.view(integer)[:, None] + np.arange(-32, 33, dtype=integer)).ravel().view(kind)
        return np.concatenate([anywhere, near.astype(kind), small.astype(kind), around, -around])


@cache
def wanted(name: str, dtype: str) -> Array:
    return exact(name, points(name, dtype))


@cache
def results(name: str, dtype: str, where: str) -> Array:
    machine, lanes = HOSTS[where]
    return native(name, dtype, lanes if dtype == "f32" else max(lanes // 2, 1), machine)(points(name, dtype))


@pytest.mark.parametrize("where", HOSTS)
@pytest.mark.parametrize("dtype", KIND)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_stated_error_holds(name: str, dtype: str, where: str) -> None:
    error = ulps(results(name, dtype, where), wanted(name, dtype))
    worst = int(np.argmax(error))
    assert error[worst] <= STATED[name], f"{name}({points(name, dtype)[worst]!r}) is off by {error[worst]:.3f} ulp"
    # A stated error that is far from what is measured says nothing.
    assert error[worst] > 0.5 * STATED[name]


def same_bits(a: Array, b: Array) -> None:
    integer = np.int32 if a.dtype == np.float32 else np.int64
    both_nan = np.isnan(a) & np.isnan(b)
    np.testing.assert_array_equal(np.where(both_nan, 0, a.view(integer)), np.where(both_nan, 0, b.view(integer)))


@pytest.mark.parametrize("dtype", KIND)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_width_gives_the_same_bits(name: str, dtype: str) -> None:
    one = results(name, dtype, "scalar")
    same_bits(results(name, dtype, "host"), one)
    if "+avx2" in host().features and "+fma" in host().features:
        same_bits(native(name, dtype, 8, NARROW["avx2"])(points(name, dtype)), one)
    few = points(name, dtype)[: 1 << 16]
    same_bits(native(name, dtype, 1, NARROW["sse2"])(few), results(name, dtype, "no fma")[: few.size])


INF, NAN = math.inf, math.nan
EDGES: dict[str, list[tuple[float, float]]] = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (1e30, INF), (-1e30, 0.0)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1.0), (1e30, INF), (-1e30, -1.0)],
    "log": [(0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-1.0, NAN), (-INF, NAN), (-1e-30, NAN)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (INF, INF), (-1.5, NAN), (-INF, NAN)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (50.0, 1.0), (-50.0, -1.0)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (50.0, 1.0), (-50.0, -1.0)],
}


@pytest.mark.parametrize("where", HOSTS)
@pytest.mark.parametrize("dtype", KIND)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges(name: str, dtype: str, where: str) -> None:
    x, y = np.array([*EDGES[name], (NAN, NAN), (-NAN, NAN)], KIND[dtype]).T.copy()
    machine, lanes = HOSTS[where]
    got = native(name, dtype, lanes, machine)(x)
    np.testing.assert_array_equal(got, y)
    zeros = y == 0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(y[zeros]))


@pytest.mark.parametrize("dtype", KIND)
def test_nan_with_any_payload_stays_nan(dtype: str) -> None:
    rng = np.random.default_rng(1)
    integer = INTEGER[dtype]
    bits = rng.integers(0, np.iinfo(integer).max, 4096, dtype=integer) | np.array(INF, KIND[dtype]).view(integer)
    x = np.concatenate([bits, bits | np.iinfo(integer).min]).view(KIND[dtype])
    x = x[np.isnan(x)]
    for name in FUNCTIONS:
        assert np.isnan(native(name, dtype, HOSTS["host"][1], host())(x)).all(), name


@pytest.mark.parametrize("dtype", KIND)
def test_denormal_numbers(dtype: str) -> None:
    kind = KIND[dtype]
    tiny = np.arange(1, 4097).astype(INTEGER[dtype]).view(kind)
    x = np.concatenate([tiny, -tiny])
    run: Callable[[str], Array] = lambda name: native(name, dtype, HOSTS["host"][1], host())(x)  # noqa: E731
    for name in ("expm1", "log1p", "tanh"):
        np.testing.assert_array_equal(run(name), x, err_msg=name)
    assert (run("exp") == 1).all()


def test_exp_does_not_fall_where_a_softmax_looks() -> None:
    # Neighbouring floats, a stretch at each of many places from -20 to 0: larger scores never get smaller shares.
    run = native("exp", "f32", HOSTS["host"][1], host())
    starts = -np.random.default_rng(2).uniform(2.0**-6, 20.0, 256).astype(np.float32)
    x = (starts.view(np.int32)[:, None] - np.arange(4096, dtype=np.int32)).view(np.float32)
    y = run(x.ravel()).reshape(x.shape)
    assert (np.diff(y, axis=1) >= 0).all()


OPS: dict[str, Op] = {
    "exp": Exp(),
    "log": Log(),
    "tanh": Tanh(),
    "elu": Elu(),
    "sigmoid": Sigmoid(),
    "gelu": Gelu(),
}


@pytest.mark.parametrize("name", OPS)
def test_a_kernel_gives_an_element_the_same_bits_wherever_it_stands(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(0, 4, 8).astype(np.float32)
    x = np.tile(values, 40)[:293]  # vectors, and a rest
    type = TensorType((293,), "f32")
    bump, kernel = Bump(), op_kernel("k", OPS[name], [type])
    read, write = bump.window(type), bump.window(type)
    plan = plan_of([Launch("k", (read,), (write,), (False,))], [kernel], bump.used)
    executable = CpuTarget(Cache(tmp_path)).build_loops(lower_to_loops(plan))
    arena = fresh_arena(plan)
    view(arena, read)[...] = x
    executable.run({"arena": arena}, "step")
    y = view(arena, write)
    same_bits(y.copy(), np.tile(y[:8], 40)[:293])
    loop = executable.text("asm")
    register = {64: "zmm", 32: "ymm", 16: "xmm"}[host().vector_bytes]
    assert any("mulps" in line and register in line for line in loop.splitlines()), "the loop has no vectors"
    assert not any(f in loop for f in ("expf", "logf", "tanhf", "erff", "expm1f", "log1pf")), "it calls the C library"


ALONE = """
net alone(n = 64) {
    input x: f32[n, 19]
    y = NAME(x)
    output y
}
"""
# The weights are 1, so that each column of the result is a function of x.
BEHIND = """
net behind(n = 64) {
    input x: f32[n, 1]
    y = x |> linear(19, bias=false, weight_init=constant(1)) |> NAME
    output y
}
"""


@pytest.mark.parametrize("name", OPS)
def test_both_ways_to_native_code_give_the_same_bits(name: str) -> None:
    x = np.random.default_rng(4).uniform(0.01, 6, (64, 1)).astype(np.float32)
    x *= 1 if name == "log" else np.float32(-1) ** np.arange(64, dtype=np.float32)[:, None]
    sources = [text.replace("NAME", name) for text in (ALONE, BEHIND)]
    alone, behind = (compile_net(s, "n.cnet", Options()).phase("infer").loops.functions[1] for s in sources)
    assert recognize(alone) is None  # Numba source
    assert recognize(behind) is not None  # vectors of lanes
    nets = [concatc.compile_source(source) for source in sources]
    nets[1].init(seed=0)
    wide = np.repeat(x, 19, axis=1)
    same_bits(nets[1].eval(x=x)["y"], nets[0].eval(x=wide)["y"])
