"""insert-splits: text before and after, idempotence, values."""

from __future__ import annotations

import numpy as np
import pytest

import concatc
from concatc.ir.parser import parse_module
from concatc.passes.insert_splits import InsertSplits
from tests.ir_text import after_pass, dedent, plain
from tests.small_nets import NetBuilder, data_for, joint, run64

READ_TWICE = (
    """
    func.func @f(%x: tensor<2x3xf32>) -> tensor<2x6xf32> {
      %y = "cnet.relu"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
      %c = "cnet.concat"(%y, %x) {axis = 1 : i64} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x6xf32>
      func.return %c : tensor<2x6xf32>
    }
    """,
    """
    %x.use0, %x.use1 = split(%x) {ways=2}
    %y = relu(%x.use0)
    %c = concat(%y, %x.use1) {axis=1}
    return(%c)
    """,
)

TWICE_IN_ONE_OPERATION = (
    """
    func.func @f(%x: tensor<2x3xf32>) -> tensor<2x9xf32> {
      %h = "cnet.relu"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
      %c = "cnet.concat"(%h, %h, %h) {axis = 1 : i64}
        : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x9xf32>
      func.return %c : tensor<2x9xf32>
    }
    """,
    """
    %h = relu(%x)
    %h.use0, %h.use1, %h.use2 = split(%h) {ways=3}
    %c = concat(%h.use0, %h.use1, %h.use2) {axis=1}
    return(%c)
    """,
)

RETURN_IS_A_READER = (
    """
    func.func @f(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) {
      %h = "cnet.relu"(%x) : (tensor<3xf32>) -> tensor<3xf32>
      %g = "cnet.relu"(%h) : (tensor<3xf32>) -> tensor<3xf32>
      func.return %h, %g, %g : tensor<3xf32>, tensor<3xf32>, tensor<3xf32>
    }
    """,
    """
    %h = relu(%x)
    %h.use0, %h.use1 = split(%h) {ways=2}
    %g = relu(%h.use0)
    %g.use0, %g.use1 = split(%g) {ways=2}
    return(%h.use1, %g.use0, %g.use1)
    """,
)

# A split that is there already takes in later readers; nested splits become one.
ONE_SPLIT_A_VALUE = (
    """
    func.func @f(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) {
      %p, %q = "cnet.split"(%x) {ways = 2 : i64} : (tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>)
      %r, %s = "cnet.split"(%q) {ways = 2 : i64} : (tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>)
      %h = "cnet.relu"(%p) : (tensor<3xf32>) -> tensor<3xf32>
      func.return %s, %r, %h, %x : tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>
    }
    """,
    """
    %x.use0, %x.use1, %x.use2, %x.use3 = split(%x) {ways=4}
    %h = relu(%x.use0)
    return(%x.use1, %x.use2, %h, %x.use3)
    """,
)

# %y is a residual: its read by relu_grad does not count.  The cotangent %y.grad is read twice, and that counts.
JOINT = (
    """
    func.func @f(%x: tensor<3xf32>, %y.grad: tensor<3xf32> {cnet.kind = "output_grad", cnet.name = "y"})
        -> (tensor<3xf32>, tensor<3xf32>) {
      %y = "cnet.relu"(%x) : (tensor<3xf32>) -> tensor<3xf32>
      %a.grad = "cnet.relu_grad"(%y, %y.grad) {transposes = "relu %y"} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
      %b.grad = "cnet.relu_grad"(%y, %y.grad) {transposes = "relu %y"} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
      %x.grad = "cnet.accumulate"(%b.grad, %a.grad) {transposes = "split %x"}
        : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
      func.return %y, %x.grad : tensor<3xf32>, tensor<3xf32>
    }
    """,
    """
    %y.grad.use0, %y.grad.use1 = split(%y.grad) {ways=2, transposes=relu %y}
    %y = relu(%x)
    %a.grad = relu_grad(%y, %y.grad.use0) {transposes=relu %y}
    %b.grad = relu_grad(%y, %y.grad.use1) {transposes=relu %y}
    %x.grad = accumulate(%b.grad, %a.grad) {transposes=split %x}
    return(%y, %x.grad)
    """,
)

CASES = {name: case for name, case in globals().items() if name.isupper() and isinstance(case, tuple)}


@pytest.mark.parametrize("name", CASES)
def test_text(name: str) -> None:
    before, after = CASES[name]
    assert after_pass(InsertSplits(), before) == dedent(after)


@pytest.mark.parametrize("name", CASES)
def test_a_second_run_changes_nothing(name: str) -> None:
    module = parse_module("module @m {" + CASES[name][0] + "}")
    InsertSplits().run(module)
    once = plain(module)
    InsertSplits().run(module)
    assert plain(module) == once


def test_residuals_follow_a_split_that_is_made_anew() -> None:
    """Backward reads %p, a result of a split; when that split takes in a new reader, the read stays on its heir."""
    text = """
    func.func @f(%x: tensor<3xf32>, %g: tensor<3xf32> {cnet.kind = "output_grad", cnet.name = "y"})
        -> (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) {
      %p, %q = "cnet.split"(%x) {ways = 2 : i64} : (tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>)
      %y = "cnet.relu"(%p) : (tensor<3xf32>) -> tensor<3xf32>
      %d = "cnet.relu_grad"(%p, %g) {transposes = "relu %y"} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
      func.return %y, %q, %q, %d : tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>
    }
    """
    module = parse_module("module @m {" + text + "}")
    InsertSplits().run(module)
    split, relu, grad = module.main.ops[:3]
    assert split.attributes["ways"] == 3
    assert relu.operands == (split.results[0],)
    assert grad.operands[0] is split.results[0]


def test_every_value_of_a_joint_graph_is_linear() -> None:
    net = NetBuilder()
    x, label = net.input("x", 4, 3), net.input("label", 4, dtype="i32")
    w = net.param("w", 3, 3)
    h = net.b.relu(net.b.linear(net.b.linear(x, w), w))
    net.softmax_loss(net.b.linear(net.b.concat(h, h, axis=1), net.param("v", 5, 6)), label)
    net.output("h", h)
    module = net.module()
    data = data_for(module.main)
    before = run64(module.main, data)
    func = joint(module).main
    for value in [*func.args, *(r for op in func.ops for r in op.results)]:
        counted = [op for op in value.readers if "transposes" not in op.attributes]
        backward = value.op is not None and "transposes" in value.op.attributes
        assert len(value.uses if backward else counted) <= 1, value
    after = run64(func, data)
    for key, expected in before.items():
        np.testing.assert_array_equal(after[key], expected)


def test_splits_of_gradients_carry_the_line_of_what_they_split() -> None:
    text = """\
net f(n = 4) {
    input x: f32[n, 8]
    c = linear(x, 8)
    d = linear(c, 8)
    e = c * d
    loss mean(e)
}
"""
    net = concatc.compile_source(text, filename="f.cnet", target="reference")
    lines = {}
    for op in net._source.phase("train").joint.main.ops:
        if op.name == "cnet.split" and op.operands[0].name.endswith(".grad"):
            assert op.loc is not None
            lines[op.operands[0].name] = op.loc.line
    assert lines == {"e.grad": 5, "d.grad": 4, "c.grad": 3}
