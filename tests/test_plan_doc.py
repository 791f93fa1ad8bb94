"""docs/PLAN.md shows what the planner makes.  ``--update-pinned`` writes its blocks anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from concatc.compiler import Compilation, Options
from concatc.inspect.memory import plan_report
from concatc.inspect.memory_text import overview, picture, remark_lines
from concatc.ir.printer import print_module
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of
from concatc.passes.check_plan import check_plan

PAGE = Path(__file__).parents[1] / "docs" / "PLAN.md"
SOURCE = re.compile(r"```cnet ?([a-z]*)\n(.*?)```\n", re.DOTALL)
BLOCK = re.compile(r"(```(?:mlir|text) ([a-z]+)\n)(.*?)(```\n)", re.DOTALL)
SHOWN_LAUNCHES = 3


def test_page(pinned_file: Callable[[Path, str], None]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    sources = {match[1]: match[2] for match in SOURCE.finditer(page)}
    made = {
        "plan": _head(_plan(sources[""])),
        "remarks": "".join(f"{line}\n" for line in remark_lines(tuple(_plan(sources["copies"]).remarks))),
        "report": _report(_plan(sources[""])),
        "check": _broken(sources[""]),
    }
    assert [match[2] for match in BLOCK.finditer(page)] == list(made)
    fresh = BLOCK.sub(lambda m: m[1] + made[m[2]] + m[4], page)
    pinned_file(PAGE, fresh)


def _compilation(source: str) -> Compilation:
    return Compilation(source, "net.cnet" if "tiny" not in source else "tiny.cnet", Options())


def _plan(source: str) -> Plan:
    phase = "train" if "loss" in source else "infer"
    return _compilation(source).phase(phase).plan


def _head(plan: Plan) -> str:
    """The text from ``@step`` to the first launches."""
    lines = print_module(module_of(plan)).splitlines()
    start = next(k for k, line in enumerate(lines) if "@step" in line)
    end = next(k for k, line in enumerate(lines) if f"// #{SHOWN_LAUNCHES}" in line)
    return "".join(f"{line.removeprefix('  ')}\n" for line in [*lines[start:end], "    .."])


def _report(plan: Plan) -> str:
    report = plan_report(plan)
    return "".join(f"{line}\n" for line in [*overview("a step needs", report), *picture(report)])


def _broken(source: str) -> str:
    """What the checker says when a launch of ``relu_grad`` is left out."""
    phase = _compilation(source).phase("train")
    plan = phase.plan
    k = next(k for k, launch in enumerate(plan.launches) if "relu_grad" in launch.kernel)
    broken = replace(plan, launches=[*plan.launches[:k], *plan.launches[k + 1 :]])
    return "".join(f"{error.render()}\n" for error in check_plan(broken, phase.kernels.main))
