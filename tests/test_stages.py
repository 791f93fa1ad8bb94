"""Stages: what takes how long, and what a terminal shows meanwhile."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path

import pytest

from concatc.cli.main import exit_code
from concatc.cli.progress import CLEAR_LINE
from concatc.stages import Times, listening, stage

NET = "net f(n = 4) { input x: f32[n, 3]; y = x |> linear(2) |> tanh; output y }\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net in a directory of its own, and an empty cache."""
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.cnet").write_text(NET)
    return tmp_path


def test_stages_inside_others_are_counted_once() -> None:
    times = Times()
    start = time.perf_counter_ns()
    with listening(times), stage("outer"):
        with stage("inner"):
            time.sleep(0.01)
        with stage("inner"):
            time.sleep(0.01)
    elapsed = time.perf_counter_ns() - start
    assert list(times.elapsed_ns) == ["outer", "inner"]
    assert times.elapsed_ns["inner"] >= 20_000_000
    assert sum(times.elapsed_ns.values()) <= elapsed
    with stage("outer"):
        pass  # nobody listens any more
    assert sum(times.elapsed_ns.values()) <= elapsed


def test_a_cold_compilation_is_announced_on_a_terminal_and_a_warm_one_is_not(
    cold: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for _ in range(2):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert exit_code(["compile", "f.cnet"]) == 0
        shown.append(terminal.getvalue())
    assert shown == [f"{CLEAR_LINE}compiling 1 kernel ..{CLEAR_LINE}", ""]


def test_nothing_is_announced_in_a_pipe(cold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["compile", "f.cnet"]) == 0
    assert capsys.readouterr().err == ""


def test_the_times_add_up_to_the_time_of_the_command(cold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["compile", "f.cnet", "--time-passes"]) == 0
    text = capsys.readouterr().err
    names = re.findall(r"^([\w ]+?|[\w-]+) +\d+\.\d\d ms", text, re.MULTILINE)
    for name in ("fuse", "plan-memory", "lower-to-loops", "front end", "emit", "LLVM", "load", "everything else"):
        assert name in names, name
    totals = [float(ms) for ms in re.findall(r"^total +(\d+\.\d+) ms", text, re.MULTILINE)]
    (everything,) = re.findall(r"^all of it +(\d+\.\d+) ms", text, re.MULTILINE)
    # Each row is rounded to 0.01 ms.
    assert sum(totals) == pytest.approx(float(everything), abs=0.05)
