"""Every device kernel of every example net through NVIDIA's compiler, for two architectures: no GPU is needed."""

from __future__ import annotations

import pytest

from concatc.options import Precision
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.launches import GpuModule
from concatc.targets.cuda.ptx import cubin_of, faults_in_report, faults_of, ptx_of
from tests.example_nets import CASES, Case
from tests.test_cuda_kernels import module_of

pytest.importorskip("numba_cuda", reason="NVIDIA's compiler is not installed (the extra `cuda`)")
pytestmark = [pytest.mark.cuda, pytest.mark.slow]


def faults(module: GpuModule, arch: Arch, wide: bool = False) -> dict[str, list[str]]:
    """What must not be in the code of each kernel."""
    found = {}
    for name, text in ptx_of(module, arch).items():
        _, report = cubin_of(text, arch)
        found[name] = faults_of(text, wide) + faults_in_report(report)
    return {name: what for name, what in found.items() if what}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_kernel_spills_divides_in_64_bits_or_computes_in_f64(case: Case) -> None:
    assert faults(module_of(case), Arch(9, 0)) == {}


@pytest.mark.parametrize("name", ["two_tower", "siamese"])
def test_other_architectures_and_types(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    assert faults(module_of(case), Arch(8, 0)) == {}
    assert faults(module_of(case, "f64"), Arch(9, 0), wide=True) == {}


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_other_precisions(precision: Precision) -> None:
    """``siamese`` has all: convolutions, their gradients, linear layers.  Each instruction is one of the device's."""
    module = module_of(next(case for case in CASES if case.name == "siamese"), precision=precision)
    assert faults(module, Arch(9, 0)) == {}
    texts = ptx_of(module, Arch(9, 0)).values()
    assert any("mma.sync.aligned.m16n8k8" in text for text in texts) == (precision == "fast")
    assert any("cp.async.ca.shared.global" in text for text in texts)


def test_one_source_makes_the_same_ptx_each_time() -> None:
    module = module_of(next(case for case in CASES if case.name == "growing"))
    assert ptx_of(module, Arch(8, 0)) == ptx_of(module, Arch(8, 0))
