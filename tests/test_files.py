"""Files are replaced in one step; what is no file is not replaced."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

import concatc
from concatc.cli.main import exit_code
from concatc.diagnostics import UsageError
from concatc.files import check_replaceable, replacing


def write(path: Path, text: str) -> None:
    check_replaceable(path)
    with replacing(path) as part:
        part.write_text(text)


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    write(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "x", tmp_path / "link"
    path.write_text("old")
    link.symlink_to(path)
    write(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_a_pipe_gets_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write(path, "new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a directory"):
        check_replaceable(tmp_path)
    with pytest.raises(UsageError, match="it is a directory"), replacing(tmp_path):
        pass


def test_missing_folders_are_made_and_not_by_the_check(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x"
    check_replaceable(path)
    assert list(tmp_path.iterdir()) == []
    write(path, "new")
    assert path.read_text() == "new"


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for path in (tmp_path / "a" / "x", tmp_path / "a" / "b" / "x"):
        with pytest.raises(UsageError, match=f"cannot write {path}: {tmp_path}/a is a file, not a folder"):
            check_replaceable(path)
        with pytest.raises(UsageError, match=f"cannot write {path}: "), replacing(path):
            pass


def test_every_command_makes_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path / "cache"))
    net = "net f(n = 4) {\n input x: f32[n, 3]\n y = linear(x, 2)\n loss mean(y)\n output y\n}\n"
    Path("f.cnet").write_text(net)
    np.savez("x.npz", x=np.ones((8, 3), np.float32))
    for line, written in {
        "compile f.cnet -o 1/2/made": "1/2/made/__init__.py",
        "compile f.cnet --dump-ir 3/4": "3/4/00-graph.mlir",
        "opt 3/4/00-graph.mlir -o 5/6/out.mlir": "5/6/out.mlir",
        "train f.cnet --data x.npz --epochs 1 -o 7/8/w.safetensors": "7/8/w.safetensors",
        "run f.cnet --data x.npz --weights 7/8/w.safetensors -o 9/10/y.npz": "9/10/y.npz",
        "bench f.cnet --rounds 1 --trace 11/12/t.json": "11/12/t.json",
    }.items():
        assert exit_code(line.split()) == 0
        assert Path(written).is_file()
    concatc.compile("f.cnet").save("13/14/w.safetensors")
    assert Path("13/14/w.safetensors").is_file()


def test_errors_of_other_files_are_told_as_they_are(tmp_path: Path) -> None:
    path, other = tmp_path / "x", tmp_path / "other"
    with pytest.raises(FileNotFoundError, match="other"), replacing(path) as part:
        part.write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match=r"cannot write .*x: No space left on device"), replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a write says, without a name
    with pytest.raises(UsageError, match=r"cannot write .*x: Is a directory"), replacing(path) as part:
        part.unlink()
        part.mkdir()
        part.write_text("new")
    assert not path.exists()


def test_a_disk_that_is_full_when_weights_are_saved_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    net = concatc.compile_source("net f(n = 2) { input x: f32[n, 3]; output linear(x, 2) as y }", target="reference")
    net.init(seed=0)
    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(UsageError, match=r"cannot write .*w\.safetensors: I/O error: No space left on device"):
        net.save(tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())
