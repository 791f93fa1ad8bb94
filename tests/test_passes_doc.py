"""docs/PASSES.md: each pass makes what the page says.  ``--update-pinned`` writes it anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from concatc.cli.main import exit_code
from concatc.ir.parser import parse_module
from concatc.ir.printer import Style, print_module
from concatc.ir.verifier import verify
from concatc.passes.registry import load_all_passes, parse_pipeline

PAGE = Path(__file__).parents[1] / "docs" / "PASSES.md"
SECTION = re.compile(r"^## ([a-z,-]+)\n(.*?)```mlir\n(.*?)```\nbecomes\n```mlir\n(.*?)```\n", re.MULTILINE | re.DOTALL)
SECTIONS = {match[1]: match for match in SECTION.finditer(PAGE.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("pipeline", SECTIONS)
def test_page(pipeline: str, pinned: Callable[[str, str, str], bool]) -> None:
    expected = SECTIONS[pipeline][4]
    found = run(pipeline, SECTIONS[pipeline][3])
    if pinned(f"{PAGE.name}, {pipeline}", expected, found):
        page = PAGE.read_text(encoding="utf-8")
        head = SECTIONS[pipeline][0].removesuffix(expected + "```\n")
        PAGE.write_text(page.replace(head + expected, head + found), encoding="utf-8")


def test_every_pass_has_a_section() -> None:
    headings = re.findall(r"^## ([a-z,-]+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for heading in headings for name in heading.split(",")]
    assert sorted(set(load_all_passes()) - set(named)) == []


@pytest.mark.parametrize("pipeline", SECTIONS)
def test_examples_can_be_pasted(pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``concatc opt`` takes them as they stand."""
    (tmp_path / "in.mlir").write_text(SECTIONS[pipeline][3], encoding="utf-8")
    assert exit_code(["opt", str(tmp_path / "in.mlir"), "--passes", pipeline, "--plain"]) == 0
    assert capsys.readouterr().out.startswith("module {\n  func.func @net(")


def run(pipeline: str, text: str) -> str:
    """The functions after a pipeline, less the module around them."""
    module = parse_module(text)
    verify(module)
    for pass_ in parse_pipeline(pipeline):
        pass_.run(module)
    verify(module)
    lines = print_module(module, Style(width=112)).splitlines()[1:-1]
    return "".join(line.removeprefix("  ") + "\n" for line in lines)
