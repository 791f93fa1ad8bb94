"""``avoid-copies``: kernels in segments, sums taken in, second stores; and what of it is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from concatc.ir.core import Block, FuncOp, Module, Operation, Region, Value
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE, print_module
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of, plan_of
from concatc.passes.avoid_copies import AvoidCopies
from concatc.passes.check_plan import check_plan
from concatc.passes.cut_kernel import Cut, find_cut
from concatc.passes.kernel_edit import KernelEdit
from concatc.passes.plan_memory import PlanMemory, traffic_of
from concatc.passes.verify import verify
from concatc.targets.reference.interpreter import run_function
from tests.nets.section5 import NETS
from tests.planning import arguments, compare, to_kernels, to_plan
from tests.small_nets import NetBuilder


def moved(plan: Plan) -> tuple[int, int]:
    copied, twice = (sum(r.bytes for r in plan.remarks if r.kind == kind) for kind in ("copy", "second store"))
    return copied, twice


def checked(n: NetBuilder) -> tuple[FuncOp, Plan]:
    """The net with and without the pass has one meaning, and the plan is right."""
    module = n.module()
    plain = to_kernels(parse_module(print_module(module, MACHINE)), avoid_copies=False)
    net, plan = to_plan(module)
    verify(module)
    assert check_plan(plan, net) == []
    compare(net, plan)
    expected = run_function(plain.main, arguments(plain.main), float64=True)
    for a, b in zip(run_function(net, arguments(net), float64=True), expected, strict=True):
        assert np.allclose(a, b, rtol=1e-10, atol=1e-12)
    return net, plan


def kernels(net: FuncOp) -> list[list[str]]:
    """The ops of each kernel."""
    return [
        [inner.name.removeprefix("cnet.") for inner in op.regions[0].block.ops[:-1]]
        for op in net.ops
        if op.name == "cnet.kernel"
    ]


# -- segmented reads ---------------------------------------------------------------------------------------------------


def test_a_map_reads_segments() -> None:
    """A value of two segments: its parts lie where they were, and no byte of it is copied."""
    n = NetBuilder()
    x, w = n.state("x", 4, 3), n.param("w", 4, 2)
    c = n.named("c", n.b.concat(x, n.b.exp(x), w, axis=1))
    n.output("y", n.b.tanh(c))
    net, plan = checked(n)
    assert moved(plan) == (0, 0)
    assert kernels(net) == [["exp"], ["tanh"], ["tanh"], ["tanh"]]
    assert [(s.start, s.window.base, s.window.shape) for s in plan.values["c"]] == [
        ((0, 0), "states", (4, 3)),
        ((0, 3), "arena", (4, 3)),
        ((0, 6), "params", (4, 2)),
    ]


def test_a_value_of_segments_goes_through_text() -> None:
    n = NetBuilder()
    x = n.state("x", 4, 3)
    n.output("y", n.b.tanh(n.named("c", n.b.concat(x, n.b.exp(x), axis=1))))
    _, plan = to_plan(n.module())
    text = print_module(module_of(plan), MACHINE)
    assert '"cnet.value"' in text and 'name = "c"' in text
    again = plan_of(parse_module(text))
    assert len(again.values["c"]) == 2 and again.values == plan.values
    assert print_module(module_of(again), MACHINE) == text


def test_a_contraction_adds_up_segments_of_what_it_sums() -> None:
    """No epilogue: the first segment stores, the others add (beta)."""
    n = NetBuilder()
    x, z = n.state("x", 16, 32), n.state("z", 16, 64)
    n.output("y", n.b.linear(n.b.concat(x, z, n.b.exp(x), axis=1), n.param("w", 2, 128)))
    net, plan = checked(n)
    assert moved(plan) == (0, 0)
    assert kernels(net) == [["exp"], ["linear"], ["linear"], ["linear"]]
    (slot,) = plan.values["output:y"]
    assert [launch.add for launch in plan.launches if slot.window in launch.writes] == [(False,), (True,), (True,)]


def test_the_epilogue_is_the_last_segments() -> None:
    """``relu(a + b)`` is not ``relu(a) + relu(b)``: the last segment takes the sum of the others."""
    n = NetBuilder()
    x, w, b = n.state("x", 16, 64), n.param("w", 2, 128), n.param("b", 2)
    h = n.b.linear(n.b.concat(x, n.b.exp(x), axis=1), w)
    n.output("y", n.b.relu(n.b.bias(h, b, axis=1)))
    net, plan = checked(n)
    assert moved(plan) == (0, 0)
    assert kernels(net) == [["exp"], ["linear"], ["linear", "accumulate", "bias", "relu"]]
    assert plan.launches[1].writes[0] in plan.launches[2].reads


def test_a_convolution_adds_up_segments_of_channels() -> None:
    n = NetBuilder()
    x = n.state("x", 2, 6, 4, 4)
    y = n.b.conv(n.b.concat(x, n.b.exp(x), axis=1), n.param("k", 1, 12, 3, 3), pad=(1, 1))
    n.loss(n.call("sum", n.b.square(y)))
    net, plan = checked(n)
    assert moved(plan) == (0, 0)
    assert sum("conv" in ops for ops in kernels(net)) == 2
    assert sum("conv_weight_grad" in ops for ops in kernels(net)) == 2


def test_rows_of_a_batch_are_segments_of_maps() -> None:
    n = NetBuilder()
    x = n.state("x", 4, 3)
    c = n.b.concat(x, n.b.exp(x), axis=0)
    n.output("y", n.b.linear(c, n.param("w", 5, 3)))
    net, plan = checked(n)
    assert moved(plan)[0] == 0
    assert kernels(net).count(["linear"]) == 2


def test_a_concat_of_a_concat_is_flattened() -> None:
    n = NetBuilder()
    x = n.state("x", 4, 8)
    c = n.b.concat(x, n.b.exp(x), axis=1)
    n.output("y", n.b.tanh(c))
    n.output("z", n.b.sqrt(n.b.square(n.b.concat(c, c, axis=1))))
    _, plan = checked(n)
    assert moved(plan) == (0, 0)


def test_a_small_operand_is_copied_where_segments_would_move_more() -> None:
    n = NetBuilder()
    x = n.state("x", 2, 3)
    n.output("y", n.b.relu(n.b.linear(n.b.concat(x, n.b.exp(x), axis=1), n.param("w", 64, 6))))
    _, plan = checked(n)
    assert moved(plan) == (24, 0)
    assert [r.message for r in plan.remarks] == ["concat copies %x: it is the state x"]


# -- segmented writes, sums, second stores -----------------------------------------------------------------------------


def test_the_gradient_of_a_parameter_in_a_concat_is_written_where_it_is_returned() -> None:
    n = NetBuilder()
    x, w = n.input("x", 64, 4), n.param("w", 64, 8)
    c = n.b.concat(n.b.linear(x, n.param("v", 8, 4)), w, axis=1)
    n.loss(n.call("sum", n.b.square(n.b.tanh(c))))
    _, plan = checked(n)
    assert moved(plan) == (0, 0)
    (slot,) = plan.values["grad:w"]
    assert any(slot.window in launch.writes for launch in plan.launches)


def test_a_sum_is_taken_into_the_kernel_of_the_later_contribution() -> None:
    """Others read the first contribution, so nothing can be added to it in place: it is read once more instead."""
    n = NetBuilder()
    x = n.input("x", 4, 8)
    a = n.b.linear(x, n.param("u", 8, 8))
    b = n.b.linear(n.b.exp(a), n.param("v", 8, 8))
    n.loss(n.call("sum", n.b.square(n.b.add(a, b))))
    _, plan = checked(n)
    assert moved(plan) == (0, 0)


def test_a_sum_of_parts_is_added_where_it_is_read() -> None:
    """Nothing can be added to a part of another value, and none of the parts has a kernel: their reader adds them."""
    n = NetBuilder()
    p, q = n.b.slice(n.b.exp(n.state("x", 4, 8)), sizes=(4, 4), axis=1)
    n.output("y", n.b.tanh(n.b.accumulate(p, q)))
    n.output("z", n.b.concat(n.b.exp(q), n.b.exp(p), axis=0))
    net, plan = checked(n)
    assert ["accumulate", "tanh"] in kernels(net)
    assert moved(plan) == (0, 0)


# -- reshapes ----------------------------------------------------------------------------------------------------------


def shuffled(n: NetBuilder, x: Value, groups: int) -> Value:
    """Of eight channels 0, 4, 1, 5, .. for two groups; 0, 2, .. 1, 3, .. for four."""
    halves = n.call("transpose", n.call("reshape", x, shape=(2, groups, 8 // groups, 3)), perm=(0, 2, 1, 3))
    return n.call("reshape", halves, shape=(2, 8, 3))


def test_halves_of_a_concat_are_reshaped_alone() -> None:
    """Each half is every other channel of the result; no strides express both."""
    n = NetBuilder()
    x = n.input("x", 2, 4, 3)
    n.output("y", n.b.tanh(shuffled(n, n.named("u", n.b.concat(n.b.exp(x), n.b.sigmoid(x), axis=1)), 2)))
    net, plan = checked(n)
    assert moved(plan) == (0, 0)
    assert [(s.window.shape, s.window.strides[:2]) for s in plan.values["u"]] == [((2, 4, 3), (24, 6))] * 2
    assert all(op.result.shape != (2, 8, 3) or op.result.uses for op in net.ops if op.name == "cnet.reshape")


def test_what_is_sliced_is_reshaped_in_parts() -> None:
    """And so for the gradient of a shuffle of a concat, or any slice behind a reshape."""
    n = NetBuilder()
    p, q = n.b.slice(shuffled(n, n.b.exp(n.input("x", 2, 8, 3)), 4), sizes=(4, 4), axis=1)
    n.output("y", n.b.tanh(p))
    n.output("z", n.b.tanh(q))
    _, plan = checked(n)
    assert moved(plan) == (0, 0)


def test_what_cannot_be_reshaped_in_parts_is_copied() -> None:
    """The cut goes through a pair of channels."""
    n = NetBuilder()
    p, q = n.b.slice(shuffled(n, n.b.exp(n.input("x", 2, 8, 3)), 4), sizes=(3, 5), axis=1)
    n.output("y", n.b.tanh(p))
    n.output("z", n.b.tanh(q))
    _, plan = checked(n)
    assert moved(plan) == (192, 0)


def test_a_block_is_laid_out_for_the_reshape_of_what_lies_in_it() -> None:
    n = NetBuilder()
    x = n.input("x", 2, 4, 3, 5)
    n.output(
        "y",
        n.b.tanh(n.call("reshape", n.call("transpose", n.named("h", n.b.exp(x)), perm=(0, 2, 1, 3)), shape=(2, 3, 20))),
    )
    net = to_kernels(n.module(), avoid_copies=False).main
    plan = PlanMemory().plan(Module("m", [net]))
    (h,) = plan.values["h"]
    assert h.window.strides == (60, 5, 20, 1)
    assert plan.remarks == []


def test_a_blob_in_two_concats_is_stored_twice() -> None:
    net, plan = to_plan(NETS["one_blob_in_two_concats"]())
    assert [(r.kind, r.message, r.bytes) for r in plan.remarks] == [
        ("second store", "%a is stored a second time, for concat", 32)
    ]
    (maker,) = [op for op in net.ops if any(r.name == "a.second" for r in op.results)]
    stored = maker.regions[0].block.ops[-1].operands
    assert stored[0] is stored[1]


@pytest.mark.parametrize("name", NETS)
def test_no_net_moves_more_than_before(name: str) -> None:
    module = to_kernels(NETS[name](), avoid_copies=False)
    before = traffic_of(module.main)
    AvoidCopies().run(module)
    verify(module)
    after = traffic_of(module.main)
    assert (after.bytes, after.launches) <= (before.bytes, before.launches)
    text = print_module(module, MACHINE)
    AvoidCopies().run(module)
    assert print_module(module, MACHINE) == text


# -- cuts --------------------------------------------------------------------------------------------------------------


def cut_in_two(kernel: Operation, cut: Cut, extents: tuple[int, ...]) -> tuple[FuncOp, FuncOp]:
    """A function of that kernel alone, whole and in segments."""
    whole, parts = (_alone(kernel) for _ in range(2))
    (copy,) = parts.ops[:-1]
    start = next(v for v in kernel.regions[0].block.args if v in cut.axes)
    again = find_cut(copy, copy.regions[0].block.args[start.index], cut.axes[start])
    assert again is not None
    edit = KernelEdit(parts)
    edit.cut(copy, again, extents)
    edit.finish()
    verify(Module("parts", [parts]))
    return whole, parts


def _alone(kernel: Operation) -> FuncOp:
    func = FuncOp("f", [v.type for v in kernel.operands], [f"x{k}" for k in range(len(kernel.operands))])
    old = kernel.regions[0].block
    block = Block([a.type for a in old.args], [a.name for a in old.args])
    inside: dict[Value, Value] = dict(zip(old.args, block.args, strict=True))
    for op in old.ops:
        names = [r.name for r in op.results]
        types = [r.type for r in op.results]
        made = Operation(op.name, [inside[v] for v in op.operands], types, op.attributes, (), op.loc, names)
        inside.update(zip(op.results, block.append(made).results, strict=True))
    types = [r.type for r in kernel.results]
    call = func.body.append(Operation("cnet.kernel", func.args, types, kernel.attributes, [Region([block])]))
    func.body.append(Operation("func.return", call.results))
    return func


@pytest.mark.parametrize("name", NETS)
def test_segments_of_every_kernel_mean_the_whole(name: str) -> None:
    """Along every axis of every operand that can be cut; float64, so that orders of sums do not matter."""
    module = to_kernels(NETS[name](), avoid_copies=False)
    rng = np.random.default_rng(0)
    cuts = 0
    for kernel in [op for op in module.main.ops if op.name == "cnet.kernel"]:
        for arg in kernel.regions[0].block.args:
            for axis, n in enumerate(arg.shape):
                extents = (1, n - 2, 1) if n > 2 else (1, 1)
                cut = find_cut(kernel, arg, axis) if n > 1 else None
                if cut is None or not cut.fits(extents):
                    continue
                whole, parts = cut_in_two(kernel, cut, extents)
                data = [
                    rng.random(a.shape) if a.tensor.is_float else rng.integers(0, 1, a.shape).astype(np.int32)
                    for a in whole.args
                ]
                expected = run_function(whole, data, float64=True)
                for a, b in zip(run_function(parts, data, float64=True), expected, strict=True):
                    assert np.allclose(a, b, rtol=1e-10, atol=1e-12), (kernel.attributes["sym_name"], axis)
                cuts += 1
    assert cuts >= 2


REFUSED = {
    "softmax over the axis": ("softmax", {"axis": 1}, 1),
    "a mean divides by the size": ("mean", {"axes": (1,)}, 1),
    "a mask depends on the index": ("dropout", {"p": 0.5}, 0),
    "a maximum is no sum": ("global_max_pool", {}, 2),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_cut(case: str) -> None:
    op, attributes, axis = REFUSED[case]
    n = NetBuilder()
    x = n.input("x", 3, 4, 5, 5) if op == "global_max_pool" else n.input("x", 3, 4)
    n.output("y", n.call(op, x, **attributes))
    module = to_kernels(n.module(), avoid_copies=False)
    (kernel,) = [op for op in module.main.ops if op.name == "cnet.kernel"]
    arg = kernel.regions[0].block.args[kernel.operands.index(module.main.args[0])]
    cut = find_cut(kernel, arg, axis)
    assert cut is None or not cut.fits((1, arg.shape[axis] - 1))


def test_what_is_made_of_a_sum_and_of_a_segment_is_not_cut() -> None:
    """``x / sum(x)`` over the axis: each segment needs the whole sum."""
    module = parse_module("""
    module { func.func @f(%x: tensor<5x4xf32>) -> tensor<5x4xf32> {
      %y = "cnet.kernel"(%x) ({
      ^bb0(%x_: tensor<5x4xf32>):
        %s_ = "cnet.sum"(%x_) {axes = array<i64: 1>} : (tensor<5x4xf32>) -> tensor<5xf32>
        %e_ = "cnet.expand"(%s_) {shape = array<i64: 5, 4>, axes = array<i64: 1>} : (tensor<5xf32>) -> tensor<5x4xf32>
        %y_ = "cnet.div"(%x_, %e_) : (tensor<5x4xf32>, tensor<5x4xf32>) -> tensor<5x4xf32>
        "cnet.yield"(%y_) : (tensor<5x4xf32>) -> ()
      }) {sym_name = "k0"} : (tensor<5x4xf32>) -> tensor<5x4xf32>
      func.return %y : tensor<5x4xf32>
    } }
    """)
    (kernel,) = module.main.ops[:-1]
    (x,) = kernel.regions[0].block.args
    assert find_cut(kernel, x, 1) is None
    rows = find_cut(kernel, x, 0)
    assert rows is not None and rows.fits((2, 3))
    # An axis of one element is repeated by pointwise ops: what reads it is written otherwise.
    assert not rows.fits((1, 4))
