"""The native step: nets and plans end to end, the interpreter lock, edited dumps, and the cache."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.diagnostics import UsageError
from concatc.ir.core import FuncOp, Module
from concatc.ir.parser import parse_module
from concatc.ir.printer import PLAIN, print_module
from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Plan
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import MAGIC, Cache
from concatc.targets.cpu import objects as cpu_objects
from concatc.targets.cpu import units as cpu_units
from concatc.targets.cpu.native import host
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.cpu.workers import Workers
from concatc.targets.reference.plan_interpreter import BaseMemory
from tests.kernel_plans import fresh_arena, with_scratch
from tests.plans.densenet_block import densenet_block_plan
from tests.test_loops import dense_plan, kernel

EXAMPLES = Path(__file__).parent.parent / "examples"
T = TensorType
# f64: rounding alone.  f32: three layers of convolutions over up to 252 terms, against float64.
BLOCK_TOLERANCE = {"f64": 1e-12, "f32": 2e-5}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def linear_relu(m: int = 8, k: int = 16, n: int = 5) -> FuncOp:
    return kernel(
        "k0_linear_bias_relu",
        [T((m, k)), T((n, k)), T((n,))],
        lambda b, x, w, c: b.relu(b.bias(b.linear(x, w), c, axis=1)),
    )


def small_plan() -> Plan:
    """A contraction and a pointwise kernel."""
    return dense_plan(linear_relu(), kernel("k1_tanh", [T((8, 5))], lambda b, x: b.tanh(x)))


def filled(plan: Plan, seed: int = 0) -> np.ndarray:
    arena = fresh_arena(plan)
    rng = np.random.default_rng(seed)
    for launch in plan.launches:
        for window in launch.reads:
            view(arena, window)[...] = rng.normal(size=window.shape)
    return arena


def run_small(module: Module, plan: Plan, cache: Cache) -> list[np.ndarray]:
    arena = filled(plan)
    CpuTarget(cache).build_loops(module).run({"arena": arena}, "step")
    return [view(arena, w).copy() for launch in plan.launches for w in launch.writes]


# -- nets and plans ----------------------------------------------------------------------------------------------------


def test_the_thread_net_is_equal_to_the_reference() -> None:
    rng = np.random.default_rng(0)
    data = {
        "a": rng.normal(size=(64, 64)).astype(np.float32),
        "b": rng.normal(size=(32, 64)).astype(np.float32),
        "label": rng.integers(0, 10, 96).astype(np.int32),
    }
    results: dict[str, dict[str, np.ndarray]] = {}
    for target in ("reference", "cpu"):
        net = concatc.compile(EXAMPLES / "thread.cnet", target=target)
        net.init(seed=0)
        results[target] = {**net.forward(**data), **net.backward()}
    assert results["cpu"].keys() == results["reference"].keys()
    for name, want in results["reference"].items():
        assert np.abs(results["cpu"][name] - want).max() <= 1e-5 * np.abs(want).max() * np.sqrt(96), name


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("shape", [(2, 4, 3, 6, 5), (1, 16, 4, 4, 4), (3, 2, 5, 3, 7)])
def test_the_hand_written_densenet_block(shape: tuple[int, int, int, int, int], dtype: str, cache: Cache) -> None:
    """Channels-last pitch, batch norm in prologues, gradients added into windows; no byte outside of them."""
    plan, arguments, expected = densenet_block_plan(*shape, dtype)
    plan = with_scratch(plan)
    memory = BaseMemory(plan)
    for key, value in arguments.items():
        memory.set(key, value)
    executable = CpuTarget(cache).build_loops(lower_to_loops(plan))
    executable.run(memory.bases, "forward")
    executable.run(memory.bases, "backward")
    for key, want in expected.items():
        got = memory.view(plan.values[key][0].window)
        assert np.abs(got - want).max() <= BLOCK_TOLERANCE[dtype] * np.abs(want).max(), key
    (blobs,) = plan.values["h3"]
    pitch, channels = blobs.window.strides[3], blobs.window.shape[1]
    item = np.dtype(np.float32 if dtype == "f32" else np.float64).itemsize
    start = blobs.window.offset_bytes
    pixels = memory.bases["arena"][start : start + shape[0] * shape[3] * shape[4] * pitch * item]
    lanes = pixels.reshape(-1, pitch * item)
    assert (lanes[:, channels * item :] == 0xFF).all(), "lanes past the channels were written"
    assert not (lanes[:, : channels * item] == 0xFF).all(axis=1).any()


def test_phases_run_their_launches_only(cache: Cache) -> None:
    plan, arguments, _ = densenet_block_plan(1, 4, 3, 4, 4)
    plan = with_scratch(plan)
    memory = BaseMemory(plan)
    for key, value in arguments.items():
        memory.set(key, value)
    CpuTarget(cache).build_loops(lower_to_loops(plan)).run(memory.bases, "forward")
    assert np.isfinite(memory.view(plan.values["total:loss"][0].window)).all()
    assert np.isnan(memory.view(plan.values["grad:conv0"][0].window)).all()


def test_nan_goes_through_relu_and_max(cache: Cache) -> None:
    plan = dense_plan(
        linear_relu(),
        kernel("k1_relu", [T((4, 5))], lambda b, x: b.relu(x)),
        kernel("k2_max", [T((4, 5)), T((4, 5))], lambda b, x, y: b.max(x, y)),
    )
    arena = filled(plan)
    for launch in plan.launches:
        view(arena, launch.reads[0])[1, 2] = np.nan
    CpuTarget(cache).build_loops(lower_to_loops(plan)).run({"arena": arena}, "step")
    first, second, third = (view(arena, launch.writes[0]) for launch in plan.launches)
    assert np.isnan(first[1]).all() and np.isnan(first).sum() == 5
    for y in (second, third):
        assert np.isnan(y[1, 2]) and np.isnan(y).sum() == 1


# -- the interpreter lock ----------------------------------------------------------------------------------------------


def test_the_step_runs_to_its_end_while_another_thread_holds_the_lock(cache: Cache) -> None:
    """A C function called through PyDLL keeps the lock; what the step has written meanwhile, it wrote without it."""
    long = kernel("k0_linear", [T((768, 768)), T((768, 768))], lambda b, x, w: b.linear(x, w))
    plan = dense_plan(*[long] * 40)
    executable = CpuTarget(cache).build_loops(lower_to_loops(plan))
    arena = fresh_arena(plan)
    for launch in plan.launches:
        for window in launch.reads:
            view(arena, window)[...] = 1.0
    first, last = (view(arena, plan.launches[k].writes[0]) for k in (0, -1))
    executable.run({"arena": arena}, "step")  # touches the memory, so that the second run is not slower than the hold
    started = time.perf_counter()
    executable.run({"arena": arena}, "step")
    hold_us = int(4e6 * (time.perf_counter() - started)) + 200_000
    sleep = ctypes.PyDLL(None).usleep
    for _ in range(5):
        first[...] = last[...] = 0.0
        worker = threading.Thread(target=executable.run, args=({"arena": arena}, "step"))
        worker.start()
        while first[-1, -1] == 0.0 and worker.is_alive():
            time.sleep(0.0005)
        running = first[-1, -1] != 0.0 and last[0, 0] == 0.0
        sleep(hold_us)
        finished = bool((last == 768.0).all())
        worker.join()
        if running:
            break
    assert running, "the step was never seen half done"
    assert finished


# -- dumps that are edited ---------------------------------------------------------------------------------------------


def edited(module: Module, change: Callable[[str], str]) -> Module:
    text = print_module(module, PLAIN)
    new = change(text)
    assert new != text
    return parse_module(new, "06-loops.mlir")


def test_an_edited_contraction_runs_as_edited(cache: Cache) -> None:
    plan = small_plan()
    module = lower_to_loops(plan)
    before, _ = run_small(module, plan, cache)
    after, _ = run_small(edited(module, lambda t: t.replace("arith.maximumf", "arith.minimumf")), plan, cache)
    assert (before >= 0).all() and (after <= 0).all() and (after < 0).any()


def test_an_edited_pointwise_kernel_runs_as_edited(cache: Cache) -> None:
    plan = small_plan()
    module = lower_to_loops(plan)
    _, before = run_small(module, plan, cache)
    _, after = run_small(edited(module, lambda t: t.replace("math.tanh", "math.exp")), plan, cache)
    np.testing.assert_allclose(after, np.exp(np.arctanh(before.astype(np.float64))), rtol=1e-4)


def test_an_edited_step_runs_as_edited(cache: Cache) -> None:
    plan = small_plan()
    module = lower_to_loops(plan)
    arena = filled(plan)
    results = [w for launch in plan.launches for w in launch.writes]
    for window in results:
        view(arena, window)[...] = 1.0
    CpuTarget(cache).build_loops(
        edited(module, lambda t: t.replace("arith.constant false", "arith.constant true"))
    ).run({"arena": arena}, "step")
    plain = run_small(module, plan, cache)
    for window, want in zip(results, plain, strict=True):
        np.testing.assert_allclose(view(arena, window), want + 1, rtol=1e-6)


def test_an_op_that_the_target_does_not_know_is_an_error(cache: Cache) -> None:
    plan = small_plan()
    module = edited(lower_to_loops(plan), lambda t: t.replace("math.tanh", "math.sin"))
    with pytest.raises(
        concatc.ConcatcError, match=r"06-loops.mlir:\d+:\d+: error: the cpu target does not know `math.sin`"
    ):
        CpuTarget(cache).build_loops(module)


# -- generated code as text --------------------------------------------------------------------------------------------


def test_generated_code_can_be_read(cache: Cache) -> None:
    executable = CpuTarget(cache).build_loops(lower_to_loops(small_plan()))
    source = executable.text("kernels")
    assert "def k1_tanh(" in source and "tanh(" in source
    assert "k0_linear_bias_relu" in source
    assert "define i32" in executable.text("llvm")
    assert ".text" in executable.text("asm")
    with pytest.raises(UsageError, match="not `ptx`"):
        executable.text("ptx")


def test_generated_source_is_a_real_module(cache: Cache) -> None:
    units, _ = cpu_units.units_of(lower_to_loops(small_plan()).functions[1:], host())
    (unit,) = [u for u in units if isinstance(u, cpu_units.NumbaUnit)]
    CpuTarget(cache).build_loops(lower_to_loops(small_plan()))
    path = cache.path(unit.key, ".py")
    assert path.read_text() == unit.source
    spec = importlib.util.spec_from_file_location("generated", path)
    assert spec is not None and spec.loader is not None
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    assert callable(generated.k1_tanh)


# -- the cache ---------------------------------------------------------------------------------------------------------


def never(*args: Any) -> Any:
    raise AssertionError("compiled although it is in the cache")


def test_a_second_build_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan()
    cache = Cache(tmp_path)
    first = run_small(lower_to_loops(plan), plan, cache)
    monkeypatch.setattr(Workers, "submit", never)
    monkeypatch.setattr(cpu_objects, "object_code", never)
    second = run_small(lower_to_loops(plan), plan, cache)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AssertionError, match="compiled although"):
        run_small(lower_to_loops(plan), plan, Cache(tmp_path / "other"))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: str) -> None:
    plan = small_plan()
    cache = Cache(tmp_path)
    want = run_small(lower_to_loops(plan), plan, cache)
    entries = sorted(tmp_path.rglob("*.o"))
    assert len(entries) == 3
    whole = [path.read_bytes() for path in entries]
    for path, data in zip(entries, whole, strict=True):
        half = len(data) // 2
        flipped = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        foreign = MAGIC + hashlib.sha256(b"x").hexdigest().encode() + b"y"
        path.write_bytes({"cut": data[:half], "flip": flipped, "empty": b"", "foreign": foreign}[damage])
    got = run_small(lower_to_loops(plan), plan, cache)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [path.read_bytes() for path in entries] == whole, "the same code, and stored again"


def test_a_damaged_source_is_written_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cache.source("ab" * 32, "x = 1\n")
    path.write_text("import os\n")
    assert cache.source("ab" * 32, "x = 1\n").read_text() == "x = 1\n"


def test_entries_of_other_users_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    cache.store("ab" * 32, b"code")
    assert cache.load("ab" * 32) == b"code"
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache.load("ab" * 32) is None


def test_every_directory_of_the_cache_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0o002)
    try:
        Cache(tmp_path / "cache" / "concatc").store("ab" * 32, b"code")
    finally:
        os.umask(old)
    entry = Cache(tmp_path / "cache" / "concatc").path("ab" * 32, ".o")
    levels = [entry.parent, entry.parent.parent, entry.parent.parent.parent]
    assert [level.stat().st_mode & 0o777 for level in levels] == [0o700] * 3
    assert entry.stat().st_mode & 0o777 == 0o600


def test_code_of_another_key_is_not_loaded(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.store("ab" * 32, b"code")
    cache.store("cd" * 32, b"other")
    cache.path("ab" * 32, ".o").write_bytes(cache.path("cd" * 32, ".o").read_bytes())
    assert cache.load("ab" * 32) is None and cache.load("cd" * 32) == b"other"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).store("ab" * 32, b"code")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_directory_that_cannot_be_written_does_not_stop_compilation(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    plan = small_plan()
    with pytest.warns(concatc.ConcatcWarning, match="cannot be used: Not a directory"):
        assert np.isfinite(run_small(lower_to_loops(plan), plan, Cache(blocked))[0]).all()


BUILD = """
import sys
from tests.test_cpu_step import small_plan, run_small
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache, default_directory
plan = small_plan()
results = run_small(lower_to_loops(plan), plan, Cache(default_directory()))
print(float(sum(r.sum() for r in results)), "numba" in sys.modules)
"""


def start(directory: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parent.parent
    environment = {**os.environ, "CONCATC_CACHE_DIR": str(directory), "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-c", BUILD], env=environment, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return output.split()


def test_parallel_processes_share_the_cache_and_make_identical_code(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    processes = [start(first), start(first), start(second)]
    outputs = [finish(p)[0] for p in processes]
    assert len(set(outputs)) == 1
    files = [{p.relative_to(d): p.read_bytes() for p in sorted(d.rglob("*")) if p.is_file()} for d in (first, second)]
    assert files[0] == files[1], "compiling twice gives the same bytes, and no file is left over"
    assert sorted(p.suffix for p in files[0]) == [".o", ".o", ".o", ".py"]
    assert finish(start(first)) == [outputs[0], "False"], "a net in the cache is loaded without Numba"
