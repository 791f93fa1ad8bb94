"""fuse and order-kernels: structure, text, and values that do not change."""

from __future__ import annotations

import time

import numpy as np
import pytest

from concatc.compiler import Options, compile_net
from concatc.ir.clone import clone_module
from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.parser import parse_module
from concatc.ir.verifier import verify
from concatc.op import is_op
from concatc.ops.relu import Relu
from concatc.passes.fuse import Fuse
from concatc.passes.fusion import is_view
from concatc.passes.graph import is_backward
from concatc.passes.order_kernels import OrderKernels, orders_of
from tests.example_nets import NETS as EXAMPLES
from tests.ir_text import dedent, plain, short_text
from tests.small_nets import NetBuilder, data_for, joint, run64
from tests.test_derive_backward import NETS, thread


def fused(module: Module, **options: int | bool) -> Module:
    Fuse(**options).run(module)  # type: ignore[arg-type]
    verify(module)
    return module


def kernels(func: FuncOp) -> list[Operation]:
    return [op for op in func.ops if op.name == "cnet.kernel"]


def titles(module: Module) -> list[str]:
    return [str(op.attributes["sym_name"]).split("_", 1)[1] for op in kernels(module.main)]


def dense_net(n: int = 2, growth: int = 3, depth: int = 2, size: int = 6, stages: int = 2) -> NetBuilder:
    """DenseNet: batch norm, relu, conv, concat."""
    net = NetBuilder("densenet")
    image, label = net.input("image", n, 3, size, size), net.input("label", n, dtype="i32")
    h = net.call("conv", image, channels=2 * growth, kernel=(3, 3), pad=(1, 1), at="stem")
    for stage in range(stages):
        for k in range(depth):
            at = f"stage{stage}.dense{k}"
            y = net.b.relu(net.call("batch_norm", h, at=at + ".norm"))
            y = net.call("conv", y, channels=growth, kernel=(3, 3), pad=(1, 1), at=at)
            h = net.b.concat(h, y, axis=1)
        if stage < stages - 1:
            y = net.b.relu(net.call("batch_norm", h, at=f"stage{stage}.norm"))
            y = net.call("conv", y, channels=h.shape[1], kernel=(1, 1), at=f"stage{stage}")
            h = net.call("avg_pool", y, kernel=(2, 2), stride=(2, 2))
    h = net.call("global_avg_pool", net.b.relu(net.call("batch_norm", h, at="norm")))
    net.softmax_loss(net.call("linear", net.b.reshape(h, shape=h.shape[:2]), size=4, at="logits"), label)
    return net


def test_thread_text() -> None:
    module = fused(joint(thread().module()))
    forward = short_text(module.main.body).split("\n")
    end = next(k for k, line in enumerate(forward) if "total_loss_grad" in line)
    assert "\n".join(forward[:end]) == dedent(
        """
        %ha = kernel(%a, %ha.weight) {sym_name=k0_linear_relu}
          %ha.linear_ = linear(%a_, %ha.weight_)
          %ha_ = relu(%ha.linear_)
          yield(%ha_)
        %hb = kernel(%b, %hb.weight) {sym_name=k1_linear_relu}
          %hb.linear_ = linear(%b_, %hb.weight_)
          %hb_ = relu(%hb.linear_)
          yield(%hb_)
        %h = concat(%ha, %hb) {axis=0}
        %logits = kernel(%h, %logits.weight) {sym_name=k2_linear}
          %logits_ = linear(%h_, %logits.weight_)
          yield(%logits_)
        %logits.use0, %logits.use1 = split(%logits) {ways=2}
        %main = kernel(%logits.use0, %label) {sym_name=k3_softmax_loss}
          %main_ = softmax_loss(%logits_, %label_) {axis=1, reduction=mean}
          yield(%main_)
        %main.use0, %main.use1 = split(%main) {ways=2}
        %loss = kernel(%main.use0, %loss_weights) {sym_name=k4_total_loss}
          %loss_ = total_loss(%main_, %loss_weights_)
          yield(%loss_)
        """
    )


# -- rules ----------------------------------------------------------------------------------------------------------
def test_bias_and_activation_follow_a_contraction() -> None:
    net = NetBuilder()
    net.output("y", net.b.relu(net.call("linear", net.input("x", 4, 3), size=5)))
    assert titles(fused(net.module())) == ["linear_bias_relu"]


def test_a_contraction_keeps_one_result() -> None:
    """z is read twice, so it is stored, and relu(z) is a kernel of its own."""
    net = NetBuilder()
    z = net.b.linear(net.input("x", 4, 3), net.param("w", 5, 3))
    net.output("z", z)
    net.output("y", net.b.relu(z))
    assert titles(fused(net.module())) == ["linear", "relu"]


def test_a_chain_stores_what_is_read_outside() -> None:
    net = NetBuilder()
    p = net.named("p", net.b.relu(net.input("x", 4, 3)))
    net.output("p", p)
    net.output("q", net.b.exp(net.b.square(p)))
    module = fused(net.module())
    assert titles(module) == ["relu_square_exp"]
    assert len(kernels(module.main)[0].results) == 2


def test_pointwise_into_a_sum() -> None:
    net = NetBuilder()
    x = net.input("x", 4, 3)
    net.output("y", net.b.sqrt(net.b.sum(net.b.exp(net.b.mul(x, x)), axes=(1,))))
    assert titles(fused(net.module())) == ["mul_exp_sum_sqrt"]


def test_a_sum_does_not_take_in_what_others_read() -> None:
    net = NetBuilder()
    e = net.b.exp(net.input("x", 4, 3))
    net.output("e", e)
    net.output("s", net.b.sum(e, axes=(1,)))
    assert titles(fused(net.module())) == ["exp", "sum"]


def test_sums_of_one_nest_share_it() -> None:
    net = NetBuilder()
    x, y = net.input("x", 4, 3), net.input("y", 4, 3)
    net.output("s", net.b.sum(x, axes=(0,)))
    net.output("t", net.b.sum(net.b.mul(x, y), axes=(0,)))
    net.output("u", net.b.sum(x, axes=(1,)))
    assert titles(fused(net.module())) == ["sum_mul_sum", "sum"]


def test_contractions_take_prologues_where_asked() -> None:
    def net() -> Module:
        net = NetBuilder()
        net.output("y", net.b.linear(net.b.relu(net.input("x", 4, 3)), net.param("w", 5, 3)))
        return net.module()

    assert titles(fused(net())) == ["relu_linear"]
    assert titles(fused(net(), prologues=False)) == ["relu", "linear"]


def test_a_costly_prologue_is_packed() -> None:
    """It runs once an element, whatever the contraction reads how often."""
    net = NetBuilder()
    net.output("y", net.b.linear(net.b.exp(net.input("x", 4, 3)), net.param("w", 5, 3)))
    assert titles(fused(net.module())) == ["exp_linear"]


def test_a_prologue_that_others_read_is_stored() -> None:
    net = NetBuilder()
    e = net.b.exp(net.input("x", 4, 3))
    net.output("e", e)
    net.output("y", net.b.linear(e, net.param("w", 5, 3)))
    assert titles(fused(net.module())) == ["exp", "linear"]


def test_the_title_of_a_kernel_names_its_contraction() -> None:
    net = NetBuilder()
    y = net.input("x", 2, 3, 4, 4)
    for part in ("exp", "square", "tanh", "sqrt", "relu"):
        y = getattr(net.b, part)(y)
    net.output("y", net.b.conv(y, net.param("w", 5, 3, 3, 3)))
    assert titles(fused(net.module())) == ["exp_square_tanh_conv_and_2"]


def test_only_one_operand_is_packed() -> None:
    net = NetBuilder()
    a, b = net.b.exp(net.input("x", 4, 3)), net.b.tanh(net.input("z", 3, 5))
    net.output("y", net.b.matmul(a, b))
    found = titles(fused(net.module()))
    assert sorted(found) in (["exp", "tanh_matmul"], ["exp_matmul", "tanh"])


def test_no_cycle_through_a_third_kernel() -> None:
    """add reads p twice: directly, and through a softmax that cannot join.  Fusing both would make a cycle."""
    net = NetBuilder()
    p = net.b.exp(net.input("x", 4, 3))
    net.output("y", net.b.add(p, net.b.softmax(p)))
    module = fused(net.module())
    assert titles(module) in (["exp", "softmax", "add"], ["exp", "softmax_add"])
    verify(module)


def test_an_epilogue_takes_in_what_only_it_reads() -> None:
    net = NetBuilder()
    z = net.b.linear(net.input("x", 4, 3), net.param("w", 5, 3))
    net.output("y", net.b.add(z, net.b.exp(net.b.square(net.input("u", 4, 5)))))
    assert titles(fused(net.module())) == ["linear_square_exp_add"]


def test_an_epilogue_leaves_what_others_read() -> None:
    net = NetBuilder()
    z = net.b.linear(net.input("x", 4, 3), net.param("w", 5, 3))
    e = net.b.exp(net.input("u", 4, 5))
    net.output("e", e)
    net.output("y", net.b.add(z, e))
    assert titles(fused(net.module())) == ["exp", "linear_add"]


def test_a_cheap_map_of_a_stored_value_is_not_stored() -> None:
    """s is read by a sum as well, so the sum over i and the softmax read it, and not s * w."""
    net = NetBuilder()
    s = net.b.linear(net.input("x", 4, 2), net.param("v", 3, 2))
    y = net.b.scale(s, net.param("w", 3), axis=1)
    net.output("s", net.b.sum(s, axes=(1,)))
    net.output("t", net.b.sum(y, axes=(0,)))
    net.output("u", net.b.softmax(y, axis=1))
    assert titles(fused(net.module())) == ["linear", "sum", "scale_sum", "scale_softmax"]


def test_a_map_is_stored_where_what_it_maps_is_not() -> None:
    net = NetBuilder()
    y = net.b.scale(net.b.softmax(net.input("x", 4, 3), axis=1), net.param("w", 3), axis=1)
    net.output("t", net.b.sum(y, axes=(0,)))
    net.output("u", net.b.softmax(y, axis=1))
    assert titles(fused(net.module())) == ["softmax_scale", "sum", "softmax"]


def test_contributions_of_one_kernel_are_added_in_it() -> None:
    """x * x: both contributions are made at once, so their sum is not stored twice."""
    net = NetBuilder()
    w = net.param("w", 4, 3)
    s = net.b.mul(w, w)
    net.loss(net.b.sum(net.b.mul(s, net.input("x", 4, 3)), axes=(0, 1)))
    module = fused(joint(net.module()))
    assert not any(is_op(op, "accumulate") for op in module.main.ops)


def test_effects_share_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relu, "effect", True)
    net = NetBuilder()
    net.output("y", net.b.exp(net.b.relu(net.b.square(net.input("x", 4, 3)))))
    assert titles(fused(net.module())) == ["square", "relu", "exp"]


def test_kernels_stay_small() -> None:
    net = NetBuilder()
    x = net.input("x", 4)
    for _ in range(40):
        x = net.b.tanh(x)
    net.output("y", x)
    assert [len(k.regions[0].block.ops) - 1 for k in kernels(fused(net.module(), max_ops=16).main)] == [16, 16, 8]


def test_statistics_and_running_averages_are_one_kernel() -> None:
    module = fused(joint(dense_net(stages=1, depth=1).module()))
    names = titles(module)
    assert "channel_stats_running_average_running_average" in names
    assert "normalize_scale_bias_relu" in names
    assert "conv_bias" in names
    assert "sum_mul_sum" in names, "the gradients of scale and bias share one pass"


def test_cheap_maps_of_cheap_maps_are_repeated_too() -> None:
    net = NetBuilder()
    x = net.input("x", 4, 3)
    net.output("x", x)
    half = net.b.mul_scalar(x, value=0.5)
    quarter = net.b.mul_scalar(half, value=0.5)
    for k, blob in enumerate((half, quarter, quarter)):
        net.output(f"sum{k}", net.b.sum(blob, axes=(k % 2,)))
    module = net.module()
    data = data_for(module.main)
    expected = run64(module.main, data)
    found = run64(fused(module).main, data)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


# -- whole nets -----------------------------------------------------------------------------------------------------
def whole_nets() -> dict[str, Module]:
    nets = {name: build(NetBuilder()) for name, build in NETS.items()}
    nets["thread"] = thread().module()
    nets["dense"] = dense_net().module()
    return nets


@pytest.mark.parametrize("name", whole_nets())
def test_values_do_not_change(name: str) -> None:
    module = joint(whole_nets()[name], input_grads=True)
    data = data_for(module.main)
    expected = run64(module.main, data)
    fused(module)
    check_structure(module.main)
    for key, value in run64(module.main, data).items():
        np.testing.assert_array_equal(value, expected[key], str(key))
    OrderKernels().run(module)
    verify(module)
    check_structure(module.main)
    for key, value in run64(module.main, data).items():
        # Sums may run in another order.
        np.testing.assert_allclose(value, expected[key], rtol=1e-12, atol=1e-12, err_msg=str(key))
    text = plain(module)
    assert plain(parse_module(text)) == text


def check_structure(func: FuncOp) -> None:
    """The invariants of the kernel graph."""
    for op in func.ops[:-1]:
        assert op.name == "cnet.kernel" or is_view(op), op.name
        for value in op.results:
            counted = [r for r in value.readers if is_backward(op) or not is_backward(r)]
            assert len(counted) <= 1 or value.op is None, f"%{value.name} has {len(counted)} readers"
    for kernel in kernels(func):
        block = kernel.regions[0].block
        halves = {"transposes" in op.attributes for op in block.ops[:-1]}
        assert len(halves) == 1, f"{kernel.attributes['sym_name']} mixes forward and backward"
        contractions = [op for op in block.ops if is_op(op, "linear", "conv", "matmul", "conv_weight_grad")]
        assert not contractions or len(kernel.results) == 1
        assert not any(is_op(op, "split", "concat", "slice", "reshape") for op in block.ops)
        for value in [r for op in block.ops for r in op.results]:
            assert value.uses, f"%{value.name} is neither read nor stored"


def test_same_input_same_text() -> None:
    assert plain(fused(joint(dense_net().module()))) == plain(fused(joint(dense_net().module())))


# -- order-kernels ----------------------------------------------------------------------------------------------------
def wide() -> Module:
    """Four large blobs, each folded to a small one: computing all four first needs four times the memory."""
    net = NetBuilder()
    x = net.input("x", 64)
    large = [net.b.expand(net.b.mul_scalar(x, value=float(k)), shape=(50, 64), axes=(0,)) for k in range(4)]
    large = [net.b.softmax(v, axis=1) for v in large]
    net.output("y", net.b.concat(*(net.b.sum(v, axes=(0, 1), keepdims=True) for v in large), axis=0))
    return net.module()


def test_an_order_that_needs_less() -> None:
    module = fused(wide())
    before = run64(module.main, data_for(module.main))
    OrderKernels().run(module)
    func = module.main
    peaks = func.attributes["cnet.order_bytes"]
    assert isinstance(peaks, dict)
    assert peaks["source"] > 3 * peaks["least_growth"]
    assert func.attributes["cnet.order"] == "least_growth"
    np.testing.assert_array_equal(run64(func, data_for(func))["output", "y"], before["output", "y"])


def test_gradients_of_other_losses_wait_until_they_are_needed() -> None:
    """The gradient that a loss on ``%h`` sends back is large, and is added when the main path comes there."""
    net = NetBuilder()
    h = net.b.linear(net.input("x", 4, 8), net.param("w", 64, 8))
    deep = h
    for k in range(3):
        deep = net.b.relu(net.b.linear(deep, net.param(f"v{k}", 64, 64)))
    net.loss(net.b.sum(deep, axes=(0, 1), keepdims=False, names=["main"]), "main")
    net.loss(net.b.sum(net.b.square(net.b.linear(h, net.param("u", 2, 64))), axes=(0, 1), names=["aux"]), "aux")
    func = fused(joint(net.module())).main
    orders = orders_of(func)
    assert orders["as_needed"].peak_bytes < orders["source"].peak_bytes


def test_sums_are_added_in_the_order_in_which_they_are_made() -> None:
    module = fused(joint(NETS["later_loss_on_a_branch"](NetBuilder())))
    OrderKernels().run(module)
    func = module.main
    made: dict[Value, int] = {}
    for k, op in enumerate(func.ops):
        if is_op(op, "accumulate"):
            times = [made[v] for v in op.operands]
            assert times == sorted(times)
        when = k if op.name == "cnet.kernel" else max((made.get(v, 0) for v in op.operands), default=0)
        made.update(dict.fromkeys(op.results, when))


def test_forward_runs_first() -> None:
    module = fused(joint(dense_net().module()))
    OrderKernels().run(module)
    halves = [is_backward(op) for op in module.main.ops[:-1]]
    assert halves == sorted(halves)


def test_dense_net_40_is_fast() -> None:
    """All graph passes on about 1,100 operations; about 0.3 s alone on one core, four times that on a busy machine."""
    module = dense_net(growth=12, depth=12, size=32, stages=3).module()
    start = time.perf_counter()
    joint(module)
    assert len(module.main.ops) > 1000
    clone = clone_module(module)
    fused(clone)
    OrderKernels().run(clone)
    assert time.perf_counter() - start < 3


def test_what_maps_and_sums_read_by_image_is_made_in_their_kernel() -> None:
    """The gradient that a batch norm's backward pass reads three times is stored nowhere."""
    path = EXAMPLES / "densenet40.cnet"
    dims = {"n": 2, "depth": 2, "size": 8, "growth": 3, "stem": 4}
    net = compile_net(path.read_text(encoding="utf-8"), str(path), Options(dims=dims)).phase("train").kernels
    stored = [v for op in kernels(net.main) for v in op.results if v.name.endswith("bias.grad")]
    # Those of images; gradients of the biases themselves are results.
    assert [v.name for v in stored if v.tensor.rank == 4] == []
    makers = [op for op in kernels(net.main) if any(is_op(inner, "conv_input_grad") for inner in op.walk())]
    assert sum(len(op.results) > 2 for op in makers) == 6, "each reads through batch norm and relu"
