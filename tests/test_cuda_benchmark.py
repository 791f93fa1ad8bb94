"""The benchmark of the target cuda: what it says without a device, and that its systems compute one thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cuda
from benchmarks.problem import Problem
from benchmarks.report import deviation
from concatc.targets.cuda.device import cuda_driver
from tests.test_benchmarks import small


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CONCATC_CUDA_EMULATOR", raising=False)
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    cuda_driver.cuda_driver.cache_clear()
    assert cuda.main(["--rows", "thread"]) == 1
    assert "nothing is measured: error: nets of the target `cuda` run on an NVIDIA GPU" in capsys.readouterr().err


def test_rows_are_measured_and_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CONCATC_CUDA_EMULATOR", "1")
    monkeypatch.setattr(cuda, "workloads", lambda names: [small(name) for name in names])
    monkeypatch.setattr(cuda, "WARM_UP", 1)
    monkeypatch.setattr(cuda, "peers", lambda problem, tf32: {})  # importing PyTorch takes seconds
    assert cuda.main(["--rows", "tiny thread", "--rounds", "1", "--json", str(tmp_path / "cuda.json")]) == 0
    assert "| tiny thread | concatc | " in capsys.readouterr().out
    assert '"device": "the emulator"' in (tmp_path / "cuda.json").read_text()


def test_all_rows_are_there() -> None:
    rows = cuda.workloads(list(cuda.SIZES))
    assert {work.name: work.dims.get("n") for work in rows} == {
        "thread": None,
        "tiny thread": None,
        "densenet_bc100": 256,
        "googlenet": 128,
        "unet": 16,
        "two_tower": 16384,
    }


@pytest.mark.peers
@pytest.mark.parametrize("row", ["tiny thread", "two_tower"])
def test_torch_computes_the_same(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, which has all of it but the capture."""
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")
    from benchmarks.systems.torch_cuda import training_step

    monkeypatch.setenv("CONCATC_CUDA_EMULATOR", "1")
    problem = Problem.of(small(row))
    theirs = training_step(problem, "eager", device="cpu")
    theirs.run()
    assert deviation(theirs.values(), cuda.ours(problem).values()) < 1e-4
