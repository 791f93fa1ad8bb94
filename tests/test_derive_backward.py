"""derive-backward: text before and after, gradients against finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from concatc.diagnostics import ConcatcError, UsageError
from concatc.ir.core import Module, Value
from concatc.ir.parser import parse_module
from concatc.op import Op
from concatc.ops.relu import Relu
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.graph import is_backward
from concatc.passes.insert_splits import InsertSplits
from concatc.targets.reference.interpreter import run_function
from tests.ir_text import dedent, plain, short_text
from tests.small_nets import NetBuilder, check_gradients, data_for, joint, run64


def thread(x: int = 4, y: int = 2) -> NetBuilder:
    """The main example: two branches of different batch sizes, joined on axis 0."""
    net = NetBuilder("thread")
    a, b, label = net.input("a", x, 3), net.input("b", y, 3), net.input("label", x + y, dtype="i32")
    ha = net.b.relu(net.b.linear(a, net.param("ha.weight", 5, 3), names=["ha.linear"]), names=["ha"])
    hb = net.b.relu(net.b.linear(b, net.param("hb.weight", 5, 3), names=["hb.linear"]), names=["hb"])
    h = net.b.concat(ha, hb, axis=0, names=["h"])
    logits = net.b.linear(h, net.param("logits.weight", 4, 5), names=["logits"])
    net.loss(net.b.softmax_loss(logits, label, names=["main"]), "main")
    net.output("logits", logits)
    return net


def test_thread_text() -> None:
    net = thread()
    h = next(op.result for op in net.func.ops if op.results[0].name == "h")
    net.keep("h", h)
    module = joint(net.module())
    backward = short_text(module.main.body).split("\n")
    start = next(k for k, op in enumerate(module.main.ops) if is_backward(op))
    assert "\n".join(backward[start:]) == dedent(
        """
        %loss.grad = constant() {shape=[], value=1.0, dtype=f32, transposes=return %loss}
        %main.grad = total_loss_grad(%loss.grad, %loss_weights) {transposes=total_loss %loss}
        %logits.grad = softmax_loss_grad(%logits.use0, %label, %main.grad) \
{axis=1, reduction=mean, transposes=softmax_loss %main}
        %logits.grad.use0, %logits.grad.use1 = split(%logits.grad) {ways=2, transposes=linear %logits}
        %logits.weight.grad = linear_weight_grad(%logits.grad.use0, %h.use0) {transposes=linear %logits}
        %h.grad = linear(%logits.grad.use1, %logits.weight) {transpose=True, transposes=linear %logits}
        %h.grad.use0, %h.grad.use1 = split(%h.grad) {ways=2, transposes=concat %h}
        %ha.grad, %hb.grad = slice(%h.grad.use0) {axis=0, sizes=[4, 2], transposes=concat %h}
        %hb.linear.grad = relu_grad(%hb, %hb.grad) {transposes=relu %hb}
        %hb.weight.grad = linear_weight_grad(%hb.linear.grad, %b) {transposes=linear %hb.linear}
        %ha.linear.grad = relu_grad(%ha, %ha.grad) {transposes=relu %ha}
        %ha.weight.grad = linear_weight_grad(%ha.linear.grad, %a) {transposes=linear %ha.linear}
        return(%logits.use1, %main.use1, %loss, %h.use1, %ha.weight.grad, %hb.weight.grad, %logits.weight.grad, \
%h.grad.use1)
        """
    )
    kinds = [(a["cnet.kind"], a["cnet.name"]) for a in module.main.result_attrs]
    assert kinds == [
        ("output", "logits"),
        ("loss", "main"),
        ("total", "loss"),
        ("kept", "h"),
        ("grad", "ha.weight"),
        ("grad", "hb.weight"),
        ("grad", "logits.weight"),
        ("kept_grad", "h"),
    ]


def test_split_becomes_accumulate_with_the_last_reader_first() -> None:
    net = NetBuilder()
    x, label = net.input("x", 2, 3), net.input("label", 2, dtype="i32")
    h = net.named("h", net.b.linear(x, net.param("w", 3, 3)))
    p = net.b.relu(h, names=["p"])
    q = net.b.relu(p, names=["q"])
    net.softmax_loss(net.b.concat(h, p, q, h, axis=1, names=["c"]), label)
    module = joint(net.module())
    sums = [line for line in short_text(module.main.body).split("\n") if "accumulate" in line]
    assert sums == [
        "%p.grad = accumulate(%p.use1.grad, %p.use0.grad) {transposes=split %p.use0, %p.use1}",
        "%h.grad = accumulate(%h.use2.grad, %h.use1.grad, %h.use0.grad) {transposes=split %h.use0, %h.use1, %h.use2}",
    ]
    check_gradients(module)


def test_text_of_every_level_is_a_fixed_point() -> None:
    module = joint(thread().module())
    once = plain(module)
    assert plain(parse_module(once)) == once


def test_where_nothing_flows_gradients_are_zero() -> None:
    net = thread()
    net.param("unused", 2, 2)
    dead = net.b.relu(net.input("dead", 2, 2), names=["kept_dead"])
    net.keep("kept_dead", dead)
    net.keep("a", net.func.args[0])
    func = joint(net.module(), input_grads=True).main
    results = run64(func, data_for(func))
    assert not results["grad", "unused"].any()
    assert not results["kept_grad", "kept_dead"].any()
    assert not results["input_grad", "dead"].any()
    np.testing.assert_array_equal(results["kept_grad", "a"], results["input_grad", "a"])
    assert results["kept_grad", "a"].any()
    assert ("input_grad", "label") not in results


def test_gradient_of_a_branch_is_its_slice_of_the_kept_gradient() -> None:
    net = thread()
    for name in ("ha", "hb", "h"):
        net.keep(name, next(op.result for op in net.func.ops if op.results[0].name == name))
    func = joint(net.module()).main
    results = run64(func, data_for(func))
    grad = results["kept_grad", "h"]
    np.testing.assert_array_equal(results["kept_grad", "ha"], grad[:4])
    np.testing.assert_array_equal(results["kept_grad", "hb"], grad[4:])


def test_frozen_parameters_and_what_only_they_need() -> None:
    module = joint(thread().module(), freeze=("ha.weight",))
    names = [line.split(" = ")[0] for line in short_text(module.main.body).split("\n")]
    assert ("grad", "ha.weight") not in run64(module.main, data_for(module.main))
    assert "%ha.weight.grad" not in names
    assert "%ha.linear.grad" not in names, "nothing above a frozen parameter needs the gradient of ha"
    check_gradients(module)


def test_gradients_from_outputs() -> None:
    """A net without a loss, seeded by its caller: dx = dy W, dW = dy^T x."""
    net = NetBuilder()
    x = net.input("x", 4, 3)
    y = net.b.linear(x, net.param("w", 2, 3), names=["y"])
    net.output("y", y)
    func = joint(net.module(), output_grads=True, input_grads=("x",)).main
    assert func.args[-1].attrs == {"cnet.kind": "output_grad", "cnet.name": "y"}
    rng = np.random.default_rng(0)
    x_, w_, dy = rng.normal(size=(4, 3)), rng.normal(size=(2, 3)), rng.normal(size=(4, 2))
    _, dw, dx = run_function(func, [x_, w_, dy], float64=True)
    np.testing.assert_allclose(dw, dy.T @ x_, atol=1e-12)
    np.testing.assert_allclose(dx, dy @ w_, atol=1e-12)


def test_loss_weights_are_read_at_run_time() -> None:
    net = NetBuilder()
    x, label = net.input("x", 4, 3), net.input("label", 4, dtype="i32")
    w = net.param("w", 3, 3)
    net.softmax_loss(net.b.linear(x, w), label)
    net.softmax_loss(net.b.relu(net.b.linear(x, w)), label)
    func = joint(net.module()).main
    data = data_for(func)
    grads = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [2.0, 3.0]):
        data["loss_weights"] = np.array(weights)
        grads.append(run64(func, data)["grad", "w"])
    np.testing.assert_allclose(grads[2], 2 * grads[0] + 3 * grads[1], atol=1e-12)


# -- whole nets -----------------------------------------------------------------------------------------------------
def _head(net: NetBuilder, *blobs: Value) -> Module:
    """A loss on each blob of shape [n, c]."""
    for k, blob in enumerate(blobs):
        net.softmax_loss(blob, net.input(f"label{k}", blob.shape[0], dtype="i32"))
    return net.module()


def _pair(net: NetBuilder) -> tuple[Value, Value]:
    """Two hidden blobs of shape [3, 4]."""
    a = net.b.linear(net.input("xa", 3, 5), net.param("wa", 4, 5), names=["a"])
    b = net.b.linear(net.input("xb", 3, 5), net.param("wb", 4, 5), names=["b"])
    return a, b


def self_concat(net: NetBuilder) -> Module:
    a, _ = _pair(net)
    return _head(net, net.b.concat(a, a, axis=0), net.b.concat(a, a, axis=1))


def concat_a_b_a(net: NetBuilder) -> Module:
    a, b = _pair(net)
    return _head(net, net.b.concat(a, b, a, axis=1))


def one_blob_in_two_concats(net: NetBuilder) -> Module:
    a, b = _pair(net)
    return _head(net, net.b.concat(a, b, axis=1), net.b.concat(b, a, axis=1))


def tree_of_concats(net: NetBuilder) -> Module:
    a, b = _pair(net)
    h = net.b.relu(net.b.concat(a, b, axis=1))
    return _head(net, net.b.concat(h, a, axis=1), net.b.concat(h, b, axis=1))


def two_axes(net: NetBuilder) -> Module:
    a, b = _pair(net)
    return _head(net, net.b.concat(a, b, axis=0), net.b.concat(a, b, axis=1))


def input_and_param_in_concat(net: NetBuilder) -> Module:
    a, _ = _pair(net)
    c = net.b.concat(a, net.input("x", 3, 2), net.param("p", 3, 3), axis=1, names=["c"])
    net.output("c", c)
    return _head(net, c)


def input_that_feeds_another_input(net: NetBuilder) -> Module:
    x = net.input("x", 3, 4)
    h = net.b.linear(x, net.param("w", 4, 4))
    return _head(net, net.b.concat(x, h, x, axis=1))


def reader_before_the_concat_is_complete(net: NetBuilder) -> Module:
    a, b = _pair(net)
    early = net.b.linear(net.b.relu(a), net.param("early", 2, 4))
    return _head(net, net.b.concat(a, b, early, axis=1))


def shared_sum(net: NetBuilder) -> Module:
    """s = a + b; z = linear(s); u = concat(a, z); v = concat(b, z): add's cotangent is shared."""
    a, b = _pair(net)
    z = net.b.linear(net.b.add(a, b), net.param("wz", 4, 4))
    return _head(net, net.b.concat(a, z, axis=1), net.b.concat(b, z, axis=1))


def later_loss_on_a_branch(net: NetBuilder) -> Module:
    """c = concat(a, b), loss f(c), then loss g(a): g's backward comes first."""
    a, b = _pair(net)
    return _head(net, net.b.concat(a, b, axis=1), net.b.relu(a))


def unused_slice(net: NetBuilder) -> Module:
    a, _ = _pair(net)
    p, _ = net.b.slice(a, axis=1, sizes=(3, 1))
    return _head(net, p)


def slices_of_slices(net: NetBuilder) -> Module:
    a, b = _pair(net)
    p, q, r = net.b.slice(net.b.concat(a, b, axis=0), axis=0, sizes=(2, 2, 2))
    _, s = net.b.slice(q, axis=1, sizes=(1, 3))
    return _head(net, net.b.concat(r, p, r, axis=0), s)


def shared_parameters(net: NetBuilder) -> Module:
    x, y, w = net.input("x", 3, 4), net.input("y", 2, 4), net.param("w", 4, 4)
    hx = net.b.relu(net.b.linear(net.b.relu(net.b.linear(x, w)), w))
    return _head(net, net.b.concat(hx, net.b.linear(y, w), axis=0))


def three_axis_concat(net: NetBuilder) -> Module:
    x, w = net.input("x", 2, 3, 4), net.param("w", 4, 4)
    h = net.b.linear(x, w)
    c = net.b.concat(h, net.b.relu(h), axis=2)
    d = net.b.concat(c, c, axis=0)
    return _head(net, net.b.reshape(d, shape=(4, 24)))


def zero_and_odd_sizes(net: NetBuilder) -> Module:
    a = net.b.linear(net.input("x0", 0, 3), net.param("w", 5, 3))
    b = net.b.linear(net.input("x1", 7, 3), net.param("v", 5, 3))
    return _head(net, net.b.concat(a, b, axis=0))


NETS: dict[str, Callable[[NetBuilder], Module]] = {
    build.__name__: build
    for build in (
        self_concat,
        concat_a_b_a,
        one_blob_in_two_concats,
        tree_of_concats,
        two_axes,
        input_and_param_in_concat,
        input_that_feeds_another_input,
        reader_before_the_concat_is_complete,
        shared_sum,
        later_loss_on_a_branch,
        unused_slice,
        slices_of_slices,
        shared_parameters,
        three_axis_concat,
        zero_and_odd_sizes,
    )
}


@pytest.mark.parametrize("name", NETS)
def test_gradients_of_whole_nets(name: str) -> None:
    module = joint(NETS[name](NetBuilder()), input_grads=True)
    check_gradients(module)
    once = plain(module)
    InsertSplits().run(module)
    assert plain(module) == once, "insert-splits is idempotent on joint graphs"
    assert plain(parse_module(once)) == once


@pytest.mark.parametrize("name", NETS)
def test_forward_values_do_not_change(name: str) -> None:
    plain_func = NETS[name](NetBuilder()).main
    data = data_for(plain_func)
    joint_func = joint(NETS[name](NetBuilder())).main
    results = run64(joint_func, data)
    for key, expected in run64(plain_func, data).items():
        np.testing.assert_array_equal(results[key], expected)


# -- errors ---------------------------------------------------------------------------------------------------------
def test_a_net_without_a_loss() -> None:
    net = NetBuilder("plain")
    net.output("y", net.b.relu(net.input("x", 2)))
    with pytest.raises(ConcatcError) as error:
        joint(net.module())
    assert str(error.value) == (
        "error: net plain has no loss, so it has no backward pass\n"
        "help: add a loss, such as `loss softmax_loss(logits, label)`"
    )


def test_an_operation_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    module = thread().module()
    monkeypatch.setattr(Relu, "vjp", Op.vjp)
    with pytest.raises(ConcatcError, match="error: relu has no gradient, and a loss depends on it"):
        joint(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"freeze": ("ha.weigth",)},
            "error: the net has no parameter `ha.weigth`\nhelp: did you mean `ha.weight`?",
        ),
        ({"input_grads": ("c",)}, "error: the net has no input `c`"),
        ({"input_grads": ("label",)}, "error: input `label` is tensor<6xi32>: integers have no gradient"),
        ({"output_grads": ("logit",)}, "error: the net has no output `logit`\nhelp: did you mean `logits`?"),
    ],
)
def test_unknown_names(options: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(UsageError) as error:
        joint(thread().module(), **options)
    assert str(error.value) == message


def test_a_second_backward_pass() -> None:
    module = joint(thread().module())
    with pytest.raises(UsageError, match="@thread has a backward pass already"):
        DeriveBackward().run(module)
