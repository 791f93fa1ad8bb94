"""join-rows: one product over joined batches; text, values, gradients, plans, and where it must not happen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.compiler import Options, compile_net
from concatc.frontend.cnet import load
from concatc.inspect.memory import plan_report
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.op import is_op
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.fuse import Fuse
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.join_rows import JoinRows
from concatc.passes.split_loss_over_concat import MergeLossesOverConcat, SplitLossOverConcat
from concatc.passes.stats_over_concat import StatsOverConcat
from concatc.passes.verify import verify
from tests.ir_text import dedent, plain, short_text
from tests.short_ir import function
from tests.small_nets import check_gradients, data_for, run64
from tests.values import assert_same_values

ARGS = "%a: tensor<4x3xf32>, %b: tensor<2x3xf32>, %w: tensor<5x3xf32>, %v: tensor<5x3xf32>, %u: tensor<5x5xf32>"


def joined(body: str, args: str = ARGS, options: JoinRows | None = None) -> tuple[str, tuple[object, ...]]:
    """The operations after the pass, which keeps all values, and what it says."""
    step = options or JoinRows()
    changed = assert_same_values(function(args, dedent(body)), step.run, exact=False)
    verify(changed)
    before = plain(changed)
    step.run(changed)
    assert plain(changed) == before, "a second run changes nothing"
    lines = changed.main.attributes.get("cnet.joined", ())
    assert isinstance(lines, tuple)
    return short_text(changed.main.body), lines


def test_a_product_and_what_follows_it() -> None:
    text, lines = joined("""
        %y = linear(%a, %w)
        %z = linear(%b, %w)
        %r = relu(%y)
        %s = relu(%z)
        %c = concat(%r, %s) {axis=0}
        return(%c)
        """)
    assert text == dedent("""
        %a.joined = concat(%a, %b) {axis=0}
        %y.joined = linear(%a.joined, %w)
        %c = relu(%y.joined)
        return(%c)
        """)
    assert lines == ("linear of %a, %b, joined by concat %c, is one product over the joined rows",)


TOWERS = """
    %ya = linear(%a, %w)
    %yb = linear(%b, %w)
    %ra = tanh(%ya)
    %rb = tanh(%yb)
    %za = linear(%ra, %u)
    %zb = linear(%rb, %u)
    %c = concat(%za, %zb) {axis=0}
    return(%c)
    """


def test_whole_towers_move() -> None:
    text, _ = joined(TOWERS)
    assert text == dedent("""
        %a.joined = concat(%a, %b) {axis=0}
        %ya.joined = linear(%a.joined, %w)
        %ra.joined = tanh(%ya.joined)
        %c = linear(%ra.joined, %u)
        return(%c)
        """)


def test_a_tower_stops_below_what_differs() -> None:
    text, _ = joined(TOWERS.replace("%yb = linear(%b, %w)", "%yb = linear(%b, %v)"))
    assert text == dedent("""
        %ya = linear(%a, %w)
        %yb = linear(%b, %v)
        %ra = tanh(%ya)
        %rb = tanh(%yb)
        %ra.joined = concat(%ra, %rb) {axis=0}
        %c = linear(%ra.joined, %u)
        return(%c)
        """)


def test_windows_of_one_blob_are_the_blob() -> None:
    text, _ = joined("""
        %p, %q = slice(%a) {axis=0, sizes=array<i64: 1, 3>}
        %y = linear(%p, %w)
        %z = linear(%q, %w)
        %c = concat(%y, %z) {axis=0}
        return(%c)
        """)
    assert text == "%c = linear(%a, %w)\nreturn(%c)"


POOLED = """
    %ya = conv(%a, %w) {stride=array<i64: 1, 1>, pad=array<i64: 1, 1>}
    %yb = conv(%b, %w) {stride=array<i64: 1, 1>, pad=array<i64: 1, 1>}
    %pa, %ia = max_pool(%ya) {kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}
    %pb, %ib = max_pool(%yb) {kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}
    %fa = flatten(%pa) {axis=1}
    %fb = flatten(%pb) {axis=1}
    %za = linear(%fa, %u)
    %zb = linear(%fb, %u)
    %c = concat(%za, %zb) {axis=0}
    return(%c)
    """
IMAGES = "%a: tensor<4x2x4x4xf32>, %b: tensor<3x2x4x4xf32>, %w: tensor<3x2x3x3xf32>, %u: tensor<48x12xf32>"


def test_pools_and_views_go_along() -> None:
    text, _ = joined(POOLED, IMAGES)
    assert [line.partition(" = ")[2].partition("(")[0] for line in text.splitlines()[:-1]] == [
        "concat",
        "conv",
        "max_pool",
        "flatten",
        "linear",
    ]


def test_not_where_the_places_of_maxima_are_read() -> None:
    text, lines = joined(POOLED.replace("return(%c)", "return(%c, %ib)"), IMAGES)
    assert text.count("conv(") == 2 and text.count("linear(") == 1
    assert lines[1] == "conv stays apart before concat %fa.joined: another result of max_pool %pb is read too"


def test_without_a_backward_pass_only_a_product_over_inputs() -> None:
    inference = JoinRows(keeps=False)
    text, lines = joined(TOWERS, options=inference)
    assert text.count("linear") == 4
    assert "all batches would be alive at once" in str(lines[0])
    text, _ = joined(
        "%y = linear(%a, %w)\n%z = linear(%b, %w)\n%c = concat(%y, %z) {axis=0}\nreturn(%c)", options=inference
    )
    assert text.count("linear") == 1


PAIR = "%y = linear(%a, %w)\n%z = linear(%b, %w)\n%c = concat(%y, %z) {axis=0}\n"
# What stays as it is, and the end of what is said about it; None: nothing, since no weight is shared.
APART = {
    "another weight": (PAIR.replace("%z = linear(%b, %w)", "%z = linear(%b, %v)") + "return(%c)", None),
    "other attributes": (
        "%y = linear(%a, %w)\n%t = transpose(%w) {perm=array<i64: 1, 0>}\n"
        "%z = linear(%b, %t) {transpose=true}\n%c = concat(%y, %z) {axis=0}\nreturn(%c)",
        None,
    ),
    "rows on the way are larger": (
        "%y = linear(%a, %w)\n%z = linear(%b, %w)\n%r = linear(%y, %o)\n%s = linear(%z, %o)\n"
        "%c = concat(%r, %s) {axis=0}\nreturn(%c)",
        "stays apart: rows of %y are larger than those of %c, and all would be alive at once",
    ),
    "columns are joined": (
        "%y = linear(%a, %w)\n%z = linear(%a, %w)\n%c = concat(%y, %z) {axis=1}\nreturn(%c)",
        None,
    ),
    "nothing is shared": ("%y = tanh(%a)\n%z = tanh(%b)\n%c = concat(%y, %z) {axis=0}\nreturn(%c)", None),
    "pointwise operations gain nothing": (
        "%y = bias(%a, %k) {axis=1}\n%z = bias(%b, %k) {axis=1}\n%c = concat(%y, %z) {axis=0}\nreturn(%c)",
        None,
    ),
    "rows are mixed": (
        "%y = linear(%a, %w)\n%z = linear(%b, %w)\n%p = softmax(%y) {axis=0}\n%q = softmax(%z) {axis=0}\n"
        "%c = concat(%p, %q) {axis=0}\nreturn(%c)",
        None,
    ),
    "one batch is read elsewhere": (PAIR + "%t = tanh(%y)\nreturn(%c, %t)", "%y is read elsewhere too"),
    "a part is in another concat": (
        PAIR + "%g = concat(%b, %a) {axis=0}\nreturn(%c, %g)",
        "stays apart: %a lies in another concat",
    ),
    "a part is a result": (PAIR + "return(%c, %a)", "stays apart: %a is a result of the net"),
    "a batch twice": (
        "%y = linear(%a, %w)\n%z = linear(%a, %w)\n%c = concat(%y, %z) {axis=0}\nreturn(%c)",
        "stays apart: %a would stand in two places",
    ),
    "a part is a part of another blob": (
        "%p, %q = slice(%a) {axis=0, sizes=array<i64: 1, 3>}\n"
        "%y = linear(%q, %w)\n%z = linear(%b, %w)\n%c = concat(%y, %z) {axis=0}\nreturn(%c, %p)",
        "stays apart: %q is a part of %a",
    ),
}


@pytest.mark.parametrize("name", APART)
def test_stays_apart(name: str) -> None:
    body, said = APART[name]
    args = ARGS + ", %k: tensor<3xf32>, %o: tensor<4x5xf32>"
    module = function(args, body)
    text, lines = joined(body, args)
    assert text == short_text(module.main.body)
    assert [str(line).endswith(said or "") for line in lines] == ([] if said is None else [True])


def test_kernels_stay_as_they_are() -> None:
    module = function(ARGS, PAIR + "return(%c)")
    Fuse().run(module)
    before = plain(module)
    JoinRows().run(module)
    SplitLossOverConcat().run(module)
    MergeLossesOverConcat().run(module)
    assert plain(module) == before


def test_a_parameter_is_not_moved() -> None:
    graph, _ = load(
        """net t(n = 2) {
    input a: f32[n, 3]
    input label: i32[n + 4]
    param p: f32[4, 3]
    layer e = linear(5, bias=false)
    loss softmax_loss(concat(e(a), e(p), axis=0), label)
}
""",
        "t.cnet",
    )
    before = short_text(graph.main.body)
    JoinRows().run(graph)
    assert short_text(graph.main.body) == before
    (line,) = graph.main.attributes["cnet.joined"]  # type: ignore[misc, union-attr]
    assert "%p is the param of that name" in str(line)


NET = """net t(n = 3, m = 2) {{
    input a: f32[n, 4]
    input b: f32[m, 4]
    input label: i32[n + m]
    layer e = linear(5)
    layer f = linear(6)
    {statement}
    h = concat(f(x), f(y), axis=0)
    z = h |> relu |> linear(3)
    loss softmax_loss(z, label)
    output z
}}
"""
TANH = NET.format(statement="x, y = split_batches(e(a), e(b))").replace(
    "net t(", "block split_batches(x, y) { return tanh(x), tanh(y) }\nnet t("
)
DROPOUT = TANH.replace("tanh(x), tanh(y)", "dropout(x, p=0.5), dropout(y, p=0.5)")
NORM = TANH.replace("return tanh(x), tanh(y)", "return batch_norm(x), batch_norm(y)")


def products(module: Module) -> tuple[int, int]:
    """How many products and gradients of weights."""
    ops = module.main.ops
    return sum(is_op(op, "linear") for op in ops), sum(is_op(op, "linear_weight_grad") for op in ops)


@pytest.mark.parametrize(
    ("source", "keep", "weight_grads"),
    [
        (TANH, (), 3),  # e, f and the last one, once each
        (TANH, ("h",), 5),
        (TANH, ("x",), 5),  # f's operand %x lies in a place of its own
        (DROPOUT, (), 4),  # masks of two calls differ: f is joined, e is not
        (NORM, (), 4),  # statistics of each batch
    ],
    ids=["tanh", "keep the concat", "keep a part", "dropout", "batch norm"],
)
def test_gradients(source: str, keep: tuple[str, ...], weight_grads: int) -> None:
    """One contraction a weight; values as before, and gradients as finite differences say, in float64."""
    graph, _ = load(source, "t.cnet", keep=keep)
    plain_net, changed = clone_module(graph), clone_module(graph)
    JoinRows().run(changed)
    StatsOverConcat().run(changed)
    for module in (plain_net, changed):
        InsertSplits().run(module)
        DeriveBackward(input_grads=True).run(module)
        verify(module, "joint")
    data = data_for(plain_net.main)
    expected, found = run64(plain_net.main, data), run64(changed.main, data)
    assert list(expected) == list(found)
    for key, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-12 * scale)
    assert products(plain_net)[1] == 5
    assert products(changed)[1] == weight_grads
    (line,) = changed.main.attributes["cnet.joined"]  # type: ignore[misc, union-attr]
    assert ("stays apart" in str(line)) == bool(keep)
    check_gradients(changed)


def arrays(n: int, m: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    a, b = (rng.normal(size=(rows, 4)).astype(np.float32) for rows in (n, m))
    return {"a": a, "b": b, "label": rng.integers(0, 3, n + m).astype(np.int32)}


def test_both_phases_run_and_copy_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compilation = compile_net(TANH, "t.cnet", Options())
    launches = {}
    for phase in ("train", "infer"):
        plan = compilation.phase(phase).plan  # type: ignore[arg-type]
        moved = plan_report(plan).moved_bytes
        assert moved["copy"] == moved["second store"] == 0
        launches[phase] = len(plan.launches)
    net = concatc.compile_source(TANH)
    net.init(seed=1)
    data = arrays(3, 2)
    out, grads = net.forward(**data), net.backward()
    inferred = net.eval(a=data["a"], b=data["b"])
    monkeypatch.setattr(JoinRows, "run", lambda self, module: None)
    apart = compile_net(TANH, "t.cnet", Options())
    assert len(apart.phase("train").plan.launches) > launches["train"]
    other = concatc.compile_source(TANH, target="reference")
    other.init(seed=1)
    expected, expected_grads = other.forward(**data), other.backward()
    np.testing.assert_allclose(out["z"], expected["z"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(inferred["z"], expected["z"], rtol=0, atol=1e-5)
    for name, grad in expected_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=0, atol=1e-5 * max(1.0, float(np.abs(grad).max())))


def test_other_sizes_of_both_batches() -> None:
    net = concatc.compile_source(TANH)
    net.init(seed=1)
    for n, m in ((3, 2), (5, 1), (1, 7)):
        data = arrays(n, m)
        found = net.forward(**data)["z"]
        fresh = concatc.compile_source(TANH, dims={"n": n, "m": m}, target="reference")
        fresh.init(seed=1)
        np.testing.assert_allclose(found, fresh.forward(**data)["z"], rtol=0, atol=1e-5)


def test_the_report_says_what_was_joined() -> None:
    net = concatc.compile_source(TANH)
    assert "linear of %a, %b, joined by concat %h, is one product over the joined rows" in str(net.memory)


def test_a_budget_joins_as_much() -> None:
    free, within = (compile_net(TANH, "t.cnet", Options(max_memory=n)).phase("train") for n in (None, 1 << 20))
    assert free.dump("joint") == within.dump("joint")


@pytest.mark.parametrize("level", ["graph", "split", "joint", "kernels", "plan", "loops"])
def test_dumps_run_as_the_net_does(level: str, tmp_path: Path) -> None:
    net = concatc.compile_source(TANH)
    net.init(seed=1)
    path = tmp_path / "net.mlir"
    path.write_text(net.ir(level))
    again = concatc.compile(path)
    again.init(seed=1)
    data = arrays(3, 2)
    np.testing.assert_array_equal(again.forward(**data)["loss"], net.forward(**data)["loss"])
    found, expected = again.backward(), net.backward()
    for name, grad in expected.items():
        np.testing.assert_array_equal(found[name], grad)
