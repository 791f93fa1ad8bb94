"""``concatc cache``: what it says and what it removes; other processes may use the cache meanwhile."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.cli.main import CALL_WRONG, OK, exit_code
from concatc.diagnostics import Diagnostic
from concatc.opening import keeps_nets
from concatc.targets.cache import DATA, Cache, default_directory, digest
from concatc.targets.cache_upkeep import LEFT_BEHIND_S, entries, remove, to_remove

DAY = 86400.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path / "cache"))
    return Cache(tmp_path / "cache")


def filled(cache: Cache, ages_days: list[float], size_bytes: int = 1000) -> list[str]:
    """Entries that were used so many days ago; the last one is small."""
    keys = [digest("entry", str(k)) for k in range(len(ages_days))]
    for key, days in zip(keys, ages_days, strict=True):
        cache.store(key, bytes(size_bytes))
        then = time.time() - days * DAY
        os.utime(cache.path(key, ".o"), (then, then))
    return keys


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert exit_code(["cache", *arguments]) == OK
    return capsys.readouterr().out


def test_it_says_where_and_how_much(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys).splitlines()[0] == f"{cache.directory}: 0 entries, 0 B"
    filled(cache, [0, 1])
    cache.store(digest("data"), b"{}", DATA)
    cache.source(digest("source"), "x = 1\n")
    data: dict[str, Any] = json.loads(said(capsys, "--json"))
    assert (data["directory"], data["entries"]) == (str(cache.directory), 4)
    assert [kind["entries"] for kind in data["kinds"].values()] == [2, 1, 1]
    assert data["bytes"] == sum(path.stat().st_size for path in cache.directory.rglob("*.*"))


def test_it_lists_nets(cache: Cache, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(capsys, "list") == "no nets\n"
    monkeypatch.setenv("CONCATC_CACHE", "nets")
    net = concatc.compile_source("net tiny(n = 2) { input x: f32[n, 3]; output relu(x) as y }", filename="tiny.cnet")
    net.eval(x=[[1, 2, 3], [4, 5, 6]])
    cache.store(digest("no net"), b'{"file" damaged', DATA)
    (line,) = said(capsys, "list").splitlines()
    assert line.endswith("  tiny(n = 2)  tiny.cnet")
    (row,) = json.loads(said(capsys, "list", "--json"))["nets"]
    assert (row["net"], row["dims"], row["file"]) == ("tiny", {"n": 2}, "tiny.cnet")


def test_pruning_by_age_and_by_size(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    keys = filled(cache, [1, 40, 3, 60])
    assert said(capsys, "prune", "--older-than", "30d").startswith("removed 2 entries, ")
    assert [cache.holds(key) for key in keys] == [True, False, True, False]
    size = cache.path(keys[0], ".o").stat().st_size
    assert said(capsys, "prune", "--max-size", f"{size + 10}B").startswith("removed 1 entry, ")
    assert [cache.holds(key) for key in keys] == [True, False, False, False]
    assert said(capsys, "prune", "--older-than", "1.5h", "--max-size", "1GB").startswith("removed 1 entry, ")
    assert not any(path.is_dir() for path in cache.directory.iterdir())


def test_what_is_used_is_young(cache: Cache) -> None:
    old, used = filled(cache, [40, 40])
    cache.look(old, ".o")
    assert cache.load(used) is not None
    assert [entry.path.stem for entry in to_remove(entries(cache), 30 * DAY, None)] == [old]


def test_clearing_leaves_what_is_no_entry(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    key, *_ = filled(cache, [0, 1])
    folder = cache.path(key, ".o").parent
    foreign = [
        cache.directory / "notes.txt",
        cache.directory / "zz" / "kept.o",
        folder / "thesis.o",
        folder / "mine.txt",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (folder / ".new.o").write_text("being written")
    (folder / ".left.o").write_text("of a process that was killed")
    then = time.time() - LEFT_BEHIND_S - 60
    os.utime(folder / ".left.o", (then, then))
    removed = re.escape(f"{cache.directory}; 0 entries, 0 B left")
    assert re.fullmatch(rf"removed 2 entries, [\d.]+ KiB from {removed}\n", said(capsys, "clear"))
    left = {path for path in cache.directory.rglob("*") if path.is_file()}
    assert left == {*foreign, folder / ".new.o"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "prune needs --max-size, --older-than or both"),
        (["prune", "--older-than", "soon"], "`soon` is no age"),
        (["prune", "--older-than", "-3d"], "`-3d` is no age"),
        (["prune", "--max-size", "much"], "`much` is no amount of memory"),
        (["lst"], "No such command"),
    ],
)
def test_wrong_calls(arguments: list[str], message: str, cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    keys = filled(cache, [100])
    assert exit_code(["cache", *arguments]) == CALL_WRONG
    assert message in capsys.readouterr().err
    assert cache.holds(keys[0])


def unusable(kind: str, tmp_path: Path) -> tuple[str, str]:
    """A directory that is of no use as a cache, and why."""
    (tmp_path / "file").write_text("no directory")
    return {
        "a file": (str(tmp_path / "file"), "Not a directory"),
        "below a file": (str(tmp_path / "file" / "cache"), "Not a directory"),
        "too long": (str(tmp_path / ("x" * 300)), "File name too long"),
        "long in all": (str(tmp_path) + "/xxxxxxx" * 600, "File name too long"),
        "nowhere": ("/proc/nope", "No such file or directory"),
    }[kind]


UNUSABLE = ["a file", "below a file", "too long", "long in all", "nowhere"]


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_cache_of_no_use_is_said_once_and_nets_run(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, why = unusable(kind, tmp_path)
    monkeypatch.setenv("CONCATC_CACHE_DIR", directory)
    monkeypatch.setenv("CONCATC_CACHE", "nets")
    message = f"the cache {directory} cannot be used: {why}"
    text = "net tiny(n = 2) { input x: f32[n, 3]; output relu(linear(x, 2)) as y }"
    net = concatc.compile_source(text)
    with pytest.warns(concatc.ConcatcWarning) as caught:
        assert net.eval(x=[[1, 2, 3], [4, 5, 6]])["y"].shape == (2, 2)
        concatc.compile_source(text).eval(x=[[1, 2, 3], [4, 5, 6]])
    (warning,) = caught
    assert str(warning.message).startswith(Diagnostic(message, severity="warning").render() + "\nnote: nets run")
    for arguments in ([], ["list"], ["clear"], ["prune", "--older-than", "1d"]):
        assert exit_code(["cache", *arguments]) == CALL_WRONG
        assert capsys.readouterr().err.startswith(Diagnostic(message).render() + "\nhelp: set ")


def test_the_command_line_says_on_stderr_that_a_cache_is_of_no_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCATC_CACHE_DIR", unusable("a file", tmp_path)[0])
    (tmp_path / "tiny.cnet").write_text("net tiny(n = 2) { input x: f32[n, 3]; output linear(x, 2) as y }")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3), np.float32))
    assert exit_code(["run", str(tmp_path / "tiny.cnet"), "--data", str(tmp_path / "x.npz")]) == OK
    out, err = capsys.readouterr()
    assert out.startswith("y: float32[2, 2]") and err.count("cannot be used") == 1
    assert err.startswith("warning: the cache ") and ".py:" not in err


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for chosen, place in (("", ".cache/concatc"), ("~", "."), ("~/of/mine", "of/mine"), (str(tmp_path / "a"), "a")):
        monkeypatch.setenv("CONCATC_CACHE_DIR", chosen)
        assert default_directory() == tmp_path / place
    monkeypatch.setenv("CONCATC_CACHE_DIR", "~nobody-of-this-name/a")
    assert default_directory() == Path("~nobody-of-this-name/a")


def test_asking_makes_no_directory(tmp_path: Path) -> None:
    assert Cache(tmp_path / "a" / "b").problem() is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_nets_or_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen, keeps in (("", True), ("nets", True), ("objects", False)):
        monkeypatch.setenv("CONCATC_CACHE", chosen)
        assert keeps_nets() is keeps
    monkeypatch.setenv("CONCATC_CACHE", "object")
    with pytest.raises(
        concatc.UsageError, match=r"CONCATC_CACHE is `nets` .* not 'object'\nhelp: did you mean `objects`\?"
    ):
        concatc.compile_source("net tiny(n = 2) { input x: f32[n, 3]; output relu(x) as y }")


def test_entries_may_be_removed_while_others_use_them(cache: Cache) -> None:
    """Readers see a whole entry or none; writers are not disturbed."""
    payloads = {digest("busy", str(k)): bytes([k]) * 5000 for k in range(8)}
    wrong: list[object] = []
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            for key, payload in payloads.items():
                try:
                    cache.store(key, payload)
                    if cache.load(key) not in (None, payload):
                        wrong.append(key)
                except BaseException as error:
                    wrong.append(error)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        remove(cache, to_remove(entries(cache), None, 0))
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
