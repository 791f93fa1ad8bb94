"""docs/IR.md: its Python blocks and its commands print what the page says; a line `...` stands for any lines."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT, blocks, console_steps, run_python

PAGE = ROOT / "docs" / "IR.md"


def test_python_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run_python(blocks(PAGE), PAGE)


def test_console_blocks(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    steps = [step for block in blocks(PAGE) if block.language == "console" for step in console_steps(block.text)]
    assert len(steps) == 5
    for command, expected in steps:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        lines = [r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in expected.splitlines()]
        assert re.fullmatch("".join(lines), done.stdout), f"{command}\n{done.stdout}"
