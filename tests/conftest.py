"""Options and fixtures of all tests."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-pinned",
        action="store_true",
        help="write what the compiler says now into the pinned texts, and show what changed",
    )


@pytest.fixture
def pinned(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str, str, str], bool]:
    """``pinned(name, expected, actual)``: compare two texts and show the difference.

    Returns whether the caller is to write ``actual`` where ``expected`` stood, which the flag ``--update-pinned`` asks.
    """
    update = bool(request.config.getoption("--update-pinned"))

    def compare(name: str, expected: str, actual: str) -> bool:
        if expected == actual:
            return False
        lines = difflib.unified_diff(expected.splitlines(), actual.splitlines(), f"{name} (pinned)", name, lineterm="")
        difference = "\n".join(lines)
        if not update:
            pytest.fail(f"{difference}\n(--update-pinned writes the new text)", pytrace=False)
        with capsys.disabled():
            print(f"\n{difference}")
        return True

    return compare


@pytest.fixture
def pinned_file(pinned: Callable[[str, str, str], bool]) -> Callable[[Path, str], None]:
    """``pinned_file(path, actual)``: the file at ``path`` holds ``actual``."""

    def compare(path: Path, actual: str) -> None:
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        if pinned(path.name, expected, actual):
            path.write_text(actual, encoding="utf-8")

    return compare
