"""Written modules of the target ``cuda``: they run where there is no compiler, on devices that their code fits.

Device code is made of the source here, where no compiler of NVIDIA is: who loads it sees what a device sees.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc import written_cuda
from concatc.artifact import write_module
from concatc.cli.main import exit_code
from concatc.compiler import Options, compile_net
from concatc.targets.cuda import target
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.carried import Carried
from concatc.targets.cuda.device import cuda_driver
from concatc.targets.cuda.device.emulated_driver import EmulatedDriver
from concatc.targets.cuda.launches import GpuModule
from tests.cuda_nets import JOINED
from tests.test_artifact import copy_of, edit_manifest, error_of
from tests.test_cuda_device import data

NO_COMPILER = "there is no compiler here"


def code_of(module: GpuModule, arch: Arch) -> dict[str, bytes]:
    """Device code, as far as a device of these tests reads it."""
    return {kernel: f"{arch} {kernel}\n{json.dumps(module.source)}".encode() for kernel in module.signatures}


class Device(EmulatedDriver):
    """One that takes code for its architecture and has nobody who makes some."""

    device = "a device"

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.arch = Arch.of(arch)
        self.loaded: list[str] = []

    def images(self, module: GpuModule, carried: Carried | None = None) -> dict[str, bytes]:
        if carried is None:
            raise concatc.UsageError(NO_COMPILER)
        return carried.images(module.signatures, self.device, self.arch)

    def load(self, image: bytes, kernel: str) -> int:
        head, _, source = image.partition(b"\n")
        arch, name = head.decode().split()
        assert name == kernel
        self.loaded.append(arch)
        return super().load(source, kernel)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cuda") / "joined"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written_cuda, "cubins_of", code_of)
        write_module(compile_net(JOINED, "joined.cnet", Options(target="cuda")), directory)
    return directory


def on(monkeypatch: pytest.MonkeyPatch, arch: str) -> Device:
    """Nets that are made from here on run on a device."""
    device = Device(arch)
    monkeypatch.setattr(target, "chosen_driver", lambda: device)
    return device


OPTIMIZERS: list[Callable[[], concatc.Optimizer]] = [
    lambda: concatc.SGD(0.1),
    lambda: concatc.SGD(0.1, momentum=0.9, weight_decay=0.01),
    lambda: concatc.SGD(0.1, momentum=0.9, nesterov=True),
    lambda: concatc.Adam(0.01),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["sgd", "momentum", "nesterov", "adam"])
def test_a_written_module_trains_without_a_compiler(
    written: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], concatc.Optimizer]
) -> None:
    """With the bits of the net as it is compiled, on code for an older device of the same kind."""
    device, losses = on(monkeypatch, "sm_86"), []
    nets = [concatc.load(written)]
    monkeypatch.setattr(target, "chosen_driver", EmulatedDriver)
    nets.append(concatc.compile_source(JOINED, target="cuda"))
    for net in nets:
        net.init(seed=3)
        optimizer = make()
        losses.append([net.train_step(data(seed=k), optimizer=optimizer)["loss"] for k in range(3)])
    assert losses[0] == losses[1]
    assert all(np.array_equal(nets[0].params[name], value) for name, value in nets[1].params.items())
    assert np.array_equal(nets[0].eval(x=data()["x"])["logits"], nets[1].eval(x=data()["x"])["logits"])
    assert set(device.loaded) == {"sm_80"}
    assert all(f"def {name}" in nets[0].kernels for name in ("update0_", "k0_linear_bias_relu("))


def test_the_emulator_runs_its_source(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "chosen_driver", EmulatedDriver)
    net = concatc.load(written)
    assert net.forward(data())["loss"] == concatc.compile_source(JOINED, target="cuda").forward(data())["loss"]
    assert "def k0_linear" in net.kernels and "func.func" in net.ir("graph")


def test_other_optimizers_need_a_compiler(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(concatc.SGD):
        @property
        def code_key(self) -> tuple[object, ...]:
            return ("plain",)

    on(monkeypatch, "sm_90")
    net = concatc.load(written)
    with pytest.raises(concatc.UsageError, match=rf"{NO_COMPILER}\nnote: the module carries the kernels of SGD\(lr="):
        net.train_step(data(), optimizer=Plain(0.1))


@pytest.mark.parametrize(("arch", "taken"), [("sm_80", "sm_80"), ("sm_90", "sm_90"), ("sm_89", "sm_80")])
def test_the_code_that_fits_is_taken(written: Path, monkeypatch: pytest.MonkeyPatch, arch: str, taken: str) -> None:
    device = on(monkeypatch, arch)
    concatc.load(written).eval(x=data()["x"])
    assert set(device.loaded) == {taken}


@pytest.mark.parametrize("arch", ["sm_75", "sm_100"])
def test_a_device_that_no_code_is_for(written: Path, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    on(monkeypatch, arch)
    net = concatc.load(written)
    with pytest.raises(concatc.UsageError) as said:
        net.eval(x=data()["x"])
    assert f"{written} carries code for sm_80, sm_90, and a device is {arch}" in str(said.value)
    command = f"concatc compile NET --target cuda --arch {arch} -o DIR"
    assert f"help: write it for this device: `{command}`" in str(said.value)


def test_code_for_one_architecture_alone() -> None:
    carried = Carried("code", (Arch.of("sm_90"), Arch.of("sm_90a")), lambda kernel, arch: str(arch).encode())
    assert carried.images(["k"], "it", Arch(9, 0)) == {"k": b"sm_90a"}
    assert not Arch.of("sm_90a").runs_on(Arch(9, 3)) and Arch.of("sm_90").runs_on(Arch(9, 3))
    assert not Arch.of("sm_86").runs_on(Arch(8, 0))


def test_without_a_driver_a_module_loads_and_says_so(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCATC_CUDA_EMULATOR", raising=False)
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    cuda_driver.cuda_driver.cache_clear()
    net = concatc.load(written)
    assert net.dims == {"n": 6}
    with pytest.raises(concatc.UsageError, match=r"this machine has no NVIDIA driver .*\nhelp: CONCATC_CUDA_EMULATOR"):
        net.eval(x=data()["x"])


def test_without_a_compiler_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "joined.cnet"
    path.write_text(JOINED)
    monkeypatch.setattr(written_cuda, "cubins_of", code_of)
    given = ["compile", str(path), "--target", "cuda", "--arch", "sm_75,sm_90a", "-o", str(tmp_path / "module")]
    assert exit_code(given) == 0
    assert json.loads((tmp_path / "module" / "manifest.json").read_text())["arches"] == ["sm_75", "sm_90a"]
    capsys.readouterr()

    def missing(module: GpuModule, arch: Arch) -> dict[str, bytes]:
        raise concatc.UsageError(NO_COMPILER)

    monkeypatch.setattr(written_cuda, "cubins_of", missing)
    assert exit_code([*given[:-1], str(tmp_path / "other")]) != 0
    assert NO_COMPILER in capsys.readouterr().err and not (tmp_path / "other").exists()


# -- damage ------------------------------------------------------------------------------------------------------------
def changed(directory: Path, to: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy with one file changed together with its hash."""
    copy = copy_of(directory, to)
    new = change((copy / name).read_bytes())
    (copy / name).write_bytes(new)
    files = json.loads((copy / "manifest.json").read_text())["files"]
    edit_manifest(copy, files={**files, name: hashlib.sha256(new).hexdigest()})
    return copy


def launch(at: int, value: Any) -> Callable[[bytes], bytes]:
    """Another entry in the first launch."""

    def change(text: bytes) -> bytes:
        head, first, *rest = text.splitlines(keepends=True)
        row = json.loads(first)
        row[at] = value(row[at]) if callable(value) else value
        return b"".join([head, json.dumps(row).encode() + b"\n", *rest])

    return change


def pointer(at: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    """Another entry in the first pointer of arguments."""

    def change(arguments: list[Any]) -> list[Any]:
        first = next(k for k, a in enumerate(arguments) if isinstance(a, list))
        arguments[first][at] = value
        return arguments

    return change


def head(**values: Any) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        first, rest = text.split(b"\n", 1)
        return json.dumps(json.loads(first) | values).encode() + b"\n" + rest

    return change


WRONG: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda text: b"", "it is empty"),
    (lambda text: text[:40], "line 1: it is no JSON"),
    (lambda text: b"[" * 100_000, "line 1: it is no JSON"),
    (head(bases={"arena": -1}), "line 1: bases are names, each with its bytes"),
    (head(bases={}), "line 2: a pointer into no base"),
    (head(kernels={"k0": ["f16"]}), "line 1: parameters have types: *f32"),
    (head(kernels={"__import__('os')": []}), "line 1: kernels are names"),
    (head(kernels={}), "line 2: a kernel that is not listed"),
    (launch(0, "k99"), "line 2: a kernel that is not listed"),
    (launch(1, "sideways"), "line 2: an unknown phase"),
    (launch(2, 0), "line 2: not 1 to 4096 blocks"),
    (launch(2, 1 << 31), "line 2: not 1 to 4096 blocks"),
    (launch(3, 2048), "line 2: not 1 to 4096 blocks of 1 to 1024 threads"),
    (launch(5, 7), "line 2: not a kernel of a plan"),
    (launch(6, lambda a: a[1:]), "line 2: the kernel k0_linear_bias_relu takes"),
    (launch(6, lambda a: [None, *a[1:]]), "line 2: "),
    (launch(6, pointer(0, "nowhere")), "line 2: a pointer into no base"),
    (launch(6, pointer(1, 1)), "line 2: "),
    (launch(6, pointer(3, 1 << 40)), "line 2: bytes "),
    (launch(6, pointer(2, -1)), "line 2: bytes "),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[str(k) for k in range(len(WRONG))])
def test_wrong_launches_are_errors(
    written: Path, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    net = concatc.load(changed(written, tmp_path, "train/step.jsonl", change))
    with pytest.raises(concatc.UsageError, match=r"step\.jsonl is damaged: ") as said:
        _ = net.kernels
    assert message in str(said.value)


def test_other_bases_and_kernels_than_those_that_are_there(written: Path, tmp_path: Path) -> None:
    def larger(text: bytes) -> bytes:
        bases = json.loads(text.split(b"\n", 1)[0])["bases"]
        return head(bases={**bases, "arena": 1 << 50})(text)

    def more(text: bytes) -> bytes:
        kernels = json.loads(text.split(b"\n", 1)[0])["kernels"]
        return head(kernels={**kernels, "k99": []})(text)

    for name, change, message in (("a", larger, "its bases are not those of net.json"), ("b", more, "its kernels are")):
        net = concatc.load(changed(written, tmp_path / name, "train/step.jsonl", change))
        with pytest.raises(concatc.UsageError, match=message):
            _ = net.kernels


def test_scratch_that_no_device_has_is_refused(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(text: bytes) -> bytes:
        bases = json.loads(text.split(b"\n", 1)[0])["bases"]
        return head(bases={**bases, "scratch": 1 << 50})(text)

    on(monkeypatch, "sm_80")
    net = concatc.load(changed(written, tmp_path, "infer/step.jsonl", large))
    with pytest.raises(concatc.UsageError, match=r"no memory on a device for .* of what kernels of one launch hand"):
        net.eval(x=data()["x"])


@pytest.mark.parametrize(
    "change", [lambda e: {}, lambda e: e[1:], lambda e: [1, *e[1:]], lambda e: [{**e[0], "block": 0}, *e[1:]]]
)
def test_wrong_updates_are_errors(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]
) -> None:
    on(monkeypatch, "sm_80")
    copy = changed(written, tmp_path, "update/updates.json", lambda t: json.dumps(change(json.loads(t))).encode())
    with pytest.raises(concatc.UsageError, match=r"updates\.json is damaged: it is no list of kernels"):
        concatc.load(copy).train_step(data(), optimizer=concatc.SGD(0.1))


def test_damaged_code_and_manifests_are_found(written: Path, tmp_path: Path) -> None:
    copy = copy_of(written, tmp_path)
    for name in ("train/code0.sm_90.cubin", "update/code1.sm_80.cubin", "infer/kernels.py"):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[:-1] + b"?")
        assert "was changed or damaged after it was written" in error_of(copy)
        (copy / name).unlink()
        assert f"is incomplete: {name}" in error_of(copy)
        (copy / name).write_bytes(whole)
    for changes, message in (
        ({"arches": []}, "`arches` are those of the target cuda"),
        ({"arches": ["../x"]}, "`arches` is not a list of architectures"),
        ({"arches": ["sm_80", "sm_75"]}, "it does not list train/code0.sm_75.cubin"),
        ({"target": "tpu"}, "`target` is not cpu or cuda"),
        ({"target": "cpu"}, "`arches` are those of the target cuda"),
    ):
        manifest = (copy / "manifest.json").read_text()
        edit_manifest(copy, **changes)
        assert message in error_of(copy)
        (copy / "manifest.json").write_text(manifest)
    concatc.load(copy)


def test_source_that_was_read_is_not_executed(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator knows the generator's words only."""
    monkeypatch.setattr(target, "chosen_driver", EmulatedDriver)
    touched = tmp_path / "touched"
    text = f"    open({str(touched)!r}, 'w')\n"

    def opens(source: bytes) -> bytes:
        return re.sub(r"^def .*\n", lambda found: found[0] + text, source.decode(), flags=re.MULTILINE).encode()

    net = concatc.load(changed(written, tmp_path, "infer/kernels.py", opens))
    with pytest.raises(concatc.ConcatcError):
        net.eval(x=data()["x"])
    assert not touched.exists()
