"""Device kernels of plans: their source, their launches, and what must hold of both without a GPU."""

from __future__ import annotations

import re

import pytest

from concatc.compiler import Compilation, Options
from concatc.ir.types import ELEMENT_BYTES
from concatc.options import Precision
from concatc.targets.cuda.kernels import gpu_module
from concatc.targets.cuda.launches import GpuModule, Pointer
from tests.example_nets import CASES, NETS, Case

SHARED_BYTES = 48 * 1024  # what a block has without asking for more

SOFTMAX = """
net rows(n = 40, c = 100) {
    input x: f32[n, c]
    y = softmax(x)
    output y
}
"""


def modules_of(
    text: str,
    name: str,
    dims: dict[str, int],
    dtype: str = "f32",
    phase: str = "train",
    precision: Precision = "high",
) -> GpuModule:
    compilation = Compilation(text, name, Options(dims=dims, dtype=dtype))
    return gpu_module(compilation.phase("train" if phase == "train" else "infer").plan, precision)


def module_of(case: Case, dtype: str = "f32", precision: Precision = "high") -> GpuModule:
    path = NETS / f"{case.name}.cnet"
    return modules_of(path.read_text(), str(path), case.dims, dtype, precision=precision)


def functions_in(source: str) -> dict[str, str]:
    """The text of each kernel by its name."""
    found = re.split(r"^def (\w+)\(", source, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_net_becomes_device_kernels(case: Case, dtype: str) -> None:
    module = module_of(case, dtype)
    functions = functions_in(module.source)
    assert set(functions) == set(module.signatures) == {launch.kernel for launch in module.launches}
    for launch in module.launches:
        assert launch.grid >= 1 and launch.block % 32 == 0 and launch.block <= 256
        assert len(launch.arguments) == len(module.signatures[launch.kernel])
        for argument, type in zip(launch.arguments, module.signatures[launch.kernel], strict=True):
            assert isinstance(argument, Pointer) == type.startswith("*")
            if isinstance(argument, Pointer):
                assert 0 <= argument.begin_bytes <= argument.end_bytes <= module.bases[argument.base]
                assert type == f"*{argument.dtype}"
    for name, text in functions.items():
        arrays = re.findall(r"cuda\.shared\.array\((\d+), (\w+)", text)
        assert sum(int(numel) * ELEMENT_BYTES[type] for numel, type in arrays) <= SHARED_BYTES, name
        assert ("cuda.syncthreads()" in text) == bool(arrays) or "thread == 0" in text, name


def test_one_plan_makes_the_same_text_each_time() -> None:
    case = next(case for case in CASES if case.name == "inception")
    assert module_of(case) == module_of(case)


def test_sizes_are_arguments() -> None:
    """Nets of other batch sizes run the same kernels, where sums over the batch keep 256 threads busy in both."""
    path = NETS.parent / "thread.cnet"
    one, other = (modules_of(path.read_text(), str(path), {"x": x, "y": x // 2}) for x in (1024, 1536))
    assert one.launches != other.launches
    assert one.source == other.source


def test_a_row_is_shared_by_a_block() -> None:
    module = modules_of(SOFTMAX, "rows.cnet", {}, phase="infer")
    (launch,) = module.launches
    assert (launch.grid, launch.block) == (40, 128)
    (text,) = functions_in(module.source).values()
    lines = [line.strip() for line in text.splitlines()]
    assert "for row in range(i32(block), i32(n_r0), i32(blocks)):" in lines
    assert "for term in range(thread, n_c, 128):" in lines
    assert text.count("maximum(") == 1 + 5 + 3  # one a term, one a shuffle, one a warp
    assert text.count("shfl_xor_sync(") == 2 * 5


def test_kernels_hold_no_atomic_operation() -> None:
    case = next(case for case in CASES if case.name == "two_tower")
    module = module_of(case)
    assert "atomic" not in module.source
    scattered = [text for name, text in functions_in(module.source).items() if "for column in" in text]
    assert scattered, "an embedding's gradient is a sum in memory"
