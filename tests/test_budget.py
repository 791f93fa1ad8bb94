"""Memory budgets: what is chosen, what is refused, and that values stay as they are."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

import concatc
from concatc.compiler import Options, compile_net
from concatc.diagnostics import UsageError
from concatc.ir.clone import clone_module
from concatc.ir.comments import bytes_text
from concatc.ir.core import Module
from concatc.loops.bases import argument_key
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of
from concatc.lowering import Lowering
from concatc.passes.check_plan import check_plan
from concatc.passes.choose_recompute import ChooseRecompute
from concatc.passes.dumps import dump_text
from concatc.passes.fit_budget import Candidate, _candidates, fit_budget, planned_bytes
from concatc.passes.plan_memory import PlanMemory
from concatc.runtime.source import Phase
from concatc.sizes import exact_text, parse_bytes
from concatc.targets.reference.interpreter import argument_name
from concatc.targets.reference.plan_interpreter import run_plan
from tests.language_nets import ROOT
from tests.nets.checks import distance, random_data
from tests.nets.random_nets import seeded_recipe
from tests.small_nets import joint

EXAMPLES = {
    "densenet40": {"n": 2, "depth": 3, "size": 8},
    "inception": {"n": 2, "size": 8, "width": 4},
    "residual": {"n": 2, "size": 8, "width": 4, "depth": 1},
    "siamese": {"n": 4},
    "two_task": {"n": 8, "width": 32},
    "two_tower": {"n": 16, "users": 20, "items": 20},
    "unet": {"n": 1, "size": 16, "width": 4, "levels": 3},
}


# -- amounts -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (65536, 65536),
        ("65536", 65536),
        ("64MiB", 64 * 1024**2),
        (" 64 mib ", 64 * 1024**2),
        ("64MB", 64_000_000),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("0.1 KB", 100),
        ("12b", 12),
        ("2TiB", 2 * 1024**4),
    ],
)
def test_amounts(amount: int | str, expected: int) -> None:
    assert parse_bytes(amount, "max_memory") == expected


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ("64 elephants", "max_memory: `64 elephants` is no amount of memory"),
        ("MiB", "max_memory: `MiB` is no amount of memory"),
        ("", "max_memory: `` is no amount of memory"),
        ("-3MiB", "`-3MiB` is no amount of memory"),
        ("1e6", "`1e6` is no amount of memory"),
        ("64M", "MiB counts by 1024, MB by 1000: write 64MiB"),
        (-1, "`-1` is no amount"),
        (1.5, "`1.5` is no amount"),
        (True, "`True` is no amount"),
        (0, "`0` is less than a byte"),
        ("0.5b", "`0.5b` is less than a byte"),
    ],
)
def test_wrong_amounts(amount: int | str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bytes(amount, "max_memory")
    assert message in str(caught.value)


@pytest.mark.parametrize("count", [1, 40, 9999, 10240, 10241, 10 * 1024**2 - 1, 10 * 1024**2, 97 * 1024**2 + 1])
def test_what_a_message_names_can_be_asked_for(count: int) -> None:
    assert count <= parse_bytes(exact_text(count), "max_memory") < count + max(1, count // 10 + 1)


# -- the choice --------------------------------------------------------------------------------------------------------
def planned(kernels: Module) -> Plan:
    return PlanMemory().plan(kernels)


def candidates_of(graph: Module, recompute: ChooseRecompute) -> list[Candidate]:
    return list(_candidates(graph, recompute, planned))


def check_rules(graph: Module, recompute: ChooseRecompute) -> None:
    """At each budget where the choice could change, and one byte less."""
    found = candidates_of(graph, recompute)
    default = found[0]
    assert default.recompute == recompute
    # Kernels of the default are ordered by the estimate, so later orders of the same recomputation may need less.
    assert [c.work for c in found] == sorted(c.work for c in found)
    needs = sorted({c.need_bytes for c in found})
    last = 0
    last_work = last_least = None
    for limit in sorted({*needs, *(n - 1 for n in needs), needs[-1] * 2}):
        fitting = [c for c in found if c.need_bytes <= limit]
        search = first_that_fits(found, limit)
        if not fitting:
            assert search is None and last_least is None
            continue
        assert search is not None
        assert search.need_bytes <= limit
        # What can be met with less can be met with more, and the least peak within a budget never grows with it.
        least = min(c.need_bytes for c in fitting)
        assert last_least is None or least <= last_least
        last_least = least
        assert search.work == min(c.work for c in fitting)
        # A larger budget is spent on computing less again.
        assert search.need_bytes >= last
        assert last_work is None or search.work <= last_work
        if limit >= default.need_bytes:
            assert search is default
        assert search.need_bytes <= default.need_bytes
        last, last_work = search.need_bytes, search.work


def first_that_fits(found: list[Candidate], limit: int) -> Candidate | None:
    return next((c for c in found if c.need_bytes <= limit), None)


def simplified(lowering: Lowering) -> Module:
    """A net before it is chosen what to recompute."""
    graph = clone_module(lowering.level("joint"))
    for step in lowering._passes["optimized"]:
        if not isinstance(step, ChooseRecompute):
            step.run(graph)
    return graph


@pytest.mark.parametrize("name", EXAMPLES)
def test_rules_on_examples(name: str) -> None:
    path = ROOT / "examples" / "nets" / f"{name}.cnet"
    net = compile_net(path.read_text(), path.name, Options(dims=EXAMPLES[name]))
    graph = simplified(net.phase("train"))
    check_rules(graph, ChooseRecompute("auto"))
    found = candidates_of(graph, ChooseRecompute("auto"))
    for limit in (found[0].need_bytes, found[0].need_bytes - 1, min(c.need_bytes for c in found) - 1):
        search = fit_budget(graph, ChooseRecompute("auto"), limit, planned)
        expected = first_that_fits(found, limit)
        assert (search.chosen is None) == (expected is None)
        if search.chosen is not None and expected is not None:
            assert dump_text(module_of(search.chosen.plan)) == dump_text(module_of(expected.plan))
        assert search.least.need_bytes == (expected or min(found, key=lambda c: c.need_bytes)).need_bytes


@pytest.mark.parametrize("seed", range(25))
def test_rules_on_random_nets(seed: int) -> None:
    """The rules, and each plan is right and computes what the plan without a budget does."""
    from concatc.frontend.cnet import load

    graph, _ = load(seeded_recipe(seed, 16).source(), "random.cnet")
    module = joint(graph)
    start = ChooseRecompute("none" if seed % 2 else "auto")
    check_rules(module, start)
    data = random_data(module.main, seed)
    values = {argument_key(a): data[argument_name(a)] for a in module.main.args}
    found = candidates_of(module, start)
    expected = run_plan(found[0].plan, values).results()
    for candidate in found[1:]:
        assert check_plan(candidate.plan) == []
        results = run_plan(candidate.plan, values).results()
        assert list(results) == list(expected)
        assert all(distance(results[key], expected[key]) <= 1e-4 for key in expected)


# -- from the outside --------------------------------------------------------------------------------------------------
NET = """net chain(n = 8) {
    input x: f32[n, 64]
    input label: i32[n]
    h = x
    for k in 0..6 { h = h |> linear(64) |> tanh }
    loss softmax_loss(linear(h, 3), label)
}
"""
compiled = partial(concatc.compile_source, NET, filename="chain.cnet")


def need(net: concatc.CompiledModule, phase: Phase = "train") -> int:
    return planned_bytes(net._source.phase(phase).plan)


def test_a_budget_is_kept_and_noted() -> None:
    free = compiled()
    tight = compiled(max_memory=need(free) - 1)
    assert need(tight) < need(free)
    text = tight.ir("kernels")
    noted = re.search(r"cnet.budget = \{limit_bytes = (\d+).*?default_bytes = (\d+).*?need_bytes = (\d+)", text, re.S)
    assert noted is not None
    assert [int(n) for n in noted.groups()] == [need(free) - 1, need(free), need(tight)]
    assert compiled(max_memory=need(free) - 1).ir("kernels") == text
    assert "recomputes" in text


def test_a_large_budget_changes_nothing() -> None:
    free = compiled()
    for limit in (need(free), 1 << 30):
        within = compiled(max_memory=limit)
        assert without_budget(within.ir("plan")) == without_budget(free.ir("plan"))
        said = f"  budget: {bytes_text(limit)}; the plan as it is needs {bytes_text(need(free))}"
        assert said in str(within.memory).splitlines()
        assert without_budget(str(within.memory)) == str(free.memory)


def without_budget(text: str) -> str:
    """A report or a plan without the note of a budget."""
    noted = re.sub(r",\s+cnet\.budget = \{[^}]*\}", "", text)
    return "\n".join(line for line in noted.splitlines() if "budget: " not in line)


def test_what_cannot_be_kept() -> None:
    with pytest.raises(UsageError) as caught:
        compiled(max_memory="1KiB")
    (found,) = caught.value.diagnostics
    least = found.help.split()[3]
    assert need(compiled(max_memory=least)) <= parse_bytes(least, "max_memory")
    with pytest.raises(UsageError):
        compiled(max_memory=need(compiled(max_memory=least)) - 1)
    assert found.notes[0] == f"the plan that computes least again needs {need(compiled()) / 1024:.1f} KiB"
    assert str(found.loc) == "chain.cnet:1:5"
    assert "are inputs 2.1 KiB, parameters 98.3 KiB, gradients 98.3 KiB, outputs 128 B, arena" in found.notes[1]
    assert any("chain.cnet:5:" in note for note in found.notes[2:])


def test_what_is_needed_and_what_is_given_never_read_alike() -> None:
    """One byte less than what can be met: an error whose two amounts differ."""
    with pytest.raises(UsageError) as caught:
        compiled(max_memory="1KiB")
    low, high = 1024, parse_bytes(caught.value.diagnostics[0].help.split()[3], "max_memory")
    while low < high:
        middle = (low + high) // 2
        try:
            high = need(compiled(max_memory=middle))
        except UsageError:
            low = middle + 1
    with pytest.raises(UsageError) as caught:
        compiled(max_memory=low - 1)
    message = caught.value.diagnostics[0].message
    assert message == f"net chain needs {low} bytes at least; the budget is {low - 1} bytes"


def test_the_report_says_what_a_budget_is_spent_on() -> None:
    free = compiled()
    tight = compiled(max_memory=need(free) - 1)
    said = next(line for line in str(tight.memory).splitlines() if "budget: " in line)
    amounts = [f"{n / 1024:.1f} KiB".replace(".0 ", " ") for n in (need(free) - 1, need(free), need(tight))]
    assert said.strip().startswith("budget: {}; without it {}, with it {}; recompute ".format(*amounts))


def test_inference_has_a_budget_too() -> None:
    wide = NET.replace(
        "    loss", "    if not train { output concat(h, h, h, h, h, h, h, h, axis=1) as wide }\n    loss"
    )
    x = np.zeros((8, 64), np.float32)
    net = concatc.compile_source(wide)
    needed = need(net), need(net, "infer")
    assert needed[0] < needed[1]
    tight = concatc.compile_source(wide, max_memory=needed[0])
    with pytest.raises(UsageError, match="net chain needs"):
        tight.eval(x=x)
    assert concatc.compile_source(wide, max_memory=needed[1]).eval(x=x)["wide"].shape == (8, 512)


def test_an_optimizer_counts() -> None:
    """Momentum takes as much as the parameters: the step is planned anew so that all fits."""
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(8, 64)).astype(np.float32), "label": np.zeros(8, np.int32)}
    free = compiled()
    free.init(1)
    free.forward(data)
    params = sum(p.nbytes for p in free.params.values())
    losses = {}
    for limit in (None, need(free) + params):
        net = compiled(max_memory=limit)
        net.init(1)
        optimizer = concatc.SGD(lr=0.1, momentum=0.9)
        losses[limit] = [net.train_step(data, optimizer=optimizer)["loss"] for _ in range(3)]
    np.testing.assert_allclose(losses[None], losses[need(free) + params], rtol=1e-5)
    with pytest.raises(UsageError, match="optimizer"):
        compiled(max_memory=need(free) + 64).train_step(data, optimizer=concatc.Adam())


def test_a_budget_is_refused_each_time() -> None:
    """Not the first time only: what was planned on the way is not run."""
    lowering = compile_net(NET, "t.cnet", Options(max_memory=64)).phase("train")
    for _ in range(3):
        with pytest.raises(UsageError, match="at least; the budget is 64 B"):
            _ = lowering.plan
    with pytest.raises(UsageError, match="at least"):
        lowering.level("kernels")
