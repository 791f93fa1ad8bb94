"""The target ``cuda`` as a user meets it: nets on the emulator, what is emitted, what is refused."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.device import cuda_driver
from concatc.targets.cuda.ptx import faults_in_report, faults_of
from tests.cuda_nets import JOINED

ROOT = Path(__file__).parent.parent


def trained(target: str) -> tuple[list[float], dict[str, np.ndarray], np.ndarray]:
    """Losses of three steps with momentum, the gradients behind them, and what is predicted."""
    net = concatc.compile_source(JOINED, target=target)
    net.init(seed=3)
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(6, 9)).astype(np.float32), rng.integers(0, 5, 6).astype(np.int32)
    optimizer = concatc.SGD(lr=0.2, momentum=0.9)
    losses = [float(net.train_step(x=x, label=label, optimizer=optimizer)["loss"]) for _ in range(3)]
    net.forward(x=x, label=label)
    gradients = {name: np.array(gradient) for name, gradient in net.backward().items()}
    return losses, gradients, net.eval(x=x)["logits"]


def test_a_net_trains_on_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_CUDA_EMULATOR", "1")
    losses, gradients, logits = trained("cuda")
    wanted_losses, wanted_gradients, wanted_logits = trained("reference")
    assert losses[2] < losses[0]
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    np.testing.assert_allclose(logits, wanted_logits, atol=1e-5 * np.abs(wanted_logits).max() * np.sqrt(21))
    assert gradients.keys() == wanted_gradients.keys()
    for name, wanted in wanted_gradients.items():
        assert np.abs(gradients[name] - wanted).max() <= 1e-5 * np.abs(wanted).max() * np.sqrt(21), name


def test_other_batch_sizes_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_CUDA_EMULATOR", "1")
    net = concatc.compile_source(JOINED, target="cuda")
    x = np.ones((4, 9), np.float32)
    assert net.with_dims(n=4).eval(x=x)["logits"].shape == (4, 5)


def test_an_edited_plan_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_CUDA_EMULATOR", "1")
    net = concatc.compile_source(JOINED, target="cuda")
    plan = net.ir("plan")
    assert plan.count('cnet.relu"') == 1
    edited = concatc.compile_source(plan.replace('cnet.relu"', 'cnet.tanh"'), filename="edited.mlir", target="cuda")
    other = concatc.compile_source(JOINED.replace("relu", "tanh"), target="cuda")
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(6, 9)).astype(np.float32), "label": np.zeros(6, np.int32)}
    losses = []
    for run in (net, edited, other):
        run.init(seed=3)
        losses.append(float(run.forward(**data)["loss"]))
    assert losses[1] == losses[2] != losses[0]


def test_without_a_device_a_net_is_compiled_and_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCATC_CUDA_EMULATOR", raising=False)
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    cuda_driver.cuda_driver.cache_clear()
    net = concatc.compile_source(JOINED, target="cuda")
    assert "def k0_linear" in net.kernels
    with pytest.raises(concatc.UsageError, match=r"no NVIDIA driver .*\nhelp: CONCATC_CUDA_EMULATOR=1"):
        net.eval(x=np.ones((6, 9), np.float32))


@pytest.fixture
def net_file(tmp_path: Path) -> str:
    path = tmp_path / "joined.cnet"
    path.write_text(JOINED)
    return str(path)


def test_kernels_and_launches_are_emitted(net_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["compile", net_file, "--target", "cuda", "--emit", "kernels"]) == 0
    source = capsys.readouterr().out
    compile(source, "kernels.py", "exec")
    assert exit_code(["compile", net_file, "--target", "cuda", "--emit", "launches"]) == 0
    launches = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[1] for line in launches} == set(re.findall(r"^def (\w+)", source, flags=re.MULTILINE))
    assert [line[0] for line in launches] == sorted((line[0] for line in launches), reverse=True)


def test_what_the_documentation_shows_is_emitted(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "TARGET_CUDA.md").read_text(encoding="utf-8")
    for what, pattern in (("kernels", r"```python\n(def k\d+_.*?)```"), ("launches", r"```\n(backward .*?)```")):
        (shown,) = re.findall(pattern, text, flags=re.DOTALL)
        command = ["compile", str(ROOT / "examples" / "thread.cnet"), "--target", "cuda", "--emit", what]
        assert exit_code(command) == 0
        made = capsys.readouterr().out
        for line in [shown] if what == "kernels" else shown.splitlines():
            assert line in made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "cuda", "--emit", "asm"), "the cuda target emits kernels, launches, ptx, sass and cubin"),
        (("--target", "cuda", "--emit", "cubin"), "--emit cubin writes files: say where with -o DIR"),
        (("--target", "cuda", "--emit", "ptx", "--arch", "sm90"), "no architecture `sm90`"),
        (("--emit", "ptx"), "the cpu target emits kernels, llvm and asm, not `ptx`"),
        (("--emit", "cubin", "-o", "code"), "the target `cpu` has no cubins"),
        (("--arch", "sm_90"), "--arch goes with --target cuda"),
    ],
)
def test_what_cannot_be_emitted_is_said(
    net_file: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert exit_code(["compile", net_file, *arguments]) != 0
    assert message in capsys.readouterr().err


def test_a_missing_compiler_is_named(
    net_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba_cuda" else find(name))
    assert exit_code(["compile", net_file, "--target", "cuda", "--emit", "ptx"]) != 0
    assert "numba-cuda, which is not installed: pip install 'concatc[cuda]'" in capsys.readouterr().err


def test_architectures() -> None:
    assert [str(Arch.of(name)) for name in ("sm_80", "sm_90a", "sm_120")] == ["sm_80", "sm_90a", "sm_120"]
    assert Arch.of("sm_120") == Arch(12, 0)


def test_gates_find_what_they_look_for() -> None:
    clean = "\tadd.f32 %f1, %f2, %f3;\n\tdiv.u32 %r1, %r2, %r3;\n"
    assert faults_of(clean) == []
    assert faults_of(clean + "\tcvt.f64.f32 %fd1, %f1;\n") == ["f64"]
    assert faults_of(clean + "\tcvt.f64.f32 %fd1, %f1;\n", wide=True) == []
    assert faults_of(clean + "\trem.s64 %rd1, %rd2, %rd3;\n") == ["64-bit integer division"]
    assert faults_of(clean + "\t.local .align 4 .b8 __local_depot0[256];\n") == ["local memory"]
    assert faults_of(clean + "\tatom.global.add.f32 %f1, [%rd1], %f2;\n") == ["an atomic operation"]
    report = "0 bytes stack frame, 0 bytes spill stores, 8 bytes spill loads"
    assert faults_in_report(report) == ["8 bytes of spill loads"]
    assert faults_in_report(report.replace("0 bytes stack", "256 bytes stack").replace("8 b", "0 b")) == [
        "256 bytes of stack frame"
    ]
