"""Every device kernel of every example net through NVIDIA's compiler, for two architectures: no GPU is needed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from concatc import load
from concatc.artifact import write_module
from concatc.compiler import Options, compile_net
from concatc.diagnostics import UsageError
from concatc.options import Precision
from concatc.targets.cuda import ptx
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.device.code import device_code
from concatc.targets.cuda.kernels import gpu_module
from concatc.targets.cuda.launches import GpuModule
from concatc.targets.cuda.ptx import cubin_of, faults_in_report, faults_of, ptx_of, sass_of
from concatc.targets.cuda.target import CudaTarget
from tests.cuda_nets import MANY
from tests.example_nets import CASES, Case
from tests.test_cuda_kernels import module_of, modules_of

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


def test_sums_in_parts() -> None:
    """Of a channel's mean, and of what adds the parts of a product."""
    module = modules_of(MANY, "many.cnet", {})
    few = ("channel_stats_running_average_running_average", "conv_weight_grad_2")
    kept = {name: types for name, types in module.signatures.items() if name.endswith(few)}
    assert len(kept) == 2
    assert faults(replace(module, signatures=kept), Arch(9, 0)) == {}


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
    for copy in ("cp.async.ca.shared.global", "cp.async.cg.shared.global"):  # of 4 bytes, of 16
        assert any(copy in text for text in texts)


# How PTX declares a parameter of each type of a signature; a pointer is 64 bits.
DECLARED = {"i1": "u8", "i8": "u8", "i32": "u32", "i64": "u64", "f32": "f32", "f64": "f64"}


def small_module() -> GpuModule:
    """Kernels of each sort of parameter but i64: windows, sizes, numbers of sizes, indices, whether to add."""
    text = """net f(n = 6) { input x: f32[n, 40]; input k: i32[n]
        h = linear(x, 40) |> layer_norm; loss softmax_loss(h + x, k) }"""
    return gpu_module(compile_net(text, "f.cnet", Options(target="cuda")).phase("train").plan)


def test_parameters_are_what_a_launch_gives() -> None:
    """One a parameter of the signature, of the size that `Parameters` writes."""
    module = small_module()
    for name, text in ptx_of(module, Arch(9, 0)).items():
        entry = re.search(rf"\.entry {re.escape(name)}\((.*?)\)", text, re.DOTALL)
        assert entry is not None, name
        declared = re.findall(r"\.param \.(\w+) ", entry[1])
        assert declared == [DECLARED.get(type, "u64") for type in module.signatures[name]], name


def test_device_code_is_kept_and_made_without_ptxas_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path))
    module = small_module()
    made = device_code(module, Arch(9, 0))
    assert made.keys() == module.signatures.keys()
    assert all(code.startswith(b"\x7fELF") for code in made.values())
    with monkeypatch.context() as patch:
        patch.setattr(ptx, "ptx_of", lambda module, arch: pytest.fail("compiled again"))
        assert device_code(module, Arch(9, 0)) == made

    def missing() -> str:
        raise UsageError("`ptxas` is not here")

    monkeypatch.setattr(ptx, "ptxas", missing)
    texts = device_code(module, Arch(8, 0))
    assert all(b".entry" in text and text.endswith(b"\0") for text in texts.values())


def test_a_written_module_holds_device_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ptxas, for each kernel and architecture, and what disassembles it finds the kernel."""
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CONCATC_CUDA_EMULATOR", "1")
    text = "net f(n = 6) { input x: f32[n, 9]; y = relu(x); output y }"
    compilation = compile_net(text, "f.cnet", Options(target="cuda"))
    compilation.target = CudaTarget(("sm_80", "sm_90"))
    write_module(compilation, tmp_path / "module")
    kernels = list(gpu_module(compilation.phase("infer").plan).signatures)
    for k, kernel in enumerate(kernels):
        for arch in ("sm_80", "sm_90"):
            code = (tmp_path / "module" / "infer" / f"code{k}.{arch}.cubin").read_bytes()
            assert f".text.{kernel}" in sass_of(code) and f".target\t{arch}" in sass_of(code)
    assert load(tmp_path / "module").eval(x=np.ones((6, 9), np.float32))["y"].all()


def test_one_source_makes_the_same_ptx_each_time() -> None:
    module = module_of(next(case for case in CASES if case.name == "growing"))
    assert ptx_of(module, Arch(8, 0)) == ptx_of(module, Arch(8, 0))
