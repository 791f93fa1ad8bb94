"""Parameters in the language: their names, options, ties and defaults."""

from __future__ import annotations

import pytest

from concatc.diagnostics import ConcatcError
from concatc.frontend.cnet import load_file
from tests.language_nets import ROOT, body, main, params


def test_names_of_the_reference_example() -> None:
    source = """
block dense_layer(x, growth) {
    y = x |> batch_norm |> relu |> conv(4 * growth, kernel=1) @conv1
          |> batch_norm |> relu |> conv(growth, kernel=3, pad=1) @conv2
    return concat(x, y, axis=1)
}
block transition(x) {
    return x |> batch_norm |> relu |> conv(channels(x) // 2, kernel=1) |> avg_pool(2)
}
net densenet(n = 1, growth = 2, depth = 2, classes = 3) {
    input image: f32[n, 3, 8, 8]
    input label: i32[n]
    h = conv(image, 2 * growth, kernel=3, pad=1) @stem
    for stage in 0..3 {
        for dense in 0..depth { h = dense_layer(h, growth) @layer }
        if stage < 2 { h = transition(h) }
    }
    logits = h |> batch_norm |> relu |> global_avg_pool |> flatten |> linear(classes)
    loss softmax_loss(logits, label)
    output logits
}
"""
    names = params(source)
    assert names[:2] == ["stem.weight", "stem.bias"]
    first = [name for name in names if name.startswith("stage0.dense0.")]
    assert first == [
        "stage0.dense0.layer.y.batch_norm.weight",
        "stage0.dense0.layer.y.batch_norm.bias",
        "stage0.dense0.layer.conv1.weight",
        "stage0.dense0.layer.conv1.bias",
        "stage0.dense0.layer.y.batch_norm2.weight",
        "stage0.dense0.layer.y.batch_norm2.bias",
        "stage0.dense0.layer.conv2.weight",
        "stage0.dense0.layer.conv2.bias",
    ]
    assert "stage1.dense1.layer.conv1.weight" in names
    assert "stage0.transition.conv.weight" in names
    assert names[-2:] == ["logits.linear.weight", "logits.linear.bias"]


@pytest.mark.parametrize(
    "statements, expected",
    [
        ("h = linear(x, 3)", ["h"]),
        ("h = linear(x, 3) @fc", ["fc"]),
        ('h = linear(x, 3) @"a/1x1"', ["a/1x1"]),
        ("h = x |> linear(3) |> relu", ["h"]),
        ("h = x |> linear(3) |> linear(4)", ["h.linear", "h.linear2"]),
        ("h = x |> linear(3) @fc |> linear(4)", ["fc", "h"]),
        ("h = relu(x); h = linear(h, 3)", ["linear"]),
        ("h = linear(x, 3); h = linear(h, 3); h = linear(h, 3)", ["h", "linear", "linear2"]),
        ("x = linear(x, 3)", ["linear"]),
        ("a = linear(x, 3) @b; b = linear(x, 3)", ["b", "b2"]),
        ("b = linear(x, 3); a = linear(x, 3) @b", ["b2", "b"]),
        ("for k in 0..2 { h = linear(x, 3) }", ["k0.h", "k1.h"]),
        ("for k in 1..3 { x = linear(x, 3) }", ["k1.linear", "k2.linear"]),
        ("for k in reversed(0..2) { x = linear(x, 3) }", ["k1.linear", "k0.linear"]),
        ("for k, w in enumerate([5, 6]) { x = linear(x, w) }", ["k0.linear", "k1.linear"]),
        ("for w in [6, 6] { x = linear(x, w) }", ["w0.linear", "w1.linear"]),
        ("for i in 0..1 { for j in 0..2 { x = linear(x, 3) @fc } }", ["i0.j0.fc", "i0.j1.fc"]),
        ("for k in 0..1 { a = linear(x, 3) }; for k in 0..1 { a = linear(x, 3) }", ["k0.a", "k0.linear"]),
        ("if n > 1 { h = linear(x, 3) }", ["h"]),
        ("if n > 1 { h = linear(x, 3) } else { h = linear(x, 4) }", ["h"]),
        ("if n > 2 { h = linear(x, 3) } else { h = linear(x, 4) }", ["linear"]),
        ("h = linear(x, 3) if n > 1 else x", ["h"]),
        ("output linear(x, 3) as z", ["linear"]),
        ("a, b = slice(linear(x, 4), axis=1, parts=2)", ["linear"]),
        ("x += linear(x, 4)", ["linear"]),
        ("layer enc = linear(3); a = enc(x); b = enc(x)", ["enc"]),
    ],
)  # fmt: skip
def test_names_of_parameters(statements: str, expected: list[str]) -> None:
    source = body(f"    {statements}\n    output x as result")
    assert [name.removesuffix(".weight") for name in params(source) if name.endswith(".weight")] == expected


def test_names_do_not_depend_on_dims_or_phase() -> None:
    source = body(
        """
    if train { x = linear(x, 4) }
    if n > 5 { x = linear(x, 4) }
    for k in 0..n { x = linear(x, 4) }
    for k in 0..1 { x = linear(x, 4) }
    x = linear(x, 4)
    output x""",
        inputs="input x: f32[7, 4]",
    )
    few, many = params(source), params(source, dims={"n": 6})
    assert [p for p in few if p.endswith("weight")] == [
        "linear.weight", "k0.linear.weight", "k1.linear.weight", "k0.linear2.weight", "linear3.weight",
    ]  # fmt: skip
    assert set(few) < set(many) and "linear2.weight" in many
    assert set(params(source, phase="infer")) == {p for p in few if not p.startswith("linear.")}


def test_names_in_blocks() -> None:
    source = body(
        "    h = unit(x, 3)\n    h = unit(h, 3)\n    g = unit(h, 3) @last\n    output g",
        before="block unit(x, c) { y = linear(x, c); return relu(y) |> linear(c) }",
    )
    assert [p for p in params(source) if p.endswith("weight")] == [
        "h.y.weight", "h.linear.weight", "unit.y.weight", "unit.linear.weight", "last.y.weight", "last.linear.weight",
    ]  # fmt: skip


def test_a_block_without_parameters_takes_no_name() -> None:
    source = body("    h = x |> twice |> linear(3)\n    output h", before="block twice(x) { return x + x }")
    assert params(source) == ["h.weight", "h.bias"]


def test_two_paths_of_one_name_are_an_error() -> None:
    source = body(
        "    for k in 11..12 { y = linear(x, 3) @a }\n    for k1 in 1..2 { y = linear(x, 3) @a }\n    output x"
    )
    with pytest.raises(ConcatcError, match=r"two parameters would be called `k11\.a\.weight`"):
        main(source)


def test_states_have_paths_too() -> None:
    function = main(body("    h = batch_norm(x) @norm\n    output h"))
    assert list(function.arguments("state")) == ["norm.running_mean", "norm.running_var"]
    assert list(function.returned("state")) == ["norm.running_mean", "norm.running_var"]
    assert not main(body("    h = batch_norm(x) @norm\n    output h"), phase="infer").returned("state")


def test_options_of_parameters() -> None:
    source = body("    h = linear(x, 3, weight_init=msra(), weight_lr=2, bias_decay=0, bias_init=0.5)\n    output h")
    arguments = main(source).arguments("param")
    weight, bias = arguments["h.weight"].attrs, arguments["h.bias"].attrs
    assert (weight["cnet.init"], weight["cnet.fan_in"], weight["cnet.lr"]) == ("msra()", 4, 2.0)
    assert (bias["cnet.init"], bias["cnet.decay"]) == ("constant(0.5)", 0.0)
    assert "cnet.lr" not in bias  # 1, as usual


def test_a_parameter_may_be_left_out_or_tied() -> None:
    source = body(
        "    a = linear(x, 4, bias=false)\n    b = linear(a, 4, weight=w)\n    output b",
        "input x: f32[n, 4]; param w: f32[4, 4]",
    )
    function = main(source)
    assert list(function.arguments("param")) == ["w", "a.weight", "b.bias"]
    assert function.arguments("param")["w"].readers[0].name == "cnet.linear"


def test_tied_embeddings() -> None:
    source = body(
        "    layer tok = embedding(7, dim=4)\n    output matmul(tok(i), tok.weight, transpose_b=true) as y",
        "input i: i32[n]",
    )
    function = main(source)
    assert list(function.arguments("param")) == ["tok.weight"]
    assert len(function.arguments("param")["tok.weight"].uses) == 2


def test_defaults_hold_below_and_not_in_called_blocks() -> None:
    source = """
block early(x) { return linear(x, 4) @early }
default linear(bias=false)
block late(x) { return linear(x, 4) @late }
net f(n = 2) {
    input x: f32[n, 4]
    a = x |> early |> late |> linear(4) @one
    default linear(bias=true, weight_init=constant(1))
    b = linear(a, 4) @two
    if n > 1 {
        default linear(weight_init=constant(2))
        b = linear(b, 4) @three
    }
    b = linear(b, 4, weight_init=constant(3)) @four
    output b
}
"""
    arguments = main(source).arguments("param")
    assert [name for name in arguments if name.endswith("bias")] == [
        "a.early.early.bias", "two.bias", "three.bias", "four.bias",
    ]  # fmt: skip
    starts = [arguments[f"{name}.weight"].attrs["cnet.init"] for name in ("one", "two", "three", "four")]
    assert starts == ["xavier()", "constant(1.0)", "constant(2.0)", "constant(3.0)"]


def test_params_and_states_of_ones_own() -> None:
    source = body(
        """
    param scale: f32[4] = constant(1), lr=10, decay=0
    param table: f32[3, 4]
    state seen: f32[4] = constant(0)
    update seen = 0.9 * seen + 0.1 * mean(x, axes=[0])
    output x * reshape(scale, [1, 4]) as y"""
    )
    function = main(source)
    scale, table = function.arguments("param").values()
    assert (scale.attrs["cnet.init"], scale.attrs["cnet.lr"], scale.attrs["cnet.decay"]) == ("constant(1.0)", 10.0, 0.0)
    assert (table.attrs["cnet.init"], table.attrs["cnet.fan_in"]) == ("xavier()", 4)
    assert function.returned("state")["seen"].op is not None
    assert list(main(source, phase="infer").arguments("state")) == []


def test_a_state_that_a_shared_layer_updates_twice() -> None:
    source = body("    layer norm = batch_norm()\n    output norm(norm(x)) as y")
    function = main(source)
    means = [op for op in function.ops if op.name == "cnet.running_average"]
    assert list(function.arguments("state")) == ["norm.running_mean", "norm.running_var"]
    old = function.arguments("state")["norm.running_mean"]
    first, second = (op for op in means if op.operands[0] in (old, means[0].result))
    assert (first.operands[0], second.operands[0]) == (old, first.result)
    assert function.returned("state")["norm.running_mean"] is second.result


def test_keys_of_random_ops_differ() -> None:
    source = body("    a = dropout(x, 0.5) + dropout(x, 0.5)\n    for k in 0..2 { a = dropout(a, 0.5) }\n    output a")
    function = main(source)
    keys = [op.attributes["key"] for op in function.ops if op.name == "cnet.dropout"]
    assert len(set(keys)) == 4
    assert list(function.arguments("random")) == ["random"]
    assert keys == [op.attributes["key"] for op in main(source).ops if op.name == "cnet.dropout"]
    assert not main(source, phase="infer").arguments("random")


def test_names_of_googlenet() -> None:
    path = ROOT / "tests" / "language" / "googlenet.cnet"
    names = [n for n in load_file(path)[0].main.arguments("param") if n.endswith("weight")]
    assert names[:4] == [
        "conv1.conv.weight",
        "conv2_reduce.conv.weight",
        "conv2.conv.weight",
        "inception_3a.1x1.conv.weight",
    ]
    assert "i43.inception.3x3_reduce.conv.weight" in names and "aux2.fc1.weight" in names
    assert set(load_file(path, phase="infer")[0].main.arguments("param")) < set(
        load_file(path)[0].main.arguments("param")
    )
