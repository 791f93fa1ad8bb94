"""Pools and upsampling read elements that lie near each other in vectors: no gathers, nothing outside of windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.plan import Launch
from concatc.op import Builder, load_all_ops
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu.target import CpuTarget
from tests.kernel_plans import Bump, plan_of
from tests.test_every_op import assert_close
from tests.test_packing import interpret, launch_of, reference, run

load_all_ops()


def kernel_of(build: Callable[..., Value], *shapes: tuple[int, ...], index: tuple[int, ...] = ()) -> FuncOp:
    """One op, or two, on operands of these shapes; in front of them the places in windows, if there are any."""
    types = [*([TensorType(index, "i8")] if index else []), *(TensorType(s) for s in shapes)]
    function = FuncOp("k", types, [f"x{k}" for k in range(len(types))])
    made = build(Builder(function.body), *function.args)
    function.body.append(Operation("func.return", [made]))
    return function


def pooled(width: int, kernel: int, stride: int, pad: int) -> int:
    return (width + 2 * pad - kernel) // stride + 1


def max_pool(width: int, **at: int) -> FuncOp:
    pairs = {k: (v, v) for k, v in at.items()}
    return kernel_of(lambda b, x: b.max_pool(x, **pairs)[0], (2, 2, 9, width))


def max_pool_grad(width: int, **at: int) -> FuncOp:
    pairs: dict[str, Any] = {k: (v, v) for k, v in at.items()}
    dy = (2, 2, pooled(9, **at), pooled(width, **at))
    return kernel_of(lambda b, i, dy: b.max_pool_grad(i, dy, image=(9, width), **pairs), dy, index=dy)


def avg_pool(width: int, **at: int) -> FuncOp:
    """Behind a map, as batch norm and relu are."""
    pairs = {k: (v, v) for k, v in at.items()}
    return kernel_of(lambda b, x: b.avg_pool(b.relu(x), **pairs), (2, 2, 9, width))


def avg_pool_grad(width: int, **at: int) -> FuncOp:
    """In front of a map that reads the image as it is."""
    pairs: dict[str, Any] = {k: (v, v) for k, v in at.items()}
    dy = (2, 2, pooled(9, **at), pooled(width, **at))
    image = (2, 2, 9, width)
    return kernel_of(lambda b, x, dy: b.mul(x, b.avg_pool_grad(dy, image=(9, width), **pairs)), image, dy)


GEOMETRIES = (
    *((2, 2, 0, 32), (3, 2, 0, 37), (3, 2, 1, 32), (3, 1, 1, 37)),
    *((3, 2, 1, 111), (5, 2, 2, 118)),  # rows of many vectors, the last of which is not whole
)
KERNELS = {
    f"{make.__name__}_{kernel}_{stride}_{pad}_{width}": make(width, kernel=kernel, stride=stride, pad=pad)
    for make in (max_pool, max_pool_grad, avg_pool, avg_pool_grad)
    for kernel, stride, pad, width in GEOMETRIES
} | {"upsample_2_37": kernel_of(lambda b, x: b.upsample(x, factor=(2, 2)), (2, 2, 3, 37))}


def arrays_of(kernel: FuncOp) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    made: list[np.ndarray] = []
    for arg in kernel.args:
        x = rng.normal(size=arg.tensor.shape).astype("f4")
        made.append(rng.integers(0, 4, arg.tensor.shape).astype("i1") if arg.tensor.dtype == "i8" else x)
    return made


@pytest.mark.parametrize("name", KERNELS)
def test_values_canaries_and_no_gathers(name: str, tmp_path: Path) -> None:
    kernel = KERNELS[name]
    plan, launch = launch_of(kernel, gap=2)
    arrays = arrays_of(kernel)
    want = reference(kernel, arrays) + 1
    target, loops = CpuTarget(Cache(tmp_path)), lower_to_loops(plan)
    native = target.build_loops(loops)
    assert "masked.gather" not in target.compile_loops(loops)[1].units[1].llvm_ir(Cache(tmp_path))
    assert_close(run(plan, launch, arrays, lambda _, arena: native.run({"arena": arena}, "step")), want, 16, "f32")
    assert_close(run(plan, launch, arrays, interpret), want, 16, "f32")


@pytest.mark.parametrize("wide", [4, 8, 16])
def test_windows_as_wide_as_vectors(wide: int, tmp_path: Path) -> None:
    """All lanes of a vector read one window, or none where there is no further one."""
    at: dict[str, Any] = {"kernel": (3, wide), "stride": (2, wide), "pad": (1, 0), "image": (5, 4 * wide - 1)}
    kernel = kernel_of(lambda b, dy: b.avg_pool_grad(dy, **at), (3, 3, 3, 3))
    plan, launch = launch_of(kernel, gap=0)
    arrays = arrays_of(kernel)
    native = CpuTarget(Cache(tmp_path)).build_loops(lower_to_loops(plan))
    got = run(plan, launch, arrays, lambda _, arena: native.run({"arena": arena}, "step"))
    assert_close(got, reference(kernel, arrays) + 1, 16, "f32")


def test_a_place_that_nobody_reads_is_not_made() -> None:
    plan, _ = launch_of(max_pool(37, kernel=3, stride=2, pad=0), gap=2)
    (function,) = [f for f in lower_to_loops(plan).functions[1:] if f.declared is None]
    assert not any(str(r.type) == "i8" for op in function.walk() for r in op.results)


def test_a_maximum_and_its_place_are_one_fold() -> None:
    function = FuncOp("k", [TensorType((2, 2, 9, 32))], ["x"])
    b: Any = Builder(function.body)
    made = b.max_pool(function.args[0], kernel=(2, 2), stride=(2, 2))
    function.body.append(Operation("func.return", list(made)))
    bump = Bump()
    windows = [bump.window(v.tensor) for v in (*function.args, *made)]
    plan = plan_of([Launch("k", (windows[0],), tuple(windows[1:]), (False, False))], [function], bump.used)
    (loops,) = [f for f in lower_to_loops(plan).functions[1:] if f.declared is None]
    assert sum(op.name == "memref.load" and op.operands[0] is loops.args[2] for op in loops.walk()) == 1
