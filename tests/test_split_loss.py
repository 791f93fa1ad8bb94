"""One loss over joined batches against one a branch: text, values, gradients, and where the rewrite must not happen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concatc.frontend.cnet import load_file
from concatc.ir.clone import clone_module
from concatc.ir.core import Module, Value
from concatc.op import Builder
from concatc.ops.softmax_loss import SoftmaxLoss
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.split_loss_over_concat import MergeLossesOverConcat, SplitLossOverConcat
from concatc.passes.verify import verify
from tests.ir_text import dedent, plain, short_text
from tests.short_ir import function
from tests.small_nets import NetBuilder, data_for, run64
from tests.values import assert_same_values

ARGS = "%a: tensor<4x3xf32>, %b: tensor<2x3xf32>, %w: tensor<5x3xf32>, %bias: tensor<5xf32>, %label: tensor<6xi32>"
JOINED = """
    %h = concat(%a, %b) {axis=0}
    %r = relu(%h)
    %y = linear(%r, %w)
    %z = bias(%y, %bias) {axis=1}
    %l = softmax_loss(%z, %label) {axis=1, reduction="mean"}
    return(%l)
    """


def test_split() -> None:
    module = function(ARGS, JOINED)
    changed = assert_same_values(module, SplitLossOverConcat().run, exact=False)
    verify(changed)
    assert short_text(changed.main.body) == dedent("""
        %w.use0, %w.use1 = split(%w) {ways=2}
        %bias.use0, %bias.use1 = split(%bias) {ways=2}
        %r.part0 = relu(%a)
        %r.part1 = relu(%b)
        %y.part0 = linear(%r.part0, %w.use0)
        %y.part1 = linear(%r.part1, %w.use1)
        %z.part0 = bias(%y.part0, %bias.use0) {axis=1}
        %z.part1 = bias(%y.part1, %bias.use1) {axis=1}
        %label.part0, %label.part1 = slice(%label) {axis=0, sizes=[4, 2]}
        %l.part0 = softmax_loss(%z.part0, %label.part0) {axis=1, reduction=mean}
        %l.weighted0 = mul_scalar(%l.part0) {value=0.6666666666666666}
        %l.part1 = softmax_loss(%z.part1, %label.part1) {axis=1, reduction=mean}
        %l.weighted1 = mul_scalar(%l.part1) {value=0.3333333333333333}
        %l = add(%l.weighted0, %l.weighted1)
        return(%l)
        """)


def test_merge_is_the_inverse() -> None:
    module = function(ARGS, JOINED.replace("    %r = relu(%h)\n", "").replace("%r", "%h"))
    changed = clone_module(module)
    SplitLossOverConcat().run(changed)
    assert plain(changed) != plain(module)
    merged = assert_same_values(changed, MergeLossesOverConcat().run, exact=False)
    verify(merged)
    assert short_text(merged.main.body).replace("%a.joined", "%h") == short_text(module.main.body)


def test_labels_that_are_joined_come_apart_again() -> None:
    args = "%a: tensor<4x3xf32>, %b: tensor<2x3xf32>, %p: tensor<4xi32>, %q: tensor<2xi32>"
    body = """
        %h = concat(%a, %b) {axis=0}
        %label = concat(%p, %q) {axis=0}
        %l = softmax_loss(%h, %label) {reduction="sum"}
        return(%l)
        """
    changed = assert_same_values(function(args, body), SplitLossOverConcat().run, exact=False)
    assert short_text(changed.main.body) == dedent("""
        %l.part0 = softmax_loss(%a, %p) {axis=1, reduction=sum}
        %l.part1 = softmax_loss(%b, %q) {axis=1, reduction=sum}
        %l = add(%l.part0, %l.part1)
        return(%l)
        """)
    merged = assert_same_values(changed, MergeLossesOverConcat().run, exact=False)
    assert [op.name for op in merged.main.ops] == ["cnet.concat", "cnet.concat", "cnet.softmax_loss", "func.return"]


def test_scores_that_are_read_elsewhere_are_joined_from_their_parts() -> None:
    module = function(ARGS, JOINED.replace("return(%l)", "return(%l, %z)"))
    changed = assert_same_values(module, SplitLossOverConcat().run, exact=False)
    verify(changed)
    text = short_text(changed.main.body)
    assert "%z = concat(%z.part0, %z.part1)" in text
    assert text.count("linear(") == 2


# What must stay as it is.
LABEL_AXES = "%a: tensor<2x4xf32>, %b: tensor<2x2xf32>, %label: tensor<2xi32>"
UNTOUCHED = {
    "the number of valid labels is known at run time": (
        ARGS,
        JOINED.replace('reduction="mean"', 'reduction="valid", ignore=2'),
    ),
    "a concat of classes": (
        LABEL_AXES,
        "%h = concat(%a, %b) {axis=1}\n%l = softmax_loss(%h, %label)\nreturn(%l)",
    ),
    "rows are the classes": (
        "%a: tensor<2x4xf32>, %b: tensor<3x4xf32>, %label: tensor<4xi32>",
        "%h = concat(%a, %b) {axis=0}\n%l = softmax_loss(%h, %label) {axis=0}\nreturn(%l)",
    ),
    "an operation that mixes rows": (
        "%a: tensor<2x4xf32>, %b: tensor<3x4xf32>, %label: tensor<5xi32>",
        "%h = concat(%a, %b) {axis=0}\n%s = softmax(%h) {axis=0}\n%l = softmax_loss(%s, %label)\nreturn(%l)",
    ),
    "no rows": (
        "%a: tensor<0x4xf32>, %b: tensor<0x4xf32>, %label: tensor<0xi32>",
        "%h = concat(%a, %b) {axis=0}\n%l = softmax_loss(%h, %label)\nreturn(%l)",
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_not_split(name: str) -> None:
    module = function(*UNTOUCHED[name])
    before = short_text(module.main.body)
    SplitLossOverConcat().run(module)
    assert short_text(module.main.body) == before


@pytest.mark.parametrize(
    ("first", "second", "merges"),
    [
        ("mean", "mean", True),
        ("mean", "sum", False),
        ("valid", "valid", False),
    ],
)
def test_merged_only_with_equal_losses(first: str, second: str, merges: bool) -> None:
    ignore = {"ignore": 1} if first == "valid" else {}
    losses = [SoftmaxLoss(reduction=reduction, **ignore) for reduction in (first, second)]
    _check_merge(_two_losses(losses[0], losses[1], 2 / 3, 1 / 3), merges)


@pytest.mark.parametrize(("left", "right", "merges"), [(2 / 3, 1 / 3, True), (0.5, 0.5, False), (1 / 3, 2 / 3, False)])
def test_merged_only_with_the_right_weights(left: float, right: float, merges: bool) -> None:
    _check_merge(_two_losses(SoftmaxLoss(), SoftmaxLoss(), left, right), merges)


def _two_losses(first: SoftmaxLoss, second: SoftmaxLoss, left: float, right: float) -> Module:
    args = "%a: tensor<4x3xf32>, %b: tensor<2x3xf32>, %p: tensor<4xi32>, %q: tensor<2xi32>"
    module = function(args, "return()")
    func = module.main
    ret = func.body.ops.pop()
    a, b, p, q = func.args
    builder = Builder(func.body)
    (k,), (n,) = builder.emit(first, [a, p], ["k"]), builder.emit(second, [b, q], ["n"])
    m = builder.add(builder.mul_scalar(k, value=left), builder.mul_scalar(n, value=right))
    func.body.append(ret)
    func.add_return(m)
    return module


def _check_merge(module: Module, merges: bool) -> None:
    changed = assert_same_values(module, MergeLossesOverConcat().run, exact=False)
    losses = [op for op in changed.main.ops if op.name == "cnet.softmax_loss"]
    assert len(losses) == (1 if merges else 2)


def test_a_loss_that_is_reported_too_stays() -> None:
    module = _two_losses(SoftmaxLoss(), SoftmaxLoss(), 2 / 3, 1 / 3)
    module.main.add_return(module.main.ops[0].result)
    _check_merge(module, False)


@pytest.mark.parametrize("reduction", ["mean", "sum", "valid"])
def test_three_branches_have_the_same_gradients(reduction: str) -> None:
    net = NetBuilder()
    parts = [net.b.linear(net.input(f"x{k}", rows, 3), net.param(f"w{k}", 4, 3)) for k, rows in enumerate((5, 1, 3))]
    h = net.b.relu(net.b.concat(*parts, axis=0))
    scores = net.b.bias(net.b.linear(h, net.param("w", 6, 4)), net.param("bias", 6), axis=1)
    net.softmax_loss(scores, net.input("label", 9, dtype="i32"), reduction=reduction)
    graph = net.module()
    split = clone_module(graph)
    SplitLossOverConcat().run(split)
    assert sum(op.name == "cnet.softmax_loss" for op in split.main.ops) == 3
    merged = clone_module(split)
    MergeLossesOverConcat().run(merged)
    assert sum(op.name == "cnet.softmax_loss" for op in merged.main.ops) == 1
    _assert_same_gradients(graph, split, merged)


def test_the_example() -> None:
    graph, _ = load_file(Path(__file__).parent.parent / "examples" / "two_losses.cnet", net="joined")
    split = clone_module(graph)
    SplitLossOverConcat().run(split)
    assert sum(op.name == "cnet.softmax_loss" for op in split.main.ops) == 2
    _assert_same_gradients(graph, split)


def _assert_same_gradients(first: Module, *others: Module) -> None:
    """Loss and gradients in float64: equal but for rounding."""
    data = data_for(first.main)
    expected = None
    for graph in (first, *others):
        module = clone_module(graph)
        InsertSplits().run(module)
        DeriveBackward().run(module)
        verify(module, "joint")
        found = run64(module.main, data)
        expected = expected or found
        assert list(found) == list(expected)
        for key, value in expected.items():
            atol = 1e-12 * max(1.0, float(np.max(np.abs(value), initial=0)))
            np.testing.assert_allclose(found[key], value, rtol=0, atol=atol, err_msg=str(key))


def test_a_backward_half_is_left_alone() -> None:
    graph, _ = load_file(Path(__file__).parent.parent / "examples" / "two_losses.cnet", net="joined")
    InsertSplits().run(graph)
    DeriveBackward().run(graph)
    before = plain(graph)
    SplitLossOverConcat().run(graph)
    MergeLossesOverConcat().run(graph)
    assert plain(graph) == before


ROWS = (5, 1, 3)


def _joined(net: NetBuilder, *shape: int, name: str = "x") -> Value:
    """Rows of three branches, joined; each branch has a weight of its own."""
    parts = [
        net.b.mul(net.input(f"{name}{k}", rows, *shape), net.param(f"{name}w{k}", rows, *shape))
        for k, rows in enumerate(ROWS)
    ]
    return net.b.tanh(net.b.concat(*parts, axis=0))


def _mse(net: NetBuilder, reduction: str) -> Value:
    return net.b.mse_loss(_joined(net, 4), net.input("target", 9, 4), reduction=reduction)


def _mse_of_two(net: NetBuilder, reduction: str) -> Value:
    return net.b.mse_loss(_joined(net, 4), _joined(net, 4, name="y"), reduction=reduction)


def _sigmoid(net: NetBuilder, reduction: str) -> Value:
    return net.b.sigmoid_loss(_joined(net, 2, 3), net.input("target", 9, 2, 3), reduction=reduction)


def _contrastive(net: NetBuilder, reduction: str) -> Value:
    return net.b.contrastive_loss(_joined(net, 3), net.input("other", 9, 3), net.input("same", 9), margin=2.0)


def _ignoring(net: NetBuilder, reduction: str) -> Value:
    return net.b.softmax_loss(_joined(net, 4), net.input("label", 9, dtype="i32"), reduction=reduction, ignore=1)


def _of_pixels(net: NetBuilder, reduction: str) -> Value:
    return net.b.softmax_loss(_joined(net, 4, 2), net.input("label", 9, 2, dtype="i32"), reduction=reduction)


def _plain(net: NetBuilder, reduction: str) -> Value:
    return getattr(net.b, reduction)(_joined(net, 4), axes=(0, 1))


# How a loss is made, its reduction, and what one of five rows of nine weighs.
LOSSES = {
    "mse mean": (_mse, "mean", 5 / 9),
    "mse sum": (_mse, "sum", None),
    "mse euclidean": (_mse, "euclidean", 5 / 9),
    "mse of two concats": (_mse_of_two, "mean", 5 / 9),
    "sigmoid mean": (_sigmoid, "mean", 5 / 9),
    "sigmoid batch": (_sigmoid, "batch", 5 / 9),
    "sigmoid sum": (_sigmoid, "sum", None),
    "contrastive": (_contrastive, "mean", 5 / 9),
    "softmax with ignored labels": (_ignoring, "mean", 5 / 9),
    "softmax sum with ignored labels": (_ignoring, "sum", None),
    "softmax of pixels": (_of_pixels, "mean", 5 / 9),
    "sum of everything": (_plain, "sum", None),
    "mean of everything": (_plain, "mean", 5 / 9),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_both_ways(name: str) -> None:
    make, reduction, weight = LOSSES[name]
    net = NetBuilder()
    net.loss(make(net, reduction))
    graph = net.module()
    kind = graph.main.ops[-3].name
    split = clone_module(graph)
    SplitLossOverConcat().run(split)
    assert sum(op.name == kind for op in split.main.ops) == 3
    assert "cnet.joined" not in split.main.attributes
    weights = [op.attributes["value"] for op in split.main.ops if op.name == "cnet.mul_scalar"]
    assert weights[:1] == ([] if weight is None else [pytest.approx(weight, rel=1e-15)])
    merged = clone_module(split)
    MergeLossesOverConcat().run(merged)
    assert sum(op.name == kind for op in merged.main.ops) == 1
    for module in (graph, split, merged):
        verify(module)
    _assert_same_gradients(graph, split, merged)


def test_what_stays_one_loss_says_why() -> None:
    valid = function(*UNTOUCHED["the number of valid labels is known at run time"])
    SplitLossOverConcat().run(valid)
    assert valid.main.attributes["cnet.joined"] == (
        "softmax_loss %l stays one loss: it is no sum over rows with weights that are known before it runs",
    )
    mixed = function(*UNTOUCHED["an operation that mixes rows"])
    SplitLossOverConcat().run(mixed)
    (line,) = mixed.main.attributes["cnet.joined"]  # type: ignore[misc, union-attr]
    assert "comes from a concat of rows through what maps rows one by one" in str(line)


@pytest.mark.parametrize(
    ("first", "second", "left", "right", "reason"),
    [
        (SoftmaxLoss(), SoftmaxLoss(), 0.5, 0.5, "the weight of softmax_loss %k is 0.5, not 0.666667"),
        (SoftmaxLoss(), SoftmaxLoss(reduction="sum"), 2 / 3, 1 / 3, "they differ in more than their rows"),
    ],
)
def test_losses_that_stay_apart_say_why(
    first: SoftmaxLoss, second: SoftmaxLoss, left: float, right: float, reason: str
) -> None:
    module = _two_losses(first, second, left, right)
    MergeLossesOverConcat().run(module)
    (line,) = module.main.attributes["cnet.joined"]  # type: ignore[misc, union-attr]
    assert str(line).endswith(f"stay apart: {reason}")
