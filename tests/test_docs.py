"""The documentation is run: Python blocks with the output below them, and commands with theirs.

Outputs are equal but for times (`1.9 s`), which are those of another machine, and other decimal numbers, which may
differ by one in their last digit: sums are rounded in another order where vectors are wider.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A decimal number, and whether it is a time.
DECIMAL = re.compile(r"(\d+\.\d+)(?=( m?s\b)?)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in BLOCK.finditer(text)]


def matches(expected: str, actual: str) -> bool:
    lines, found = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (expected, actual))
    return len(lines) == len(found) and all(map(line_matches, lines, found))


def line_matches(expected: str, actual: str) -> bool:
    """Equal but for decimal numbers, which may differ as :func:`number_matches` says."""
    if DECIMAL.sub("#", expected) != DECIMAL.sub("#", actual):
        return False
    return all(map(number_matches, DECIMAL.findall(expected), DECIMAL.findall(actual)))


def number_matches(expected: tuple[str, str], actual: tuple[str, str]) -> bool:
    """Any time, since machines and loads differ; any other number within one of the last digit that is written."""
    (wanted, unit), (found, _) = expected, actual
    a, b = float(wanted), float(found)
    if unit:
        return True
    digits = len(wanted.partition(".")[2])
    return len(found.partition(".")[2]) == digits and abs(a - b) < 1.5 * 10**-digits


def check(where: str, expected: str, actual: str) -> None:
    assert matches(expected, actual), f"{where}: expected\n{expected}\nbut got\n{actual}"


def run_python(blocks: list[Block], path: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python":
            continue
        out = io.StringIO()
        # The blank lines let tracebacks show the line of the document.
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
        if after is not None and after.language == "output":
            check(f"{path.name}:{after.line}", after.text, out.getvalue())


def console_steps(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def run_console(blocks: list[Block], path: Path, directory: Path) -> None:
    # Commands see the examples under their usual paths and write elsewhere.
    (directory / "examples").symlink_to(ROOT / "examples")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    for block in blocks:
        if block.language != "console":
            continue
        for command, expected in console_steps(block.text):
            words = shlex.split(command)
            program = {"concatc": ["-m", "concatc"], "python": []}[words[0]]
            done = subprocess.run(
                [sys.executable, *program, *words[1:]],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{path.name}:{block.line}: {command}\n{done.stderr}"
            check(f"{path.name}:{block.line}: {command}", expected, done.stdout)


@pytest.mark.parametrize("name", ["README.md"])
def test_python_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run_python(blocks(ROOT / name), ROOT / name)


@pytest.mark.parametrize("name", ["README.md"])
def test_console_blocks(name: str, tmp_path: Path) -> None:
    run_console(blocks(ROOT / name), ROOT / name, tmp_path)


def test_the_net_of_the_tour_is_the_example() -> None:
    (net,) = [b.text for b in blocks(ROOT / "README.md") if b.language == "cnet"]
    assert net in (ROOT / "examples" / "thread.cnet").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    broken = [link for link in links if not (path.parent / link).exists()]
    assert not broken


def test_matching() -> None:
    assert matches("a 1.5 s\n", "a 14.0 s") and not matches("a 1.5 s", "b 1.5 s")
    assert matches("in 90 ms, 1.5 ms", "in 90 ms, 4.0 ms") and not matches("a 1.5 s", "a 1.5 ms")
    assert matches("loss 0.9862  accuracy 90.0 %", "loss 0.9863  accuracy 90.1 %")
    assert not matches("loss 0.9862", "loss 0.9864") and not matches("accuracy 90.0 %", "accuracy 31.0 %")
    assert not matches("90.0 samples", "31.0 samples") and not matches("0.90", "0.9")
    assert not matches("a 3 s", "a 4 s") and not matches("a", "a\nb")
    assert matches("a  \nb\n", "a\nb")
