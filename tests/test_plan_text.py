"""A plan through text and back, and what is wrong with a bad one."""

from __future__ import annotations

from typing import get_args

import pytest

from concatc.diagnostics import ConcatcError, Loc
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, PLAIN, READING, Style, print_module
from concatc.loops.plan import Plan, Remark, RemarkKind
from concatc.loops.plan_text import module_of, plan_of
from concatc.passes.check_plan import check_plan
from tests.nets.section5 import NETS
from tests.planning import compare, to_plan


@pytest.mark.parametrize("name", ["two_batches", "tree_of_concats", "kept_blobs", "dense_block", "inference_only"])
@pytest.mark.parametrize("style", [READING, PLAIN, MACHINE], ids=["reading", "plain", "machine"])
def test_text_is_a_fixed_point(name: str, style: Style) -> None:
    _, plan = to_plan(NETS[name]())
    text = print_module(module_of(plan), style)
    assert print_module(module_of(plan_of(parse_module(text))), style) == text


def test_nothing_is_lost() -> None:
    net, plan = to_plan(NETS["shared_cotangent"]())
    plan.remarks += [Remark(f"a {kind}", 8, Loc("a.cnet", 3, 1), kind) for kind in get_args(RemarkKind)]
    again = plan_of(parse_module(print_module(module_of(plan), MACHINE)))
    assert again.name == plan.name
    assert again.bases == plan.bases
    assert again.launches == plan.launches
    assert again.values == plan.values
    assert again.remarks == plan.remarks
    assert check_plan(again, net) == []
    compare(net, again)


def test_windows_are_read_by_name() -> None:
    """``%hb`` is rows of ``%h``, and each line says when its bytes are in use."""
    _, plan = to_plan(NETS["two_batches"]())
    text = print_module(module_of(plan))
    (line,) = [rest for head, rest in _windows(text) if head == "%hb"]
    assert line.endswith("// 48 B  launches 1..9  rows 3..5 of %h")
    assert max(map(len, text.splitlines())) <= 110


def test_edited_text_is_another_plan() -> None:
    net, plan = to_plan(NETS["two_batches"]())
    text = print_module(module_of(plan))
    edited = text.replace("{offset = 72 : i64", "{offset = 76 : i64")
    assert edited != text
    errors = check_plan(plan_of(parse_module(edited)), net)
    assert errors, "a window that moved by one element is no longer a part of %h"


BAD = {
    "no step": (lambda t: t.replace("@step", "@other"), "a plan has a function @step; module @two_batches has none"),
    "no kernel": (
        lambda t: t.replace("kernel = @k7_linear_weight_grad,", "kernel = @k7_linear_weight_gra,"),
        "no function @k7_linear_weight_gra in the plan",
    ),
    "phase": (lambda t: t.replace('phase = "backward"', 'phase = "backwards"', 1), "`backwards` is no phase"),
    "add": (
        lambda t: t.replace("add = array<i1: false>", "add = array<i1: false, false>", 1),
        "`add` needs one i1 a result",
    ),
    "types": (
        lambda t: t.replace("reads = 3 : i64", "reads = 2 : i64", 1),
        "the windows do not fit @k0_linear_bias_relu",
    ),
    "base": (lambda t: t.replace('{cnet.base = "arena"}', '{cnet.base = "heap"}'), "`heap` is no base"),
    "attribute": (
        lambda t: t.replace("{offset = 72 : i64", "{start = 72 : i64"),
        "cnet.window needs the attribute `offset`",
    ),
    "operation": (lambda t: t.replace('"cnet.window"', '"cnet.windo"', 1), "`cnet.windo` does not belong in a plan"),
    "kind of remark": (lambda t: t.replace('kind = "copy"', 'kind = "copied"'), "`copied` is no kind of remark"),
    "twice": (lambda t: t.replace('holds = ["hb"]', 'holds = ["ha"]'), "ha has two places"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_plans_are_diagnosed(name: str) -> None:
    edit, message = BAD[name]
    _, plan = to_plan(NETS["two_batches"]())
    plan.remarks.append(Remark("something is copied", 4))
    text = print_module(module_of(plan), PLAIN).replace("add = [false]", "add = array<i1: false>")
    edited = edit(text)
    assert edited != text
    with pytest.raises(ConcatcError) as error:
        plan_of(parse_module(edited, "bad.mlir"))
    assert message in str(error.value)


def test_all_errors_are_told_at_once() -> None:
    _, plan = to_plan(NETS["two_batches"]())
    text = print_module(module_of(plan), PLAIN)
    edited = text.replace("kernel = @k7_linear_weight_grad,", "kernel = @k7_linear_weight_gra,").replace(
        "kernel = @k6_sum,", "kernel = @k6_su,"
    )
    with pytest.raises(ConcatcError) as error:
        plan_of(parse_module(edited))
    assert len(error.value.diagnostics) == 2


def test_an_empty_plan() -> None:
    text = print_module(module_of(Plan("empty")), PLAIN)
    assert plan_of(parse_module(text)).launches == []


def _windows(text: str) -> list[tuple[str, str]]:
    """Name and text of each window, over the lines that it is wrapped to."""
    statements: list[str] = []
    for line in text.splitlines():
        if line.startswith("        ") and statements:
            statements[-1] += " " + line.strip()
            continue
        statements.append(line.strip())
    pairs = [s.partition(" = ") for s in statements if '"cnet.window"' in s]
    return [(head, rest) for head, _, rest in pairs]
