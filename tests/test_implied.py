"""What dumps leave out comes back, and what the rest of a dump does not show is not left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from concatc.frontend.cnet import load, load_file
from concatc.ir.core import FuncOp, Module, Operation
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, print_module
from concatc.passes.canonicalize import Canonicalize
from concatc.passes.choose_recompute import ChooseRecompute
from concatc.passes.concat_algebra import ConcatAlgebra
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.dumps import dump_text, load_dump
from concatc.passes.fuse import Fuse
from concatc.passes.implied import restore
from concatc.passes.insert_splits import InsertSplits
from tests.ir_text import plain
from tests.nets.random_nets import seeded_recipe
from tests.test_docs import ROOT


def thread() -> Module:
    module, _ = load_file(ROOT / "examples" / "thread.cnet")
    InsertSplits().run(module)
    DeriveBackward().run(module)
    return module


def test_the_axis_of_concat_and_slice_is_always_said() -> None:
    text = """module {
  func.func @net(%x: tensor<2x4xf32>) -> tensor<2x4xf32> {
    %p, %q = "cnet.slice"(%x) {axis = 1} : (tensor<2x4xf32>) -> (tensor<2x1xf32>, tensor<2x3xf32>)
    %c = "cnet.concat"(%q, %p) {axis = 1} : (tensor<2x3xf32>, tensor<2x1xf32>) -> tensor<2x4xf32>
    func.return %c : tensor<2x4xf32>
  }
}
"""
    left_out = text.replace(" {axis = 1}", "")
    assert dump_text(load_dump(left_out, "a.mlir")).count("{axis = 1}") == 2


def maker(function: FuncOp, name: str) -> Operation:
    return next(op for op in function.ops for y in op.results if y.name == name)


def result(function: FuncOp, name: str) -> int:
    return next(k for k, attrs in enumerate(function.result_attrs) if attrs["cnet.name"] == name)


def set_transposes(function: FuncOp) -> None:
    maker(function, "h.grad").attributes["transposes"] = "relu %ha"


def drop_transposes(function: FuncOp) -> None:
    del maker(function, "h.grad").attributes["transposes"]


def put_transposes_behind(function: FuncOp) -> None:
    op = maker(function, "h.grad")
    found = op.attributes.pop("transposes")
    op.attributes |= {"note": 1, "transposes": found}


def name_twice(function: FuncOp) -> None:
    maker(function, "h").results[0].name = "ha"


def read_twice(function: FuncOp) -> None:
    """Two readers with a gradient: names do not say which one %hb.bias.2.grad is made for."""
    relu = maker(function, "hb")
    other = Operation("cnet.exp", relu.operands, [relu.result.type], result_names=["other"])
    function.body.insert_before(relu, other)


def set_arg(name: str, key: str, value: int | str) -> Callable[[FuncOp], None]:
    def change(function: FuncOp) -> None:
        next(a for a in function.args if a.name == name).attrs[key] = value

    return change


def set_result(name: str, key: str, value: float | str) -> Callable[[FuncOp], None]:
    def change(function: FuncOp) -> None:
        function.result_attrs[result(function, name)][key] = value

    return change


def rename_net(function: FuncOp) -> None:
    function.attributes["cnet.net"] = "other"


def change_sizes(function: FuncOp) -> None:
    function.attributes.pop("cnet.dims")


CHANGES: dict[str, tuple[Callable[[FuncOp], None], str]] = {
    "another transposes": (set_transposes, '{transpose, transposes = "relu %ha"}'),
    "no transposes": (drop_transposes, "{transpose, transposes = none}"),
    "transposes behind others": (put_transposes_behind, '{transpose, note = 1, transposes = "linear %logits.linear"}'),
    "a name that is printed otherwise": (name_twice, '{transpose, transposes = "linear %logits.linear"}'),
    "two readers": (read_twice, '{transposes = "relu %hb"}'),
    "a state": (set_arg("ha.bias", "cnet.kind", "state"), '{cnet.kind = "state", cnet.init = "constant(0.0)"}'),
    "another path": (set_arg("ha.bias", "cnet.name", "ha/b"), '{cnet.kind = "param", cnet.name = "ha/b", cnet.init'),
    "another fan-in": (set_arg("ha.weight", "cnet.fan_in", 7), '{cnet.init = "xavier()", cnet.fan_in = 7}'),
    "a weight": (set_result("softmax_loss", "cnet.weight", 0.5), '{cnet.kind = "loss", cnet.weight = 0.5}'),
    "another name": (set_result("logits", "cnet.name", "scores"), '{cnet.kind = "output", cnet.name = "scores"}'),
    "another total": (set_result("loss", "cnet.name", "sum"), '{cnet.kind = "total", cnet.name = "sum"}'),
    "another kind": (set_result("ha.bias", "cnet.kind", "output"), '{cnet.kind = "output", cnet.name = "ha.bias"}'),
    "another net": (rename_net, 'attributes {cnet.net = "other", cnet.dims'),
    "no net": (change_sizes, '%ha.bias: !t128 {cnet.kind = "param", cnet.init'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_as_usual_is_said(name: str) -> None:
    change, told = CHANGES[name]
    module = thread()
    assert told not in " ".join(dump_text(module).split())
    change(module.main)
    text = dump_text(module)
    assert told in " ".join(text.split())
    read = parse_module(text, "x.mlir")  # some of these nets are wrong: what is said comes back all the same
    restore(read)
    assert plain(read) == plain(module)


def test_names_say_what_is_transposed() -> None:
    text = """
    module @m {
      func.func @f(%x: tensor<2x3xf32>, %g: tensor<f32>) -> (tensor<2x3xf32>, tensor<2x3xf32>) {
        %x.use0, %x.use1 = "cnet.split"(%x) : (tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xf32>)
        %a = "cnet.relu"(%x.use0) : (tensor<2x3xf32>) -> tensor<2x3xf32>
        %s = "cnet.sum"(%a) {axes = [0, 1]} : (tensor<2x3xf32>) -> tensor<f32>
        %t = "cnet.exp"(%x.use1) : (tensor<2x3xf32>) -> tensor<2x3xf32>
        %a.grad = "cnet.expand"(%g) {axes = [0, 1], transposes = "sum %s"} : (tensor<f32>) -> tensor<2x3xf32>
        %a.grad.use0, %a.grad.use1 = "cnet.split"(%a.grad) : (tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xf32>)
        %t.vjp0 = "cnet.mul"(%a.grad.use1, %t) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
        %x.use0.grad = "cnet.relu_grad"(%a, %a.grad.use0) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
        %x.grad = "cnet.accumulate"(%t.vjp0, %x.use0.grad) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
        %w.grad = "cnet.neg"(%t) : (tensor<2x3xf32>) -> tensor<2x3xf32>
        func.return %x.grad, %w.grad : tensor<2x3xf32>, tensor<2x3xf32>
      }
    }
    """
    ops = load_dump(text, "x.mlir").main.ops
    assert [op.attributes.get("transposes") for op in ops] == [
        *[None] * 4,
        "sum %s",
        "relu %a",
        "exp %t",
        "relu %a",
        "split %x.use0, %x.use1",
        None,
        None,
    ]
    assert ops[0].attributes == {"ways": 2}


def test_a_forward_half_alone_transposes_nothing() -> None:
    text = """
    module @m {
      func.func @f(%x: tensor<3xf32>) -> tensor<3xf32> {
        %y = "cnet.relu"(%x) : (tensor<3xf32>) -> tensor<3xf32>
        %x.grad = "cnet.neg"(%y) : (tensor<3xf32>) -> tensor<3xf32>
        func.return %x.grad : tensor<3xf32>
      }
    }
    """
    assert load_dump(text, "x.mlir").main.ops[1].attributes == {}


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_dumps_of_random_nets_come_back_after_each_pass(seed: int) -> None:
    module, _ = load(seeded_recipe(seed).source(), "random.cnet")
    for step in (InsertSplits(), DeriveBackward(), Canonicalize(), ConcatAlgebra(), ChooseRecompute("max"), Fuse()):
        step.run(module)
        assert plain(load_dump(dump_text(module), "x.mlir")) == plain(module)
        machine = print_module(module, MACHINE)
        assert print_module(load_dump(machine, "x.mlir"), MACHINE) == machine
