"""stats-over-concat: the statistics of a channel once, in one piece, and values that stay."""

from __future__ import annotations

import numpy as np
import pytest

from concatc.frontend.cnet import load
from concatc.ir.clone import clone_module
from concatc.ir.core import Module, Operation
from concatc.op import is_op
from concatc.passes.check_plan import check_plan
from concatc.passes.cse import Cse
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.fuse import Fuse
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.order_kernels import OrderKernels
from concatc.passes.plan_memory import PlanMemory
from concatc.passes.stats_over_concat import StatsOverConcat
from concatc.passes.verify import verify
from concatc.targets.reference.interpreter import run_function
from tests.ir_text import dedent, plain, short_text
from tests.nets.section5 import NETS
from tests.short_ir import function
from tests.small_nets import NetBuilder, check_gradients, data_for, joint, run64
from tests.test_fuse import dense_net

AB = "%a: tensor<2x3x4xf32>, %b: tensor<2x1x4xf32>"


def check(args: str, before: str, after: str) -> None:
    module = function(args, before)
    verify(module)
    expected = run64_of(module)
    StatsOverConcat().run(module)
    verify(module)
    assert short_text(module.main.body).replace("'", "") == dedent(after)
    for old, new in zip(expected, run64_of(module), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)
    again = plain(module)
    StatsOverConcat().run(module)
    assert plain(module) == again


def run64_of(module: Module) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return run_function(module.main, [rng.normal(size=a.shape) for a in module.main.args], float64=True)


def test_statistics_of_an_input_are_those_of_the_concat() -> None:
    check(
        AB,
        """
        %m, %v = channel_stats(%a)
        %h = concat(%a, %b) {axis=1}
        %hm, %hv = channel_stats(%h)
        return(%m, %v, %hm, %hv)
        """,
        """
        %m, %v = channel_stats(%a)
        %h = concat(%a, %b) {axis=1}
        %b.mean, %b.var = channel_stats(%b)
        %h.mean = concat(%m, %b.mean) {axis=0}
        %h.var = concat(%v, %b.var) {axis=0}
        return(%m, %v, %h.mean, %h.var)
        """,
    )


def test_nested_concats_give_nested_statistics() -> None:
    check(
        AB + ", %c: tensor<2x2x4xf32>",
        """
        %h = concat(%a, %b) {axis=1}
        %hm, %hv = channel_stats(%h)
        %g = concat(%h, %c) {axis=1}
        %gm, %gv = channel_stats(%g)
        return(%hm, %hv, %gm, %gv)
        """,
        """
        %h = concat(%a, %b) {axis=1}
        %hm, %hv = channel_stats(%h)
        %g = concat(%h, %c) {axis=1}
        %c.mean, %c.var = channel_stats(%c)
        %g.mean = concat(%hm, %c.mean) {axis=0}
        %g.var = concat(%hv, %c.var) {axis=0}
        return(%hm, %hv, %g.mean, %g.var)
        """,
    )


def test_an_input_of_two_concats_that_nothing_normalises_alone() -> None:
    check(
        AB + ", %c: tensor<2x2x4xf32>",
        """
        %h = concat(%a, %b) {axis=1}
        %hm, %hv = channel_stats(%h)
        %g = concat(%a, %c) {axis=1}
        %gm, %gv = channel_stats(%g)
        %am, %av = channel_stats(%a)
        return(%hm, %gm, %gv, %av)
        """,
        """
        %h = concat(%a, %b) {axis=1}
        %a.mean, %a.var = channel_stats(%a)
        %b.mean, %b.var = channel_stats(%b)
        %h.mean = concat(%a.mean, %b.mean) {axis=0}
        %h.var = concat(%a.var, %b.var) {axis=0}
        %g = concat(%a, %c) {axis=1}
        %c.mean, %c.var = channel_stats(%c)
        %g.mean = concat(%a.mean, %c.mean) {axis=0}
        %g.var = concat(%a.var, %c.var) {axis=0}
        return(%h.mean, %g.mean, %g.var, %a.var)
        """,
    )


def test_statistics_of_a_window_are_those_of_the_whole() -> None:
    """Whichever is asked for first."""
    for first, second in ((0, 1), (1, 0)):
        lines = ["%pm, %pv = channel_stats(%p)", "%xm, %xv = channel_stats(%x)"]
        check(
            "%x: tensor<2x3x4xf32>",
            f"""
            %p, %q = slice(%x) {{axis=1, sizes=array<i64: 1, 2>}}
            {lines[first]}
            {lines[second]}
            return(%pm, %pv, %xm, %xv)
            """,
            """
            %p, %q = slice(%x) {axis=1, sizes=[1, 2]}
            MEAN, VAR = channel_stats(%x)
            %p.mean, %q.mean = slice(MEAN) {axis=0, sizes=[1, 2]}
            %p.var, %q.var = slice(VAR) {axis=0, sizes=[1, 2]}
            return(%p.mean, %p.var, MEAN, VAR)
            """.replace("MEAN", "%xm" if first else "%x.mean").replace("VAR", "%xv" if first else "%x.var"),
        )


def test_a_window_of_a_part_of_a_concat() -> None:
    """%x's channels are asked for by the window and by the concat: once."""
    check(
        "%x: tensor<2x3x4xf32>, %b: tensor<2x1x4xf32>",
        """
        %p, %q = slice(%x) {axis=1, sizes=array<i64: 1, 2>}
        %h = concat(%x, %b) {axis=1}
        %hm, %hv = channel_stats(%h)
        %qm, %qv = channel_stats(%q)
        return(%qm, %qv, %hm, %hv)
        """,
        """
        %p, %q = slice(%x) {axis=1, sizes=[1, 2]}
        %h = concat(%x, %b) {axis=1}
        %x.mean, %x.var = channel_stats(%x)
        %b.mean, %b.var = channel_stats(%b)
        %h.mean = concat(%x.mean, %b.mean) {axis=0}
        %h.var = concat(%x.var, %b.var) {axis=0}
        %p.mean, %q.mean = slice(%x.mean) {axis=0, sizes=[1, 2]}
        %p.var, %q.var = slice(%x.var) {axis=0, sizes=[1, 2]}
        return(%q.mean, %q.var, %h.mean, %h.var)
        """,
    )


SPLIT_NET = """net t(n = 3) {
    input x: f32[n, 2, 4, 4]
    input label: i32[n]
    h = x |> conv(5, kernel=3, pad=1)
    c, d = slice(h, sizes=[2, 3])
    p = c |> batch_norm |> relu |> conv(4, kernel=1)
    q = concat(h, d) |> batch_norm |> relu |> conv(4, kernel=1)
    r = h |> batch_norm(eps=1e-3) |> relu |> conv(4, kernel=1)
    loss softmax_loss(p + q + r |> global_avg_pool |> flatten |> linear(3), label)
}
""".replace("p + q + r |>", "(p + q + r) |>")


@pytest.mark.parametrize(("keep", "channels"), [((), 5), (("c",), 7), (("h",), 5)])
def test_windows_and_their_gradients(keep: tuple[str, ...], channels: int) -> None:
    """Every channel once, but those of a kept window, whose own gradient the user reads; values and gradients stay."""
    graph, _ = load(SPLIT_NET, "t.cnet", keep=keep)
    changed = clone_module(graph)
    StatsOverConcat().run(changed)
    assert stats_channels(graph) == 15 and stats_channels(changed) == channels
    assert ("cnet.joined" in changed.main.attributes) == (keep == ("c",))
    expected, found = (run64(joint(m).main, data_for(m.main)) for m in (graph, changed))
    assert list(expected) == list(found)
    for key, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-12 * scale, err_msg=str(key))
    verify(changed, "joint")
    check_gradients(changed, samples=3)


def test_a_kept_concat_says_that_its_statistics_are_its_own() -> None:
    source = SPLIT_NET.replace("q = concat(h, d) |>", "k = concat(h, x)\n    q = k |>")
    for keep, said in (((), False), (("k",), True)):
        graph, _ = load(source, "t.cnet", keep=keep)
        StatsOverConcat().run(graph)
        lines = graph.main.attributes.get("cnet.joined", ())
        expected = ("statistics of %k are computed apart from others of its channels: it is kept",) if said else ()
        assert lines == expected


@pytest.mark.parametrize(
    "body",
    [
        # Nothing else asks for the statistics of %a or %b.
        "%h = concat(%a, %b) {axis=1}\n%m, %v = channel_stats(%h)\nreturn(%m, %v)",
        # A channel of a batch concat has elements of both inputs.
        "%m, %v = channel_stats(%a)\n%h = concat(%a, %a) {axis=0}\n%n, %w = channel_stats(%h)\nreturn(%m, %v, %n, %w)",
    ],
)
def test_nothing_to_gain_or_not_allowed(body: str) -> None:
    module = function(AB, body)
    before = plain(module)
    StatsOverConcat().run(module)
    assert plain(module) == before


def test_splits_hide_nothing() -> None:
    module = dense_net().module()
    InsertSplits().run(module)
    StatsOverConcat().run(module)
    verify(module, "split")
    assert read_channels(module) == stats_channels(module)


def stats_ops(module: Module) -> list[Operation]:
    return [op for op in module.main.ops if is_op(op, "channel_stats")]


def stats_channels(module: Module) -> int:
    """Channels whose statistics are computed."""
    return sum(op.operands[0].shape[1] for op in stats_ops(module))


def read_channels(module: Module) -> int:
    """Channels that a convolution makes and something normalises."""
    convs = [op for op in module.main.ops if is_op(op, "conv")]
    return sum(op.result.shape[1] for op in convs)


def test_a_dense_net_and_its_gradients() -> None:
    """Every channel once, forward and backward; values in f64 to 1e-12; no copies in the plan."""
    plain_net, changed = dense_net(depth=3).module(), dense_net(depth=3).module()
    StatsOverConcat().run(changed)
    channels = stats_channels(changed)
    assert channels < stats_channels(plain_net) / 2
    joint(plain_net), joint(changed)
    verify(changed, "joint")
    grads = [op for op in changed.main.ops if is_op(op, "channel_stats_grad")]
    assert sum(op.result.shape[1] for op in grads) == channels
    data = data_for(plain_net.main)
    expected, found = run64(plain_net.main, data), run64(changed.main, data)
    for key, value in expected.items():
        np.testing.assert_allclose(
            found[key], value, rtol=0, atol=1e-12 * max(1.0, float(np.abs(value).max(initial=0)))
        )
    Cse().run(changed)
    for step in (Fuse(), OrderKernels()):
        step.run(changed)
    plan = PlanMemory().plan(changed)
    assert check_plan(plan, changed.main) == []
    assert not any("concat copies" in remark.message for remark in plan.remarks)


@pytest.mark.parametrize("name", NETS)
def test_hard_nets(name: str) -> None:
    module = NETS[name]()
    changed = clone_module(module)
    StatsOverConcat().run(changed)
    verify(changed)
    for m in (module, changed):
        InsertSplits().run(m)
        if m.main.returned("total"):
            DeriveBackward().run(m)
    data = data_for(module.main)
    expected, found = run64(module.main, data), run64(changed.main, data)
    for key, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-12 * scale)


def test_nets_without_batch_norm_stay_as_they_are() -> None:
    net = NetBuilder()
    x = net.input("x", 2, 3, 4, 4)
    net.output("y", net.b.concat(net.b.relu(x), x, axis=1))
    module = net.module()
    before = plain(module)
    StatsOverConcat().run(module)
    assert plain(module) == before


def test_the_backward_half_is_left_alone() -> None:
    module = joint(dense_net().module())
    before = plain(module)
    StatsOverConcat().run(module)
    assert plain(module) == before
