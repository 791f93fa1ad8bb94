"""Sizes that the machine does not hold are said where a net is looked at, before it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.inspect import machine

HUGE = """
net huge(n = 4) {
    input x: f32[n, 1000000]
    input label: i32[n]
    h = linear(x, 4)
    loss softmax_loss(h, label)
    output h
}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "machine_bytes", lambda: 1 << 30)
    (tmp_path / "huge.cnet").write_text(HUGE)
    return tmp_path / "huge.cnet"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("check", "warning: inputs, parameters and results take 36.4 TiB, more than the 1 GiB of this machine"),
        ("compile", "warning: training needs 36.4 TiB, more than the 1 GiB of this machine"),
    ],
)
def test_commands_warn_of_sizes_that_no_memory_holds(
    file: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    assert exit_code([command, str(file), "--dim", "n=10000000", "--target", "reference"]) == 0
    err = capsys.readouterr().err
    assert f"{said}\nhelp: smaller dims need less" in err
    assert exit_code([command, str(file), "--target", "reference"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_the_memory_summary_says_it(file: Path) -> None:
    small, large = (concatc.compile(file, dims={"n": n}) for n in (4, 10_000_000))
    assert "of this machine" not in str(small.memory)
    assert "\n  that is more than the 1 GiB of this machine\n" in str(large.memory)
    assert "of this machine" not in large.ir("plan")  # which is the same on every machine
