"""fold-batch-norm: batch norms in the weights of convolutions; text, values, refusals, and nets in inference."""

from __future__ import annotations

import numpy as np
import pytest

import concatc
from concatc.frontend.cnet import load
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.op import is_op
from concatc.passes.fold_batch_norm import FoldBatchNorm
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.verify import verify
from tests.ir_text import dedent
from tests.short_ir import function
from tests.values import random_arguments, run_function

IMAGE = "%x: tensor<2x3x6x6xf32>, %w: tensor<4x3x3x3xf32>"
CHANNELS = ", ".join(f"%{name}: tensor<4xf32>" for name in ("m", "v", "g", "b", "c"))
ARGS = f"{IMAGE}, {CHANNELS}"
BATCH_NORM = """
    %h = normalize(%y, %m, %v) {eps = 0.001 : f64}
    %s = scale(%h, %g) {axis=1}
    %z = bias(%s, %b) {axis=1}
    """


def changed(body: str, args: str = ARGS, split: bool = False) -> Module:
    """The function after the pass, which does not change its values; variances are positive."""
    module = function(args, "\n".join(line.strip() for line in body.splitlines() if line.strip()))
    if split:
        InsertSplits().run(module)
    after = clone_module(module)
    FoldBatchNorm().run(after)
    verify(after)
    data = [np.asarray(x, np.float64) for x in random_arguments(module.main)]
    data = [abs(x) + 0.1 if arg.name == "v" else x for arg, x in zip(module.main.args, data, strict=True)]
    found, expected = (run_function(m.main, data, float64=True) for m in (after, module))
    for new, old in zip(found, expected, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-11, atol=1e-11)
    return after


def order(module: Module) -> list[str]:
    """The ops, in order, splits left out."""
    return [op.name.removeprefix("cnet.") for op in module.main.ops[:-1] if not is_op(op, "split")]


@pytest.mark.parametrize("split", [False, True])
def test_text(split: bool) -> None:
    after = changed(f"%y = conv(%x, %w)\n{BATCH_NORM}\nreturn(%z)", split=split)
    made = [op for op in after.main.ops[:-1] if not is_op(op, "split")]
    assert [op.name.removeprefix("cnet.") for op in made] == [
        *("add_scalar", "sqrt", "div", "neg", "mul", "add"),
        *("scale", "conv", "bias"),
    ]
    assert [op.result.name for op in made[-3:]] == ["w.folded", "y", "z"]
    assert after.main.attributes["cnet.joined"] == (
        "batch norm of %z is folded into %w: 108 weights, 64 results an image",
    )


@pytest.mark.parametrize(
    ("body", "tail"),
    [
        ("%z = normalize(%y, %m, %v) {eps = 0.001 : f64}", ["rdiv_scalar", "neg", "mul", "scale", "conv", "bias"]),
        (
            "%h = normalize(%y, %m, %v) {eps = 0.001 : f64}\n%z = bias(%h, %b) {axis=1}",
            ["rdiv_scalar", "neg", "mul", "add", "scale", "conv", "bias"],
        ),
        (
            "%h = normalize(%y, %m, %v) {eps = 0.001 : f64}\n%z = scale(%h, %g) {axis=1}",
            ["div", "neg", "mul", "scale", "conv", "bias"],
        ),
    ],
)
def test_without_scale_or_bias(body: str, tail: list[str]) -> None:
    assert order(changed(f"%y = conv(%x, %w)\n{body}\nreturn(%z)"))[2:] == tail


def test_a_bias_of_the_convolution_goes_along() -> None:
    after = changed(f"%k = conv(%x, %w)\n%y = bias(%k, %c) {{axis=1}}\n{BATCH_NORM}\nreturn(%z)")
    assert order(after)[-3:] == ["scale", "conv", "bias"]
    assert "sub" in order(after)
    assert order(after).count("bias") == 1


def test_groups_strides_and_padding() -> None:
    args = f"%x: tensor<2x6x5x5xf32>, %w: tensor<4x3x3x3xf32>, {CHANNELS}"
    conv = "conv(%x, %w) {groups=2, stride=array<i64: 2, 1>, pad=array<i64: 1, 1>}"
    assert "normalize" not in order(changed(f"%y = {conv}\n{BATCH_NORM}\nreturn(%z)", args))


def test_transposed_convolutions() -> None:
    args = f"%x: tensor<2x3x4x4xf32>, %w: tensor<3x4x2x2xf32>, {CHANNELS}"
    after = changed(f"%y = conv_transpose(%x, %w) {{stride=array<i64: 2, 2>}}\n{BATCH_NORM}\nreturn(%z)", args)
    assert "normalize" not in order(after)
    (scale,) = [op for op in after.main.ops[:-1] if is_op(op, "scale")]
    assert scale.attributes["axis"] == 1


def test_transposed_convolutions_in_groups_stay() -> None:
    """Rows of their weight serve a channel of each group."""
    args = f"%x: tensor<2x4x4x4xf32>, %w: tensor<4x2x2x2xf32>, {CHANNELS}"
    body = f"%y = conv_transpose(%x, %w) {{stride=array<i64: 2, 2>, groups=2}}\n{BATCH_NORM}\nreturn(%z)"
    assert "normalize" in order(changed(body, args))


READ = "%{} is read besides, or is an output"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"%y = conv(%x, %w)\n{BATCH_NORM}\nreturn(%z, %y)", READ.format("y")),
        (f"%y = conv(%x, %w)\n{BATCH_NORM}\n%o = relu(%y)\nreturn(%z, %o)", READ.format("y")),
        (f"%k = conv(%x, %w)\n%y = bias(%k, %c) {{axis=1}}\n{BATCH_NORM}\nreturn(%z, %k)", READ.format("k")),
        (f"%k = conv(%x, %w)\n%y = bias(%k, %c) {{axis=1}}\n{BATCH_NORM}\nreturn(%z, %y)", READ.format("y")),
        (
            f"%y = conv(%x, %w)\n%o = conv(%x, %w)\n{BATCH_NORM}\nreturn(%z, %o)",
            "%w is the weight of other layers too",
        ),
        (f"%u = relu(%w)\n%y = conv(%x, %u)\n{BATCH_NORM}\nreturn(%z)", None),
        (f"%k = conv(%x, %w)\n%y = relu(%k)\n{BATCH_NORM}\nreturn(%z)", None),
        (f"%k = conv(%x, %w)\n%d = exp(%c)\n%y = bias(%k, %d) {{axis=1}}\n{BATCH_NORM}\nreturn(%z)", None),
        (
            "%y = conv(%x, %w)\n%m2, %v2 = channel_stats(%y)\n"
            "%z = normalize(%y, %m2, %v2) {eps = 0.001 : f64}\nreturn(%z)",
            None,
        ),
        ("%y = conv(%x, %w)\n%m2 = relu(%m)\n%z = normalize(%y, %m2, %v) {eps = 0.001 : f64}\nreturn(%z)", None),
    ],
    ids=[
        "result",
        "another reader",
        "result without its bias",
        "result with its bias",
        "weight read twice",
        "weight made",
        "ReLU between",
        "bias made",
        "statistics of the batch",
        "mean made",
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_what_stays_and_why(body: str, reason: str | None, split: bool) -> None:
    after = changed(body, split=split)
    assert "normalize" in order(after)
    said = (f"batch norm of %z is not folded into the convolution: {reason}",) if reason is not None else None
    assert after.main.attributes.get("cnet.joined") == said


def test_what_stands_behind_stays_where_it_is_made_or_read_elsewhere() -> None:
    """The normalisation is folded; a scale that is made, or whose input is read twice, is not."""
    made = "%y = conv(%x, %w)\n%h = normalize(%y, %m, %v)\n%q = relu(%g)\n%z = scale(%h, %q) {axis=1}\nreturn(%z)"
    twice = "%y = conv(%x, %w)\n%h = normalize(%y, %m, %v)\n%z = scale(%h, %g) {axis=1}\nreturn(%z, %h)"
    other = "%y = conv(%x, %w)\n%h = normalize(%y, %m, %v)\n%z = scale(%h, %c) {axis=2}\nreturn(%z)"
    for body in (made, twice, other):
        after = order(changed(body))
        assert "normalize" not in after
        assert after[-1] == "scale"


def test_more_weights_than_one_image_pays_for_stay() -> None:
    args = f"%x: tensor<64x3x4x4xf32>, %w: tensor<4x3x3x3xf32>, {CHANNELS}"
    after = changed(f"%y = conv(%x, %w)\n{BATCH_NORM}\nreturn(%z)", args)
    assert "normalize" in order(after)
    assert after.main.attributes["cnet.joined"] == (
        "batch norm of %z is not folded into %w: 108 weights, 16 results an image",
    )


NET = dedent("""
    net t(n = 3) {
        input x: f32[n, 3, 12, 12]
        input label: i32[n]
        h = x |> conv(8, kernel=3, pad=1, bias=true) @c |> batch_norm @norm |> relu
        logits = h |> global_avg_pool |> flatten |> linear(4)
        loss softmax_loss(logits, label)
        output logits
    }
    """)


def test_a_kept_blob_stays() -> None:
    source = NET.replace("h = x |> conv(", "k = x |> conv(").replace("|> batch_norm", "\n    h = k |> batch_norm")
    for keep, stays in (((), False), (("h",), False), (("k",), True)):
        graph, _ = load(source, "t.cnet", keep=keep, phase="infer")
        FoldBatchNorm().run(graph)
        assert ("normalize" in order(graph)) is stays


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_inference_follows_parameters_and_states(target: str) -> None:
    """What a step of training changes, running statistics too, the next inference sees; at any batch size."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 3, 12, 12)).astype(np.float32)
    label = np.array([0, 1, 3], np.int32)
    net = concatc.compile_source(NET, target=target)
    net.init(seed=0)
    for _ in range(3):
        net.train_step(x=x, label=label, optimizer=concatc.SGD(lr=0.5))
        np.testing.assert_allclose(net.eval(x=x)["logits"], _expected(net, x), rtol=1e-4, atol=1e-5)
    net.params["norm.weight"][...] = 2.0
    net.params["norm.bias"][...] = -0.25
    np.testing.assert_allclose(net.eval(x=x)["logits"], _expected(net, x), rtol=1e-4, atol=1e-5)
    other = rng.normal(size=(5, 3, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(net.eval(x=other)["logits"], _expected(net, other), rtol=1e-4, atol=1e-5)


def _expected(net: concatc.CompiledModule, x: np.ndarray) -> np.ndarray:
    """The logits by NumPy in float64, as the net is written."""
    params = {name: np.asarray(value, np.float64) for name, value in net.params.items()}
    states = {name: np.asarray(value, np.float64) for name, value in net.states.items()}
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))
    h = np.einsum("nchwij,ocij->nohw", windows, params["c.weight"]) + params["c.bias"][:, None, None]
    mean, var = (states[f"norm.running_{kind}"][:, None, None] for kind in ("mean", "var"))
    weight, bias = (params[f"norm.{kind}"][:, None, None] for kind in ("weight", "bias"))
    h = np.maximum((h - mean) / np.sqrt(var + 1e-5) * weight + bias, 0).mean(axis=(2, 3))
    return np.asarray(h @ params["logits.weight"].T + params["logits.bias"])
