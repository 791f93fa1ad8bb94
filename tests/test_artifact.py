"""Written modules: they run without the front end and without Numba, and say why they cannot be used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.artifact import write_module
from concatc.compiler import Options, compile_net
from concatc.targets.cpu.native import host

NET = """
net small(n = 4) {
    input x: f32[n, 5]
    input label: i32[n]
    y = x |> linear(3) @one
    loss softmax_loss(y, label)
    output y
}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("modules") / "small"
    write_module(compile_net(NET, "small.cnet"), directory)
    return directory


def copy_of(directory: Path, to: Path) -> Path:
    for path in directory.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = to / directory.name / path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to / directory.name


def edit_manifest(directory: Path, **changes: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def error_of(directory: Path) -> str:
    with pytest.raises(concatc.UsageError) as caught:
        concatc.load(directory)
    return str(caught.value)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(4, 5)).astype(np.float32), "label": np.int32([0, 1, 2, 1])}


def test_a_written_module_computes_what_the_compiled_one_does(written: Path) -> None:
    compiled, loaded = concatc.compile_source(NET, filename="small.cnet"), concatc.load(written)
    for net in (compiled, loaded):
        net.init(seed=2)
    assert loaded.dims == {"n": 4} and loaded.name == "small"
    assert np.array_equal(loaded.eval(batch())["y"], compiled.eval(batch())["y"])
    assert loaded.train_step(batch()) == compiled.train_step(batch())
    ours, theirs = concatc.SGD(0.1, momentum=0.9), concatc.SGD(0.1, momentum=0.9)
    for _ in range(3):
        assert loaded.train_step(batch(), optimizer=ours) == compiled.train_step(batch(), optimizer=theirs)
    assert loaded.ir("joint") == compiled.ir("joint")
    assert loaded.kernels == compiled.kernels


def test_import_runs_without_front_end_and_numba(written: Path) -> None:
    code = (
        "import sys, numpy as np, small\n"
        "net = small.load(); net.init()\n"
        "net.train_step(x=np.ones((4, 5), np.float32), label=np.int32([0, 1, 2, 1]))\n"
        "print(net.eval(x=np.ones((4, 5), np.float32))['y'].shape, 'numba' in sys.modules, 'lark' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=written.parent, capture_output=True, text=True, check=False)
    assert done.stdout == "(4, 3) False False\n", done.stderr


def test_sizes_are_fixed(written: Path) -> None:
    net = concatc.load(written)
    with pytest.raises(concatc.UsageError, match="was written for n=4"):
        net.eval(x=np.zeros((5, 5), np.float32))


def test_damage_is_found(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    path = directory / "train" / "loops.mlir"
    path.write_text(path.read_text().replace("arith.addf", "arith.subf"))
    assert error_of(directory) == f"error: {path} was changed or damaged after it was written"
    path.unlink()
    assert "is incomplete: train/loops.mlir" in error_of(directory)
    edit_manifest(directory, files={"../../etc/passwd": "0"})
    assert "outside the module" in error_of(directory)
    (directory / "manifest.json").write_text("{")
    assert "it is no JSON" in error_of(directory)
    assert "is no written module" in error_of(tmp_path / "none")


def test_other_versions_and_machines_are_refused(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    edit_manifest(directory, format=0)
    assert "is not in format 1" in error_of(directory)
    edit_manifest(directory, format=1, concatc="0.0.1")
    assert "was written by concatc 0.0.1" in error_of(directory)
    features = f"{host().features},+warp-drive"
    edit_manifest(directory, concatc=concatc.__version__, cpu={"name": "enterprise", "features": features})
    assert error_of(directory) == (
        f"error: {directory} was compiled for enterprise; this CPU lacks warp-drive\n"
        "help: compile the net on this machine"
    )


def test_writing_leaves_other_directories_alone(written: Path, tmp_path: Path) -> None:
    compilation = compile_net(NET, "small.cnet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("x")
    with pytest.raises(concatc.UsageError, match="it is left alone"):
        write_module(compilation, tmp_path / "mine")
    with pytest.raises(concatc.UsageError, match="no name that Python can import"):
        write_module(compilation, tmp_path / "my-net")
    with pytest.raises(concatc.UsageError, match="has no object code"):
        write_module(compile_net(NET, "small.cnet", Options(target="reference")), tmp_path / "ref")
    directory = copy_of(written, tmp_path)
    write_module(compilation, directory)
    concatc.load(directory)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "small"]
