"""The emulator of CUDA source: what a kernel of the dialect computes, and each kind of fault, planted and found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from concatc.targets.cuda.emulator.fault import RULES, KernelFault
from concatc.targets.cuda.emulator.program import Program
from concatc.targets.cuda.emulator.run import run_launch
from concatc.targets.cuda.launches import GpuLaunch, Pointer

HEAD = """
import numpy as np
from numba import cuda

f32, f64, i32, i64, u32 = np.float32, np.float64, np.int32, np.int64, np.uint32
f32_0 = f32(0.0)
f32_inf = f32(np.inf)
"""

# y = max(x, 0), as many threads as the grid has.
POINTS = """
def kernel(x, y, n):
    for i in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, n, cuda.gridDim.x * cuda.blockDim.x):
        y[i] = maximum(x[i], f32_0)
"""
# y[row] = the sum of a row: a block a row, a tree in shared memory.
ROWS = """
def kernel(x, y, n, rows):
    part = cuda.shared.array(64, f32)
    lane = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, rows, cuda.gridDim.x):
        total = f32_0
        for i in range(lane, n, 64):
            total = total + x[row * n + i]
        part[lane] = total
        cuda.syncthreads()
        for k in range(6):
            half = 32 >> k
            if lane < half:
                part[lane] = part[lane] + part[lane + half]
            cuda.syncthreads()
        if lane == 7:
            y[row] = part[0]
        cuda.syncthreads()
"""
# y[k] = the sum over the warp of thread k.
WARPS = """
def kernel(x, y, n):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    total = x[i]
    for k in range(5):
        total = total + cuda.shfl_xor_sync(0xFFFFFFFF, total, 1 << k)
    y[i] = total
"""
# y = x reversed within each block, through shared memory.
REVERSED = """
def kernel(x, y, n):
    tile = cuda.shared.array(64, f32)
    lane = cuda.threadIdx.x
    tile[lane] = x[cuda.blockIdx.x * 64 + lane]
    cuda.syncthreads()
    y[cuda.blockIdx.x * 64 + lane] = tile[63 - lane]
"""
# The same, copied behind the threads' backs.
COPIED = """
def kernel(x, y, n):
    tile = cuda.shared.array(64, f32)
    lane = cuda.threadIdx.x
    copy_async(tile, lane, x, cuda.blockIdx.x * 64 + lane, lane < n)
    commit_copies()
    wait_for_copies()
    cuda.syncthreads()
    y[cuda.blockIdx.x * 64 + lane] = tile[63 - lane]
"""
# c = a @ b of one warp, row-major 16 x 8 and 8 x 8, `a` and `b` one behind the other; no part of a row goes through
# the numbers that kernels are generated with.
MATMUL = """
def kernel(x, y, n):
    t = cuda.threadIdx.x
    row = div(t, 4)
    r = rem(t, 4)
    a = (x[row * 8 + r], x[row * 8 + 64 + r], x[row * 8 + r + 4], x[row * 8 + 64 + r + 4])
    b = (x[128 + r * 8 + row], x[128 + r * 8 + 32 + row])
    c = mma(tf32(a), tf32(b), (f32_0, f32_0, f32_0, f32_0))
    y[row * 8 + r * 2] = c[0]
    y[row * 8 + r * 2 + 1] = c[1]
    y[row * 8 + r * 2 + 64] = c[2]
    y[row * 8 + r * 2 + 65] = c[3]
"""


def run(source: str, x: np.ndarray, y_shape: int, *numbers: int, grid: int = 3, block: int = 64) -> np.ndarray:
    """Run ``kernel(x, y, *numbers)``; both lie in one base, with 64 bytes between that are no one's."""
    end = x.nbytes + 64
    base = np.full(end + 4 * y_shape + 64, 0xA5, np.uint8)
    base[: x.nbytes] = x.view(np.uint8)
    pointers = (Pointer("arena", 0, "f32", 0, x.nbytes), Pointer("arena", end, "f32", end, end + 4 * y_shape))
    launch = GpuLaunch("kernel", grid, block, (*pointers, *numbers), "forward", "k0")
    run_launch(Program(HEAD + source), launch, {"arena": base})
    assert (base[x.nbytes : end] == 0xA5).all()
    assert (base[end + 4 * y_shape :] == 0xA5).all()
    return base[end : end + 4 * y_shape].view(np.float32)


def data(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=count).astype(np.float32)


@pytest.mark.parametrize("grid", [1, 3, 7])
@pytest.mark.parametrize("count", [1, 64, 500])
def test_points(count: int, grid: int) -> None:
    x = data(count)
    np.testing.assert_array_equal(run(POINTS, x, count, count, grid=grid), np.maximum(x, 0))


@pytest.mark.parametrize(("rows", "n"), [(1, 5), (5, 64), (4, 150)])
def test_rows(rows: int, n: int) -> None:
    x = data(rows * n)
    got = run(ROWS, x, rows, n, rows)
    np.testing.assert_allclose(got, x.reshape(rows, n).sum(axis=1), rtol=0, atol=1e-5 * np.abs(got).max() * n**0.5)


def test_shuffles() -> None:
    x = data(192)
    want = np.repeat(x.reshape(6, 32).sum(axis=1), 32)
    np.testing.assert_allclose(run(WARPS, x, 192, 192), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_shared_memory() -> None:
    x = data(192)
    np.testing.assert_array_equal(run(REVERSED, x, 192, 192), x.reshape(3, 64)[:, ::-1].reshape(-1))


@pytest.mark.parametrize("there", [64, 20, 0])
def test_copies(there: int) -> None:
    x = data(192)
    copied = np.where(np.arange(64) < there, x.reshape(3, 64), 0)
    np.testing.assert_array_equal(run(COPIED, x, 192, there), copied[:, ::-1].reshape(-1))


def test_copies_of_16_bytes() -> None:
    x = data(192)
    one = "copy_async(tile, lane, x, cuda.blockIdx.x * 64 + lane, lane < n)"
    four = "if lane < 16:\n        copy_four(tile, lane * 4, x, cuda.blockIdx.x * 64 + lane * 4, lane < n)"
    source = planted(COPIED, one, four).replace("array(64, f32)", "array(64, f32, 16)")
    copied = np.where(np.arange(64) < 20, x.reshape(3, 64), 0)
    np.testing.assert_array_equal(run(source, x, 192, 5), copied[:, ::-1].reshape(-1))


def test_tensor_cores() -> None:
    """Factors of 10 bits are exact; others are rounded to the nearest, to one part in 2048."""
    x = np.random.default_rng(0).integers(-1023, 1024, 192).astype(np.float32)
    want = x[:128].reshape(16, 8) @ x[128:].reshape(8, 8)
    np.testing.assert_array_equal(run(MATMUL, x, 128, 0, grid=1, block=32).reshape(16, 8), want)
    odd = x + np.float32(0.499)
    near = np.abs(odd[:128]).reshape(16, 8) @ np.abs(odd[128:]).reshape(8, 8) / 1024
    got = run(MATMUL, odd, 128, 0, grid=1, block=32).reshape(16, 8)
    assert (np.abs(got - odd[:128].reshape(16, 8) @ odd[128:].reshape(8, 8)) <= near).all()
    assert np.isnan(
        run(MATMUL, np.where(np.arange(192) == 5, np.float32(np.nan), x), 128, 0, grid=1, block=32)[:8]
    ).all()


def test_many_blocks_run_in_parts() -> None:
    x = data(64 * 1100)
    np.testing.assert_array_equal(run(REVERSED, x, x.size, x.size, grid=1100), x.reshape(-1, 64)[:, ::-1].reshape(-1))


EXPRESSIONS = {
    "i32(i32(2147483647) + i32(1)) + 0": -(2**31),
    "i32(5) * i32(1000000000)": 5_000_000_000,
    "u32(i32(-1))": 2**32 - 1,
    "i32(u32(i32(-8)) >> u32(28))": 15,
    "div(17, 5) * 100 + rem(17, 5)": 302,
    "div(-1, 2)": 2**31 - 1,
    "-7 // 2": -4,
    "select(3 < 2, 7, 9)": 9,
    "f32(1) / f32(3) * f32(3)": 1.0,
    "f32(16777216.0) + f32(1.0)": 16777216.0,
    "f32(16777216.0) + 1": 16777217.0,
    "maximum(f32(np.nan), f32_0)": np.nan,
    "minimum(f32_inf, -f32_inf)": -np.inf,
    "exp(f32_0) + tanh(f32_0) + erf(f32_0) + sqrt(f32(4))": 3.0,
    "i32((3 < 4) & (5 < 4))": 0,
    "(1 < 2 and 2 < 1) | (not 1 < 2)": False,
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_are_typed_as_numba_types_them(text: str) -> None:
    want = EXPRESSIONS[text]
    text_of = {np.inf: "np.inf", -np.inf: "-np.inf"}
    compared = "a != a" if want != want else f"a == {text_of.get(want, repr(want))}"
    source = f"""
def kernel(x, y, n):
    a = {text}
    if cuda.threadIdx.x == 0:
        y[0] = f32(i32({compared}))
"""
    assert run(source, data(1), 1, 1, grid=1)[0] == 1


def planted(source: str, old: str, new: str) -> str:
    assert old in source
    return source.replace(old, new)


FAULTS = {
    "a barrier is missing": ("race", planted(REVERSED, "    cuda.syncthreads()\n", "")),
    "a barrier between steps is missing": (
        "race",
        planted(ROWS, "lane + half]\n            cuda.syncthreads()\n", "lane + half]\n"),
    ),
    "a barrier between rows is missing": ("race", planted(ROWS, "part[0]\n        cuda.syncthreads()\n", "part[0]\n")),
    "all threads store in one place": ("race", planted(POINTS, "y[i] =", "y[0] =")),
    "blocks store what others store": ("race", planted(REVERSED, "y[cuda.blockIdx.x * 64 + lane]", "y[lane]")),
    "a thread reads what another block stores": ("race", planted(POINTS, "x[i], f32_0", "y[n - 1 - i], x[i]")),
    "one element too many": ("bounds", planted(POINTS, ".threadIdx.x, n,", ".threadIdx.x, n + 1,")),
    "one element below": ("bounds", planted(POINTS, "x[i]", "x[i - 1]")),
    "beyond shared memory": ("bounds", planted(REVERSED, "tile[63 - lane]", "tile[64 - lane]")),
    "a store to what is read only": ("bounds", planted(POINTS, "y[i] =", "x[i - n] =")),
    "a barrier that some threads reach": (
        "barrier",
        planted(ROWS, "lane + half]\n            cuda", "lane + half]\n                cuda"),
    ),
    "a barrier in a loop that some threads leave": (
        "barrier",
        planted(ROWS, "x[row * n + i]\n", "x[row * n + i]\n            cuda.syncthreads()\n"),
    ),
    "shared memory that nothing wrote": (
        "uninitialised",
        planted(REVERSED, "cuda.shared.array(64", "cuda.shared.array(65").replace("63 -", "64 -"),
    ),
    "a name that some threads set": (
        "uninitialised",
        planted(
            POINTS, "        y[i] = maximum(x[i], f32_0)", "        if i < 3:\n            v = x[i]\n        y[i] = v"
        ),
    ),
    "a shuffle of too few threads": ("shuffle", planted(WARPS, "0xFFFFFFFF", "0xFFFF")),
    "a shuffle that some threads miss": (
        "shuffle",
        planted(WARPS, "        total = total + cuda", "        if i != 37:\n            total = total + cuda"),
    ),
    "a copy that nobody waits for": ("copy", planted(COPIED, "    wait_for_copies()\n", "")),
    "a wait for a copy that is in no group": ("copy", planted(COPIED, "    commit_copies()\n", "")),
    "a store to what is being copied": (
        "copy",
        planted(COPIED, "    wait_for", "    tile[lane] = f32_0\n    wait_for"),
    ),
    "a kernel that ends before its copies": (
        "copy",
        planted(COPIED, "    y[", "    copy_async(tile, lane, x, 0, lane < 0)\n    y[").replace(
            "tile[63 - lane]", "x[lane]"
        ),
    ),
    "a barrier behind a copy is missing": ("race", planted(COPIED, "    cuda.syncthreads()\n", "")),
    "copies to one place": ("race", planted(COPIED, "tile, lane, x", "tile, 0, x")),
    "a copy of one element too many": ("bounds", planted(COPIED, "* 64 + lane, lane < n", "* 65 + lane, lane < n")),
    "four elements at no multiple of 16 bytes": (
        "alignment",
        planted(COPIED, "copy_async(tile, lane,", "copy_four(tile, lane * 4,").replace(
            "array(64, f32)", "array(64, f32, 16)"
        ),
    ),
    "four elements of an array at any address": (
        "alignment",
        planted(
            COPIED, "copy_async(tile, lane, x, cuda.blockIdx.x * 64 + lane,", "copy_four(tile, lane * 4, x, lane * 4,"
        ),
    ),
    "a product of half a warp": (
        "warp",
        planted(
            WARPS,
            "    y[i] = total",
            "    a = (f32_0, f32_0, f32_0, f32_0)\n    if i < 48:\n        a = "
            "mma(a, (f32_0, f32_0), a)\n    y[i] = a[0]",
        ),
    ),
    "a factor that is not rounded": (
        "types",
        planted(WARPS, "    y[i] = total", "    a = (total, total, total, total)\n    a = mma(a, (f32_0, f32_0), a)"),
    ),
    "an index beyond 32 bits": ("overflow", planted(POINTS, "x[i]", "x[div(i + 2147483647, 3)]")),
    "the end of a loop beyond 32 bits": ("overflow", planted(POINTS, ", n, ", ", i32(n * 100000000), ")),
    "a division by zero": ("overflow", planted(POINTS, "x[i]", "x[i // (i - i)]")),
    "a float that no integer holds": ("overflow", planted(POINTS, "x[i]", "f32(i32(x[i] * f32(1e20)))")),
    "floats as an index": ("types", planted(POINTS, "x[i]", "x[f32(i)]")),
    "two types in one function": ("types", planted(POINTS, "f32_0)", "0.0)")),
    "a word that the dialect has not": ("syntax", planted(POINTS, "y[i] = ", "while y[i] < 0: y[i] = ")),
    "a choice that the dialect has not": ("syntax", planted(POINTS, "f32_0)", "f32_0 if i else x[i])")),
    "a function that the dialect has not": ("syntax", planted(POINTS, "maximum", "open")),
    "no Python": ("syntax", planted(POINTS, "maximum(", "maximum((")),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found(name: str) -> None:
    rule, source = FAULTS[name]
    x = np.abs(data(192)) + 1
    numbers = (48, 4) if "rows" in source else (192,)
    with pytest.raises(KernelFault) as found:
        run(source, x, 192, *numbers)
    assert found.value.rule == rule, found.value


def test_each_rule_has_a_planted_fault() -> None:
    assert {rule for rule, _ in FAULTS.values()} | set(ARGUMENTS) == set(RULES)


PLACE = Pointer("arena", 0, "f32", 0, 256)
ARGUMENTS = {
    "overflow": ((PLACE, PLACE, 2**31), "n is an i32, and is given 2147483648"),
    "alignment": ((replace(PLACE, offset_bytes=2), PLACE, 8), r"x points to arena\+2, which is no multiple of 4"),
    "bounds": ((PLACE, replace(PLACE, end_bytes=260), 8), "y may touch bytes 0 to 260 of arena, which has 256"),
    "types": ((PLACE, replace(PLACE, dtype="f64"), 8), r"y is a \*f32, and is given a pointer to f64"),
}


@pytest.mark.parametrize("rule", ARGUMENTS)
def test_arguments_are_checked(rule: str) -> None:
    arguments, message = ARGUMENTS[rule]
    launch = GpuLaunch("kernel", 1, 32, arguments, "forward", "k0")
    with pytest.raises(KernelFault, match=message) as found:
        run_launch(Program(HEAD + POINTS), launch, {"arena": np.zeros(256, np.uint8)}, ("*f32", "*f32", "i32"))
    assert found.value.rule == rule


def test_a_fault_says_where() -> None:
    with pytest.raises(KernelFault) as found:
        run(FAULTS["one element too many"][1], data(192), 192, 192, grid=2)
    fault = found.value
    assert (fault.kernel, fault.block, fault.thread) == ("kernel", 1, 0)
    assert str(fault) == (
        "kernels.py:11:9: error: kernel `kernel`, block 1, thread 0: reads element 192 of x, which has 0 to 191\n"
        "    y[i] = maximum(x[i], f32_0)\n"
        "    ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "note: an access stays inside of the window that its pointer was given, or of its own array"
    )


def test_pointers_of_one_place_may_be_read_and_written_by_one_thread() -> None:
    base = np.arange(-32, 32).astype(np.float32).view(np.uint8)
    run_launch(Program(HEAD + POINTS), GpuLaunch("kernel", 2, 32, (PLACE, PLACE, 64), "forward", "k0"), {"arena": base})
    np.testing.assert_array_equal(base.view(np.float32), np.maximum(np.arange(-32, 32), 0))
