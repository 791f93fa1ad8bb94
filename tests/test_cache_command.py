"""``concatc cache``: what it says and what it removes; other processes may use the cache meanwhile."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import concatc
from concatc.cli.main import CALL_WRONG, OK, exit_code
from concatc.targets.cpu.cache import DATA, Cache, digest
from concatc.targets.cpu.cache_upkeep import LEFT_BEHIND_S, entries, remove, to_remove

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
    assert said(capsys, "clear").startswith("removed 2 entries, ")
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
