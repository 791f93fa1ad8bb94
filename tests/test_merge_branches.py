"""merge-branches: one product for branches of one blob, or for one layer on several; text, values, plans, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.compiler import Compilation, Options
from concatc.frontend.cnet import load
from concatc.inspect.memory import plan_report
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.op import is_op
from concatc.passes.cse import Cse
from concatc.passes.dce import Dce
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.merge_branches import MergeBranches
from concatc.passes.verify import verify
from tests.ir_text import dedent, plain, short_text
from tests.nets.checks import Check, check_net
from tests.short_ir import function
from tests.small_nets import data_for, joint, run64
from tests.values import random_arguments, run_function

EXAMPLES = Path(__file__).parent.parent / "examples"
IMAGES = (
    "%x: tensor<2x6x5x4xf32>, %v: tensor<3x6x1x1xf32>, %u: tensor<2x6x1x1xf32>, %t: tensor<2x6x3x3xf32>, "
    "%b: tensor<3xf32>, %c: tensor<2xf32>"
)
ROWS = (
    "%a: tensor<4x16xf32>, %b: tensor<2x16xf32>, %w: tensor<8x16xf32>, %v: tensor<8x16xf32>, %u: tensor<8x8xf32>, "
    "%c: tensor<8xf32>, %p: tensor<16x3xf32>, %q: tensor<16x2xf32>"
)


def merged(body: str, args: str, options: MergeBranches | None = None) -> tuple[str, tuple[object, ...]]:
    """The operations after the pass, which keeps all values, and what it says."""
    step = options or MergeBranches()
    module = function(args, dedent(body))
    changed = clone_module(module)
    step.run(changed)
    verify(changed)
    data = [np.asarray(x, np.float64) for x in random_arguments(module.main)]
    found, expected = (run_function(m.main, data, float64=True) for m in (changed, module))
    for new, old in zip(found, expected, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)
    before = plain(changed)
    step.run(changed)
    assert plain(changed) == before, "a second run changes nothing"
    lines = changed.main.attributes.get("cnet.joined", ())
    assert isinstance(lines, tuple)
    return short_text(changed.main.body), lines


def stays(body: str, args: str, options: MergeBranches | None = None) -> None:
    text, lines = merged(body, args, options)
    assert text == short_text(function(args, dedent(body)).main.body) and lines == ()


# -- branches of one blob ----------------------------------------------------------------------------------------------

BRANCHES = """
    %y = conv(%x, %v)
    %z = conv(%x, %u)
    %yb = bias(%y, %b) {axis=1}
    %zb = bias(%z, %c) {axis=1}
    %r = relu(%yb)
    %s = relu(%zb)
    %p = avg_pool(%r) {kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}
    %q = exp(%s)
    %m = sum(%p) {axes=array<i64: 0>}
    %n = sum(%q) {axes=array<i64: 0>}
    return(%m, %n)
    """


def test_branches_with_biases_and_activations() -> None:
    text, lines = merged(
        BRANCHES.replace("%p = avg_pool(%r) {kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}", "%p = tanh(%r)"),
        IMAGES,
    )
    assert text == dedent("""
        %v.joined = concat(%v, %u) {axis=0}
        %y.joined = conv(%x, %v.joined) {stride=[1, 1], pad=[0, 0], dilation=[1, 1], groups=1}
        %b.joined = concat(%b, %c) {axis=0}
        %yb.joined = bias(%y.joined, %b.joined) {axis=1}
        %r.joined = relu(%yb.joined)
        %r, %s = slice(%r.joined) {axis=1, sizes=[3, 2]}
        %p = tanh(%r)
        %q = exp(%s)
        %m = sum(%p) {axes=[0]}
        %n = sum(%q) {axes=[0]}
        return(%m, %n)
        """)
    assert lines == ("conv %y, %z of %x is one product over the joined channels",)


@pytest.mark.parametrize("transpose", [False, True])
def test_parallel_linears(transpose: bool) -> None:
    weights = ("%p", "%q") if transpose else ("%w", "%v")
    flag = " {transpose=true}" if transpose else ""
    body = f"""
        %y = linear(%a, {weights[0]}){flag}
        %z = linear(%a, {weights[1]}){flag}
        %m = sum(%y) {{axes=array<i64: 0>}}
        %n = sum(%z) {{axes=array<i64: 0>}}
        return(%m, %n)
        """
    stays(body, ROWS)  # a row of the blob is little beside the weights
    args = ROWS.replace("%a: tensor<4x16xf32>", "%a: tensor<2x90x16xf32>")
    text, _ = merged(body, args)
    sizes = "3, 2" if transpose else "8, 8"
    assert f"slice(%y.joined) {{axis=2, sizes=[{sizes}]}}" in text
    assert f"concat({weights[0]}, {weights[1]}) {{axis={int(transpose)}}}" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("conv(%x, %u)", "conv(%x, %t) {pad=array<i64: 1, 1>}"),  # another kernel
        ("conv(%x, %u)", "conv(%x, %u) {stride=array<i64: 2, 2>}"),
        ("return(%m, %n)", "return(%m, %n, %y)"),  # both are read elsewhere: one as a result, and then one is left
        ("%p = avg", "%h = concat(%r, %r) {axis=1}\n    %p = avg"),
    ],
)
def test_branches_that_stay(old: str, new: str) -> None:
    body = BRANCHES.replace(old, new)
    if "concat" in new:
        body = body.replace("return(%m, %n)", "return(%m, %n, %h)")
    stays(body, IMAGES)


def test_a_branch_in_a_concat_stays_apart() -> None:
    """Of three, those two are merged whose results may lie beside each other."""
    text, lines = merged(
        """
        %y = conv(%x, %v)
        %z = conv(%x, %u)
        %k = conv(%x, %w)
        %h = concat(%y, %x) {axis=1}
        %m = exp(%z)
        %n = tanh(%k)
        return(%h, %m, %n)
        """,
        IMAGES + ", %w: tensor<4x6x1x1xf32>",
    )
    assert "%y = conv(%x, %v) {" in text
    assert lines == ("conv %z, %k of %x is one product over the joined channels",)


def test_large_weights_are_not_copied() -> None:
    body = "%y = conv(%x, %v)\n%z = conv(%x, %u)\n%m = exp(%y)\n%n = exp(%z)\n%o = sum(%m) {axes=array<i64: 0>}\n"
    body += "%p = sum(%n) {axes=array<i64: 0>}\nreturn(%o, %p)"
    args = "%x: tensor<9x6x2x2xf32>, %v: tensor<3x6x1x1xf32>, %u: tensor<2x6x1x1xf32>"
    stays(body, args)
    assert merged(body, args.replace("2x2", "6x6"))[1]
    stays(body, args.replace("2x2", "6x6"), MergeBranches(branches=False))


# -- one layer on several blobs ----------------------------------------------------------------------------------------

LAYERS = """
    %y = linear(%a, %w)
    %yb = bias(%y, %c) {axis=1}
    %r = tanh(%yb)
    %m = sum(%r) {axes=array<i64: 0>}
    %z = linear(%b, %w)
    %zb = bias(%z, %c) {axis=1}
    %s = tanh(%zb)
    %n = sum(%s) {axes=array<i64: 0>}
    return(%m, %n)
    """
LARGER = MergeBranches(larger=True)


def test_a_layer_called_twice() -> None:
    text, lines = merged(LAYERS, ROWS, LARGER)
    assert text == dedent("""
        %a.joined = concat(%a, %b) {axis=0}
        %y.joined = linear(%a.joined, %w)
        %yb.joined = bias(%y.joined, %c) {axis=1}
        %r.joined = tanh(%yb.joined)
        %r, %s = slice(%r.joined) {axis=0, sizes=[4, 2]}
        %m = sum(%r) {axes=[0]}
        %n = sum(%s) {axes=[0]}
        return(%m, %n)
        """)
    assert lines == ("linear %y, %z with %w is one product over the joined rows",)


def test_rows_larger_than_the_weight_stay() -> None:
    """Eight rows of both batches are 128 elements, as many as the weight; two more and it is smaller."""
    assert merged(LAYERS, ROWS)[1]
    stays(LAYERS, ROWS.replace("x16xf32", "x14xf32"))


def test_towers_move_until_something_differs() -> None:
    body = LAYERS.replace("%m = sum(%r)", "%i = linear(%r, %u)\n    %m = sum(%i)")
    text, _ = merged(body.replace("%n = sum(%s)", "%j = linear(%s, %u)\n    %n = sum(%j)"), ROWS, LARGER)
    assert "%i.joined = linear(%r.joined, %u)" in text
    text, _ = merged(
        body.replace("%n = sum(%s)", "%j = linear(%s, %v2)\n    %n = sum(%j)"), ROWS + ", %v2: tensor<8x8xf32>", LARGER
    )
    assert "%r, %s = slice(%r.joined)" in text and "%j = linear(%s, %v2)" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("linear(%b, %w)", "linear(%b, %v)"),  # another weight
        ("linear(%b, %w)", "linear(%r2, %w)"),  # made of what the first call makes
        ("return(%m, %n)", "return(%m, %n, %y, %z)"),  # results would be copied out of the joined rows
        ("%y = linear(%a, %w)", "%d = concat(%a, %a) {axis=0}\n    %y = linear(%a, %w)"),  # the blob lies elsewhere
    ],
)
def test_layers_that_stay(old: str, new: str) -> None:
    body = LAYERS.replace(old, new)
    if "%r2" in new:
        body = body.replace("%z = linear", "%r1 = concat(%r, %r) {axis=1}\n    %r2 = exp(%r1)\n    %z = linear")
    if "%d" in new:
        body = body.replace("return(%m, %n)", "return(%m, %n, %d)")
    stays(body, ROWS, LARGER)


def test_a_parameter_is_not_moved() -> None:
    module = function(ROWS, dedent(LAYERS))
    module.main.args[1].attrs["cnet.kind"] = "param"
    before = plain(module)
    LARGER.run(module)
    assert plain(module) == before
    module.main.args[1].attrs["cnet.kind"] = "input"
    LARGER.run(module)
    assert "concat" in plain(module)


BATCH_NORM = """
net normed(n = 4) {
    input a: f32[n, 24]
    input b: f32[n, 24]
    layer enc = tower()
    loss mse_loss(enc(a), enc(b))
}
block tower(x) { return x |> linear(8) |> batch_norm |> relu |> linear(8) }
"""


def test_a_shared_batch_norm_is_not_merged() -> None:
    """Its statistics are those of one call: what stands in front of it is merged, and it is not."""
    graph, _ = load(BATCH_NORM, "t.cnet")
    MergeBranches(larger=True).run(graph)
    verify(graph)
    assert sum(is_op(op, "channel_stats") for op in graph.main.ops) == 2
    assert sum(is_op(op, "linear") for op in graph.main.ops) < 4


def test_identical_towers_are_computed_once() -> None:
    """By cse, before anything is merged: forward, and therefore backward."""
    source = """
        net twice(n = 4) {
            input x: f32[n, 6]
            layer enc = linear(5)
            layer dec = linear(3)
            loss mse_loss(dec(relu(enc(x))), dec(relu(enc(x))))
        }
        """
    graph, _ = load(dedent(source), "t.cnet")
    InsertSplits().run(graph)
    Cse().run(graph)
    Dce().run(graph)
    assert sum(is_op(op, "linear") for op in graph.main.ops) == 2
    InsertSplits().run(graph)
    derived = clone_module(graph)
    DeriveBackward().run(derived)
    assert sum(is_op(op, "linear_weight_grad") for op in derived.main.ops) == 2
    whole = Compilation(dedent(source), "t.cnet", Options()).phase("train").joint
    assert sum(is_op(op, "linear_weight_grad") for op in whole.main.ops) == 2


def test_a_kept_blob_stays() -> None:
    source = """
        net t(n = 4) {
            input a: f32[n, 24]
            input b: f32[n, 24]
            layer enc = linear(8)
            p = enc(a)
            q = enc(b)
            loss mse_loss(tanh(p), tanh(q))
        }
        """
    for keep, expected in (((), 1), (("p",), 2)):
        graph, _ = load(dedent(source), "t.cnet", keep=keep)
        MergeBranches(larger=True).run(graph)
        assert sum(is_op(op, "bias") for op in graph.main.ops) == expected


# -- whole nets --------------------------------------------------------------------------------------------------------


def random_net(seed: int) -> str:
    """Branches of one blob, layers on several, and both, with all that may stand behind them."""
    rng = np.random.default_rng(seed)
    width, images = int(rng.choice([4, 9, 40])), bool(rng.integers(2))
    shape = f"n, {width}, 6, 5" if images else f"n, {width}"
    made = "conv({}, kernel=1)" if images else "linear({})"
    acts = ("relu", "tanh", "sigmoid", "square")
    lines = [f"net random{seed}(n = {int(rng.integers(2, 5))}, m = 3) {{"]
    blobs = ["a", "b"] if rng.integers(2) else ["a", "b", "c"]
    lines += [f"    input {x}: f32[{shape if x != 'b' else shape.replace('n', 'm')}]" for x in blobs]
    lines += [f"    layer enc = {made.format(int(rng.integers(2, 6)))}", f"    layer dec = {made.format(3)}"]
    ends = []
    for x in blobs:
        lines.append(f"    {x}1 = {rng.choice(acts, p=[0.7, 0.1, 0.1, 0.1])}(enc({x}))")
        call = f"dec({x}1)" if rng.integers(3) else made.format(3).replace("(", f"({x}1, ", 1)
        lines.append(f"    {x}2 = {call}")
        ends.append(f"{x}2")
    for k in range(int(rng.integers(2, 5))):
        bias = ", bias=false" if rng.integers(2) else ""
        call = made.format(int(rng.integers(1, 5))).replace("(", "(a, ", 1)[:-1] + f"{bias})"
        lines.append(f"    p{k} = {call}")
        lines.append(f"    q{k} = {rng.choice(acts)}(p{k})" if rng.integers(2) else f"    q{k} = p{k}")
        ends.append(f"q{k}")
    if rng.integers(2):
        lines += ["    joined = concat(q0, a, axis=1)", "    output joined"]
    if rng.integers(3) == 0:
        lines.append(f"    output {rng.choice(ends)}")
    lines += [f"    loss mean(square({end})) as l{k}" for k, end in enumerate(ends)]
    return "\n".join([*lines, "}", ""])


def test_random_nets_keep_values_and_gradients() -> None:
    counts = {"channels": 0, "rows": 0}
    for seed in range(60):
        graph, _ = load(random_net(seed), "t.cnet")
        changed = clone_module(graph)
        MergeBranches(larger=bool(seed % 2)).run(changed)
        verify(changed)
        for line in changed.main.attributes.get("cnet.joined", ()):  # type: ignore[union-attr]
            counts["channels" if "channels" in str(line) else "rows"] += 1
        whole = [joint(clone_module(m)).main for m in (graph, changed)]
        before, after = (run64(func, data_for(func)) for func in whole)
        assert before.keys() == after.keys()
        for key, value in before.items():
            np.testing.assert_allclose(after[key], value, rtol=1e-9, atol=1e-11, err_msg=f"{seed}: {key}")
    assert min(counts.values()) > 20


@pytest.mark.parametrize("seed", range(12))
def test_random_nets_are_planned_and_run(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    on_cpu = tmp_path_factory.getbasetemp() / "merged" if seed == 0 else None
    check_net(random_net(seed), Check(cpu=on_cpu, finite_differences=1, texts=("joint", "loops")), seed)


def arena(name: str, merge: bool, monkeypatch: pytest.MonkeyPatch, **dims: int) -> tuple[int, int, Module]:
    """Bytes of the arena, bytes copied, and the joint graph, with and without merged layers."""
    with monkeypatch.context() as patch:
        if not merge:
            patch.setattr(
                "concatc.lowering.MergeBranches", lambda **options: MergeBranches(branches=False, layers=False)
            )
        path = EXAMPLES / name
        phase = Compilation(path.read_text(), str(path), Options(dims=dims)).phase("train")
        report = plan_report(phase.plan)
        return report.arena_bytes, report.moved_bytes["copy"], phase.joint


def test_a_siamese_pair_is_merged_where_it_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    apart, _, before = arena("nets/siamese.cnet", False, monkeypatch)
    merged_bytes, copied, after = arena("nets/siamese.cnet", True, monkeypatch)
    assert (merged_bytes, copied) == (apart, 0)
    grads = [sum(is_op(op, "linear_weight_grad") for op in m.main.ops) for m in (before, after)]
    assert grads == [6, 5]


def test_no_branches_are_merged_unasked() -> None:
    """Joined weights would be copied: nets of branches copy nothing."""
    path = EXAMPLES / "nets" / "inception.cnet"
    phase = Compilation(path.read_text(), str(path), Options(dims={"n": 2})).phase("train")
    assert plan_report(phase.plan).moved_bytes["copy"] == 0
    assert sum(is_op(op, "conv") for op in phase.joint.main.ops) >= 13


def test_other_batch_sizes_run_on_the_same_code() -> None:
    source = """
        net t(n = 4, m = 3) {
            input a: f32[n, 32]
            input b: f32[m, 32]
            layer enc = linear(16)
            loss mean(square(enc(a))) as la
            loss mean(tanh(enc(b))) as lb
            output enc(a)
        }
        """
    source = dedent(source).replace("    output enc(a)\n", "")
    net = concatc.compile_source(source)
    assert "joined rows" in str(net.ir("joint"))
    rng = np.random.default_rng(0)
    for n, m in ((4, 3), (6, 1), (1, 5)):
        data = {"a": rng.normal(size=(n, 32)).astype("f4"), "b": rng.normal(size=(m, 32)).astype("f4")}
        fresh = concatc.compile_source(source, dims={"n": n, "m": m}, target="reference")
        found, expected = net.train_step(data), fresh.train_step(data)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-5)
        for name, grad in fresh.grads.items():
            np.testing.assert_allclose(net.grads[name], grad, rtol=1e-4, atol=1e-6)
