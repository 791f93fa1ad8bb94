"""The planner: every net that breaks naive planners, by values, by the checker and by what it must not copy."""

from __future__ import annotations

import time

import numpy as np
import pytest

from concatc.diagnostics import Loc
from concatc.inspect.memory import plan_report
from concatc.ir.printer import MACHINE, print_module
from concatc.loops.bases import interface_of
from concatc.loops.plan import Plan, Window
from concatc.loops.plan_text import module_of
from concatc.passes.arena import Lifetime, assign_offsets, live_set_bytes
from concatc.passes.check_plan import check_plan
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.fuse import Fuse
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.order_kernels import OrderKernels
from concatc.passes.plan_memory import PlanMemory
from concatc.passes.storage import reshaped_strides
from tests.nets.section5 import NETS
from tests.planning import compare, to_kernels, to_plan
from tests.small_nets import NetBuilder

# What each net copies (or adds apart), and what its kernels store a second time, in bytes; other nets do none of it.
MOVED = {
    "one_blob_in_two_concats": (0, 32),  # a lies in both; its two gradients are views
    "concat_with_itself": (0, 32),
    "rows_and_columns": (0, 32),
    "join_input_parameter_and_constant": (32, 0),  # the parameter: z is as small as it is
    "output_is_read_on": (0, 24),  # the second return of a
    "shifted_update": (60, 48),  # the gradient, stored and added one row further on, and two rows of zeros
    "shared_cotangent": (0, 32),  # s.grad is added to the gradients of a and of b
    "kept_blobs": (32, 32),  # kept parts and their gradients are results of their own
    "kept_part": (112, 0),
}
# The same without any of `avoid-copies`: what the planner cannot place in one window.
COPIED = {
    "one_blob_in_two_concats": 64,
    "concat_with_itself": 64,
    "tree_of_concats": 64,
    "rows_and_columns": 64,
    "join_input_parameter_and_constant": 88,
    "output_is_read_on": 24,
    "input_feeds_two": 32,
    "shifted_update": 108,
    "shared_cotangent": 128,
    "loss_on_part_last": 32,
    "kept_blobs": 112,
    "kept_part": 160,
}


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "single ops"])
@pytest.mark.parametrize("name", NETS)
def test_values_checker_and_copies(name: str, fuse: bool) -> None:
    net, plan = to_plan(NETS[name](), fuse)
    assert check_plan(plan, net) == []
    run = compare(net, plan)
    assert run.arena_bytes <= plan.bases["arena"].size_bytes
    copied, twice = (sum(r.bytes for r in plan.remarks if r.kind == kind) for kind in ("copy", "second store"))
    if fuse:
        assert (copied, twice) == MOVED.get(name, (0, 0)), [r.message for r in plan.remarks]
    report = plan_report(plan)
    assert run.arena_bytes <= report.arena_bytes


@pytest.mark.parametrize("name", NETS)
def test_what_the_planner_alone_copies(name: str) -> None:
    module = to_kernels(NETS[name](), avoid_copies=False)
    plan = PlanMemory().plan(module)
    assert check_plan(plan, module.main) == []
    compare(module.main, plan)
    assert sum(r.bytes for r in plan.remarks) == COPIED.get(name, 0), [r.message for r in plan.remarks]


@pytest.mark.parametrize("name", NETS)
def test_the_arena_is_near_the_live_set(name: str) -> None:
    """Small blocks are rounded up to cache lines: at most one line a block that is alive.

    Of a concat in the u_net one part dies first: what it held lies between rows of the other part.
    """
    _, plan = to_plan(NETS[name]())
    report = plan_report(plan)
    most = max((sum(s.first <= k <= s.last for s in report.stored) for k in range(report.launches)), default=0)
    between = {"u_net": 512}.get(name, 0)
    assert report.arena_bytes <= report.live_set_bytes + report.fill_bytes + 64 * most + between


def test_concat_inputs_are_written_where_the_concat_lies() -> None:
    _, plan = to_plan(NETS["two_batches"]())
    h, ha, hb = (_window(plan, name) for name in ("h", "ha", "hb"))
    assert (ha, hb) == (h.sub((0, 0), (3, 6)), h.sub((3, 0), (2, 6)))
    grad, ga, gb = (_window(plan, name) for name in ("h.grad", "ha.grad", "hb.grad"))
    assert (ga, gb) == (grad.sub((0, 0), (3, 6)), grad.sub((3, 0), (2, 6)))


def test_a_chain_of_concats_is_one_buffer_with_prefixes() -> None:
    _, plan = to_plan(NETS["dense_block"]())
    blobs = [_window(plan, f"h{k}") for k in range(4)]
    assert {(w.base, w.offset_bytes, w.strides) for w in blobs} == {("arena", blobs[0].offset_bytes, blobs[0].strides)}
    assert [w.shape[1] for w in blobs] == [3, 5, 7, 9]
    for k in range(3):
        assert _window(plan, f"y{k}") == blobs[3].sub((0, 3 + 2 * k, 0, 0), (2, 2, 4, 4))


def test_gradients_of_shared_weights_are_added_where_they_are_returned() -> None:
    _, plan = to_plan(NETS["shared_weights"]())
    slot = _window(plan, "grad:w")
    adds = [add for x in plan.launches for w, add in zip(x.writes, x.add, strict=True) if w == slot]
    assert adds == [False, True, True]


def test_states_are_updated_in_place() -> None:
    net, plan = to_plan(NETS["halo"]())
    keys = [name for name in plan.values if name.startswith("state:")]
    assert len(keys) == 2 and plan.remarks == []
    for key in keys:
        assert any(_window(plan, key) in x.reads and _window(plan, key) in x.writes for x in plan.launches)
    assert check_plan(plan, net) == []


def test_a_state_that_is_read_after_its_update_is_copied() -> None:
    n = NetBuilder()
    x, old = n.input("x", 3), n.state("s", 3)
    new = n.b.add(old, x)
    n.output("y", n.b.mul(n.b.mul(new, x), old))
    n.returns.append((new, {"kind": "state", "name": "s"}))
    net, plan = to_plan(n.module(), fuse=False)
    assert check_plan(plan, net) == []
    compare(net, plan)
    why = "the state as it was is read until then"
    assert [r.message for r in plan.remarks] == [f"state s is copied from %add.1: {why}"]


def test_pointwise_kernels_work_in_place() -> None:
    n = NetBuilder()
    h = n.b.linear(n.input("x", 4, 8), n.param("w", 16, 8))
    for _ in range(5):
        h = n.b.exp(h)
    n.output("y", n.b.linear(h, n.param("v", 2, 16)))
    net, plan = to_plan(n.module(), fuse=False)
    assert plan.bases["arena"].size_bytes == 4 * 16 * 4
    assert check_plan(plan, net) == []
    compare(net, plan)


def test_a_part_that_dies_is_stored_over() -> None:
    """``relu_grad`` of each branch lies over its rows of ``%h``."""
    _, plan = to_plan(NETS["two_batches"]())
    assert _window(plan, "la.grad") == _window(plan, "ha")
    assert _window(plan, "lb.grad") == _window(plan, "hb")
    loss = next(x for x in plan.launches if x.scratch is not None)
    assert loss.scratch is not None and (loss.scratch.offset_bytes, loss.scratch.end_bytes) == (192, 320)
    assert plan.bases["arena"].size_bytes == 320, "no value lies behind the scratch of the loss"


def test_remarks_say_where_and_why() -> None:
    n = NetBuilder("remarks")
    n.b.loc = Loc("net.cnet", 3, 9)
    a = n.named("a", n.b.relu(n.input("x", 2, 3)))
    w = n.param("w", 2, 4)
    c = n.named("c", n.b.concat(a, w, axis=1))
    n.output("c", c)
    d = n.named("d", n.b.concat(a, c, axis=1))
    n.output("d", d)
    _, plan = to_plan(n.module())
    assert [f"{r.loc}: {r.message} ({r.bytes} bytes)" for r in plan.remarks] == [
        "net.cnet:3:9: concat copies %w: it is the param w (32 bytes)",
        "net.cnet:3:9: output c is copied from %c: it lies in outputs (56 bytes)",
        "net.cnet:3:9: %a is stored a second time, for concat (24 bytes)",
    ]


def test_equal_kernels_are_one() -> None:
    n = NetBuilder()
    h = n.input("x", 4, 8)
    for k in range(6):
        h = n.b.relu(n.b.linear(h, n.param(f"w{k}", 8, 8)))
    n.output("y", h)
    _, plan = to_plan(n.module())
    assert len(plan.launches) == 6
    assert list(plan.kernels) == ["k0_linear_relu"]


def test_kernels_have_a_number_each() -> None:
    """The kernel graph numbers its own in their order; what the planner adds comes behind."""
    net, plan = to_plan(NETS["join_input_parameter_and_constant"]())
    assert plan.remarks
    number = {name: int(name[1 : name.index("_")]) for name in plan.kernels}
    assert len(set(number.values())) == len(number)
    of_the_graph = [str(op.attributes["sym_name"]) for op in net.ops if op.name == "cnet.kernel"]
    assert [name.partition("_")[0] for name in of_the_graph] == [f"k{k}" for k in range(len(of_the_graph))]
    added = [name for name in plan.kernels if name not in of_the_graph]
    assert sorted(number[name] for name in added) == [len(of_the_graph) + k for k in range(len(added))]


def test_the_slots_of_another_phase_are_kept() -> None:
    """Both phases of a net find parameters and states in the same place, whatever else they have."""
    training = interface_of(to_kernels(NETS["halo"]()).main)
    n = NetBuilder("halo")
    x = n.input("x", 2, 3, 4, 4)
    n.output("h", n.b.relu(n.call("batch_norm", x, at="bn", train=False)))
    module = to_kernels(n.module())
    plan = PlanMemory(interface_of(module.main, training)).plan(module)
    for key in ("param:bn.weight", "state:bn.running_var"):
        assert _window(plan, key) == training.slots[key]
    assert plan.bases["params"].size_bytes == training.bases["params"].size_bytes
    assert check_plan(plan, module.main) == []
    compare(module.main, plan)


def test_gradients_of_outputs_are_arguments() -> None:
    """Without a loss the caller gives the gradient of an output; the gradient of a concat is read where it was put."""
    n = NetBuilder()
    a = n.b.linear(n.input("x", 2, 3), n.param("w", 4, 3))
    n.output("y", n.b.concat(a, n.b.exp(a), axis=1))
    module = n.module()
    InsertSplits().run(module)
    DeriveBackward(output_grads=True).run(module)
    Fuse().run(module)
    OrderKernels().run(module)
    plan = PlanMemory().plan(module)
    assert _window(plan, "output_grad:y").base == "inputs"
    assert check_plan(plan, module.main) == []
    compare(module.main, plan)


def test_planning_twice_gives_equal_bytes() -> None:
    for name in ("dense_block", "shared_cotangent"):
        first, second = (print_module(module_of(to_plan(NETS[name]())[1]), MACHINE) for _ in range(2))
        assert first == second


def test_a_long_chain_is_planned_in_linear_time() -> None:
    """60 concats in a row, joint: about 1,000 operations; 2 s is ten times what it takes."""
    n = NetBuilder()
    h = n.b.linear(n.input("x", 4, 3), n.param("w", 2, 3))
    for k in range(60):
        y = n.b.relu(n.b.linear(h, n.param(f"w{k}", 2, h.shape[1])))
        h = n.b.concat(h, y, axis=1)
    n.loss(n.call("sum", n.b.square(h)))
    module = to_kernels(n.module())
    start = time.perf_counter()
    plan = PlanMemory().plan(module)
    assert time.perf_counter() - start < 2
    assert plan.remarks == []
    assert check_plan(plan, module.main) == []


# -- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_offsets_never_share_live_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lives = []
    for _ in range(60):
        first = int(rng.integers(0, 40))
        lives.append(Lifetime(first, first + int(rng.integers(0, 12)), int(rng.integers(1, 1000))))
    offsets, size = assign_offsets(lives)
    placed = list(zip(lives, offsets, strict=True))
    for k, (a, at) in enumerate(placed):
        assert at % 64 == 0 and at + a.size_bytes <= size
        for b, other in placed[:k]:
            if a.first <= b.last and b.first <= a.last:
                assert at + a.size_bytes <= other or other + b.size_bytes <= at
    # The live set counts whole cache lines; the last one of the arena is not filled up.
    assert live_set_bytes(lives) - 63 <= size <= 1.3 * live_set_bytes(lives)


@pytest.mark.parametrize("seed", range(40))
def test_reshaped_strides_agree_with_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4], size=rng.integers(1, 5)))
    array = np.arange(int(np.prod(shape)) * 2, dtype=np.int64).reshape((*shape[:-1], shape[-1] * 2))[..., : shape[-1]]
    array = array.transpose(rng.permutation(array.ndim))
    sizes = [int(n) for n in array.shape]
    joined = [int(np.prod(sizes[:2])), *sizes[2:]] if len(sizes) > 1 else [*sizes, 1]
    strides = reshaped_strides(array.shape, [s // 8 for s in array.strides], joined)
    if strides is None:
        with pytest.raises((AttributeError, ValueError)):
            view = array.view()
            view.shape = tuple(joined)
        return
    view = np.lib.stride_tricks.as_strided(array, joined, [8 * s for s in strides])
    assert np.array_equal(view, array.reshape(joined))


def _window(plan: Plan, name: str) -> Window:
    (segment,) = plan.values[name]
    return segment.window
