"""Options and fixtures of all tests."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from concatc import lowering
from concatc.ir.core import FuncOp, Module
from concatc.loops.plan import Plan
from concatc.loops.scaled_plan import ScaledPlan
from concatc.passes.check_plan import check_plan
from concatc.passes.plan_memory import PlanMemory

# Up to here the owner of every byte of a plan is checked in all tests, else its form; larger ones cost time.
CHECKED_BYTES = 1 << 15


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-pinned",
        action="store_true",
        help="write what the compiler says now into the pinned texts, and show what changed",
    )


@pytest.fixture(scope="session", autouse=True)
def checked_plans() -> Iterator[None]:
    """Every plan that a test has made is checked: by the planner, with an optimizer's update, at other batch sizes."""

    def check(plan: Plan, net: FuncOp | None = None) -> Plan:
        problems = check_plan(plan, net, CHECKED_BYTES) if plan.values else []
        assert not problems, "\n".join(problem.render() for problem in problems)
        return plan

    # A net that the cache holds has no plan to check, and passes that a test changes are no part of its key.
    os.environ["CONCATC_CACHE"] = "objects"
    # Tests run in a process a core already, and compile many small nets: starting workers takes longer than these.
    os.environ.setdefault("CONCATC_WORKERS", "0")
    make, merge, rescale = PlanMemory.plan, lowering.merge_plans, ScaledPlan.at
    with pytest.MonkeyPatch.context() as patch:

        def planned(self: PlanMemory, module: Module) -> Plan:
            return check(make(self, module), module.main)

        patch.setattr(PlanMemory, "plan", planned)
        patch.setattr(lowering, "merge_plans", lambda *plans: check(merge(*plans)))
        patch.setattr(ScaledPlan, "at", lambda *given: check(rescale(*given)))
        yield


@pytest.fixture
def sizes_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Object code of the tests of batch sizes, compiled once."""
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "batch-sizes"))


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
