"""Written modules: they run without the front end and without Numba, and say why they cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.artifact import write_module
from concatc.compiler import Options, compile_net
from concatc.manifest import FORMAT
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
    assert loaded.kernels == compiled.kernels
    ours, theirs = concatc.SGD(0.1, momentum=0.9), concatc.SGD(0.1, momentum=0.9)
    for _ in range(3):
        assert loaded.train_step(batch(), optimizer=ours) == compiled.train_step(batch(), optimizer=theirs)
    assert loaded.states == {} and all(np.array_equal(loaded.params[n], w) for n, w in compiled.params.items())
    assert "def update0_sgd" in loaded.kernels and "def update0_sgd" in compiled.kernels


def test_import_runs_without_front_end_and_numba(written: Path) -> None:
    code = (
        "import sys, numpy as np, small\n"
        "net = small.load(); net.init()\n"
        "net.train_step(x=np.ones((4, 5), np.float32), label=np.int32([0, 1, 2, 1]))\n"
        "print(net.eval(x=np.ones((4, 5), np.float32))['y'].shape, 'numba' in sys.modules, 'lark' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=written.parent, capture_output=True, text=True, check=False)
    assert done.stdout == "(4, 3) False False\n", done.stderr


def test_damage_is_found(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    for name in ("train/net.json", "train/step.jsonl", "train/code0.o", "infer/code1.o", "__init__.py"):
        path = directory / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        assert error_of(directory).startswith(f"error: {path} was changed or damaged after it was written\nhelp: ")
        path.unlink()
        assert f"is incomplete: {name}" in error_of(directory)
        path.write_bytes(whole)
    path = directory / "train" / "loops.mlir"
    path.write_text(path.read_text().replace("arith.addf", "arith.subf"))
    net = concatc.load(directory)
    net.train_step(batch())  # no level is read to run
    with pytest.raises(concatc.UsageError, match=r"loops\.mlir was changed or damaged"):
        net.ir("loops")
    path.unlink()
    assert "is incomplete: train/loops.mlir" in error_of(directory)
    edit_manifest(directory, files={"../../etc/passwd": "0"})
    assert "`files` is not a hash for each file inside the module" in error_of(directory)
    (directory / "manifest.json").write_text("{")
    assert "it is no JSON" in error_of(directory)
    assert "is no written module" in error_of(tmp_path / "none")


DAMAGE = [
    *[({key: None}, f"`{key}` is missing") for key in ("concatc", "net", "dims", "dtype", "objects", "cpu", "files")],
    ({"files": [1]}, "`files` is not a hash for each file"),
    ({"files": {"train/code0.o": 1}}, "`files` is not a hash for each file"),
    ({"files": {"a\0b": "0"}}, "`files` is not a hash for each file"),
    ({"dims": 3}, "`dims` is not a value a dim"),
    ({"dtype": ["f32"]}, "`dtype` is not f32 or f64"),
    ({"cpu": {"name": "x"}}, "`cpu` is not the name and the features of a CPU"),
    ({"objects": {}}, "`objects` is not a number a phase"),
    ({"objects": {"train": -1}}, "`objects` is not a number a phase"),
    ({"files": {}, "dims": []}, "`dims` is not a value a dim"),
    ({"files": {}}, "it does not list __init__.py, train/net.json, train/step.jsonl"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGE, ids=[str(c) for c, _ in DAMAGE])
def test_a_damaged_manifest_is_one_error(
    written: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    directory = copy_of(written, tmp_path)
    manifest = json.loads((directory / "manifest.json").read_text()) | changes
    kept = {key: value for key, value in manifest.items() if value is not None}
    (directory / "manifest.json").write_text(json.dumps(kept))
    error = error_of(directory)
    assert f"{directory / 'manifest.json'} is damaged: " in error and message in error
    assert "write it again" in error


def test_an_object_file_that_is_not_listed_is_damage(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    files = json.loads((directory / "manifest.json").read_text())["files"]
    last = sorted(name for name in files if name.endswith(".o"))[-1]
    edit_manifest(directory, files={name: digest for name, digest in files.items() if name != last})
    assert f"it does not list {last}" in error_of(directory)


def test_a_deep_manifest_is_damage(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    (directory / "manifest.json").write_text("[" * 500_000)
    assert "it is no JSON" in error_of(directory)


def test_other_versions_and_machines_are_refused(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    edit_manifest(directory, format=FORMAT - 1)
    assert f"is not in format {FORMAT}" in error_of(directory)
    edit_manifest(directory, format=FORMAT, concatc="0.0.1")
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


def snapshot(directory: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None for p in directory.rglob("*")}


@pytest.mark.parametrize("manifest", ["{}", "{", '{"format": 1}', '{"format": 1, "files": {"notes": "0"}}'])
def test_a_manifest_of_somebody_else_protects_its_directory(tmp_path: Path, manifest: str) -> None:
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "manifest.json").write_text(manifest)
    (directory / "notes").write_text("x")
    before = snapshot(tmp_path)
    with pytest.raises(concatc.UsageError, match="is no written module; it is left alone"):
        write_module(compile_net(NET, "small.cnet"), directory)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("added", ["notes", "train/mine.py", "data/x.npz", "__pycache__/keep.txt", "train/code0.o/"])
def test_files_of_the_user_in_a_module_are_named_and_kept(written: Path, tmp_path: Path, added: str) -> None:
    directory = copy_of(written, tmp_path)
    path = directory / added
    if added.endswith("/"):
        path.unlink()
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    before = snapshot(tmp_path)
    with pytest.raises(concatc.UsageError) as caught:
        write_module(compile_net(NET, "small.cnet"), directory)
    assert f"in the way: {added.strip('/') if '.npz' not in added else 'data'}" in str(caught.value)
    assert snapshot(tmp_path) == before


def test_links_are_left_alone(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(concatc.UsageError, match="link is a symbolic link; it is left alone"):
        write_module(compile_net(NET, "small.cnet"), tmp_path / "link")
    (directory / "data").symlink_to(tmp_path)
    with pytest.raises(concatc.UsageError, match="in the way: data"):
        write_module(compile_net(NET, "small.cnet"), directory)


def test_a_module_that_python_imported_is_replaced(written: Path, tmp_path: Path) -> None:
    directory = copy_of(written, tmp_path)
    (directory / "__pycache__").mkdir()
    (directory / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"x")
    write_module(compile_net(NET, "small.cnet"), directory)
    assert not (directory / "__pycache__").exists()


def test_the_old_module_comes_back_where_the_new_one_cannot_take_its_place(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_of(written, tmp_path)
    before = snapshot(tmp_path)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(concatc.UsageError, match="No space left on device"):
        write_module(compile_net(NET, "small.cnet"), directory)
    assert snapshot(tmp_path) == before


def test_permissions_are_those_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_module(compile_net(NET, "small.cnet"), tmp_path / "small")
    finally:
        os.umask(old)
    assert (tmp_path / "small").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "small" / "manifest.json").stat().st_mode & 0o777 == 0o640


def test_outputs_of_one_phase_are_written(tmp_path: Path) -> None:
    body = "net f(n = 2) {{ input x: f32[n, 3]; p = linear(x, 2); loss mean(square(p)) as l; {} }}"
    x = np.ones((2, 3), np.float32)
    for name, statement in (("late", "if not train { output p }"), ("early", "if train { output p }")):
        write_module(compile_net(body.format(statement), "f.cnet"), tmp_path / name)
        net = concatc.load(tmp_path / name)
        if name == "late":
            assert net.eval(x=x)["p"].shape == (2, 2)
        else:
            with pytest.raises(concatc.UsageError, match="has no outputs in inference"):
                net.eval(x=x)
        assert ("infer" in net.memory.phases) == (name == "late")
