"""The checker: right plans pass, wrong ones do not.

Hundreds of small mutations of right plans (offsets, order, lifetimes, add flags, segments, aliases, scratch, ..) are
made; more than 500 of them are found, and each that the checker lets pass computes the same on poisoned memory.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from concatc.compiler import compile_net
from concatc.diagnostics import ConcatcError
from concatc.inspect.memory import plan_report
from concatc.ir.core import FuncOp
from concatc.loops.bases import argument_key, result_keys
from concatc.loops.plan import Launch, Plan, Segment, Window
from concatc.passes.check_lattice import overlap, overlaps_itself
from concatc.passes.check_plan import check_plan, verify_plan
from concatc.targets.reference.interpreter import run_function
from concatc.targets.reference.plan_interpreter import BaseMemory, run_launch, run_plan
from tests.nets.section5 import NETS
from tests.planning import arguments, to_plan

NAMES = [
    "two_batches",
    "concat_with_itself",
    "shared_cotangent",
    "dense_block",
    "read_before_complete",
    "shared_weights",
    "tree_of_concats",  # kernels in segments
    "one_blob_in_two_concats",  # a second store
]
MUTANTS_A_NET = 104  # eight of each mutation
CAUGHT_A_NET = 75  # at least; 600 in all


# -- mutations -------------------------------------------------------------------------------------------------------


def move_window(plan: Plan, rng: random.Random) -> Plan:
    """One window of one launch, by an element or a cache line, or to the place of another."""
    k = rng.randrange(len(plan.launches))
    launch = plan.launches[k]
    windows = [*launch.reads, *launch.writes]
    w = rng.randrange(len(windows))
    others = [x.offset_bytes for x in _windows(plan) if x.base == windows[w].base]
    offset = rng.choice([windows[w].offset_bytes + rng.choice([4, -4, 64, -64]), rng.choice(others)])
    return _with_window(plan, k, w, replace(windows[w], offset_bytes=max(0, offset)))


def move_block(plan: Plan, rng: random.Random) -> Plan:
    """A lifetime: all windows of the arena that start in one block go to the place of another."""
    starts = sorted({w.offset_bytes // 64 * 64 for w in _windows(plan) if w.base == "arena"})
    start, end = rng.choice(starts), rng.choice(starts)

    def moved(w: Window) -> Window:
        if w.base != "arena" or w.offset_bytes // 64 * 64 != start:
            return w
        return replace(w, offset_bytes=w.offset_bytes - start + end)

    launches = [replace(x, reads=tuple(map(moved, x.reads)), writes=tuple(map(moved, x.writes))) for x in plan.launches]
    return replace(plan, launches=launches)


def move_scratch(plan: Plan, rng: random.Random) -> Plan:
    """Scratch goes to the place of a window; where there is none, a lifetime is changed."""
    k = rng.choice([k for k, launch in enumerate(plan.launches) if launch.scratch is not None] or [-1])
    scratch = plan.launches[k].scratch
    places = [w.offset_bytes // 64 * 64 for w in _windows(plan) if w.base == "arena"]
    if scratch is None or not places:
        return move_block(plan, rng)
    end = plan.bases["arena"].size_bytes - (scratch.end_bytes - scratch.offset_bytes)
    at = min(rng.choice(places), max(0, end))
    return _with_launch(plan, k, replace(plan.launches[k], scratch=replace(scratch, offset_bytes=at)))


def swap_launches(plan: Plan, rng: random.Random) -> Plan:
    k = rng.randrange(len(plan.launches) - 1)
    launches = list(plan.launches)
    launches[k], launches[k + 1] = launches[k + 1], launches[k]
    return replace(plan, launches=launches)


def drop_launch(plan: Plan, rng: random.Random) -> Plan:
    k = rng.randrange(len(plan.launches))
    return replace(plan, launches=plan.launches[:k] + plan.launches[k + 1 :])


def repeat_launch(plan: Plan, rng: random.Random) -> Plan:
    k, at = rng.randrange(len(plan.launches)), rng.randrange(len(plan.launches))
    return replace(plan, launches=[*plan.launches[:at], plan.launches[k], *plan.launches[at:]])


def flip_add(plan: Plan, rng: random.Random) -> Plan:
    adding = [k for k, launch in enumerate(plan.launches) if any(launch.add)]
    k = rng.choice(adding) if adding and rng.random() < 0.5 else rng.randrange(len(plan.launches))
    launch = plan.launches[k]
    w = rng.randrange(len(launch.add))
    add = tuple(not a if j == w else a for j, a in enumerate(launch.add))
    return _with_launch(plan, k, replace(launch, add=add))


def alias(plan: Plan, rng: random.Random) -> Plan:
    """A launch writes where it reads."""
    fits = [
        (k, r, w)
        for k, x in enumerate(plan.launches)
        for r, read in enumerate(x.reads)
        for w, write in enumerate(x.writes)
        if np.prod(read.shape) >= np.prod(write.shape) and read.dtype == write.dtype
    ]
    k, r, w = rng.choice(fits)
    launch = plan.launches[k]
    read = launch.reads[r]
    target = replace(launch.writes[w], base=read.base, offset_bytes=read.offset_bytes)
    return _with_window(plan, k, len(launch.reads) + w, target)


def move_segment(plan: Plan, rng: random.Random) -> Plan:
    """Where an argument or result is said to lie."""
    key = rng.choice([name for name in plan.values if ":" in name])
    (segment,) = plan.values[key]
    window = replace(segment.window, offset_bytes=max(0, segment.window.offset_bytes + rng.choice([4, -4, 64])))
    return replace(plan, values={**plan.values, key: (Segment(segment.start, window),)})


def change_strides(plan: Plan, rng: random.Random) -> Plan:
    k = rng.randrange(len(plan.launches))
    windows = [*plan.launches[k].reads, *plan.launches[k].writes]
    w = rng.randrange(len(windows))
    if not windows[w].strides:
        return move_window(plan, rng)
    d = rng.randrange(len(windows[w].strides))
    strides = tuple(s + rng.choice([1, -1, s]) if j == d else s for j, s in enumerate(windows[w].strides))
    return _with_window(plan, k, w, replace(windows[w], strides=strides))


def swap_reads(plan: Plan, rng: random.Random) -> Plan:
    """A launch reads what another one reads."""
    k, j = rng.randrange(len(plan.launches)), rng.randrange(len(plan.launches))
    here, there = plan.launches[k], plan.launches[j]
    r = rng.randrange(len(here.reads)) if here.reads else 0
    same = [w for w in there.reads if here.reads and w.shape == here.reads[r].shape and w.dtype == here.reads[r].dtype]
    if not same:
        return move_window(plan, rng)
    return _with_window(plan, k, r, rng.choice(same))


def change_phase(plan: Plan, rng: random.Random) -> Plan:
    k = rng.randrange(len(plan.launches))
    launch = plan.launches[k]
    other = "forward" if launch.phase == "backward" else "backward"
    return _with_launch(plan, k, replace(launch, phase=other))


def shrink_base(plan: Plan, rng: random.Random) -> Plan:
    name = rng.choice([b.name for b in plan.bases.values() if b.size_bytes > 64])
    size = plan.bases[name].size_bytes - 64
    return replace(plan, bases={**plan.bases, name: replace(plan.bases[name], size_bytes=size)})


MUTATIONS: list[Callable[[Plan, random.Random], Plan]] = [
    move_window,
    move_block,
    move_scratch,
    swap_launches,
    drop_launch,
    repeat_launch,
    flip_add,
    alias,
    move_segment,
    change_strides,
    swap_reads,
    change_phase,
    shrink_base,
]


def _windows(plan: Plan) -> list[Window]:
    return [w for x in plan.launches for w in (*x.reads, *x.writes)]


def _with_launch(plan: Plan, k: int, launch: Launch) -> Plan:
    return replace(plan, launches=[*plan.launches[:k], launch, *plan.launches[k + 1 :]])


def _with_window(plan: Plan, k: int, w: int, window: Window) -> Plan:
    launch = plan.launches[k]
    windows = [*launch.reads, *launch.writes]
    windows[w] = window
    reads = len(launch.reads)
    return _with_launch(plan, k, replace(launch, reads=tuple(windows[:reads]), writes=tuple(windows[reads:])))


# -- what a plan computes --------------------------------------------------------------------------------------------


def _computes(plan: Plan, net: FuncOp, seed: int) -> bool:
    """Whether forward, then backward, leave all results in their places, and arguments as they were."""
    args = arguments(net, seed)
    expected = dict(zip(result_keys(net), run_function(net, args), strict=True))
    given = {argument_key(a): x for a, x in zip(net.args, args, strict=True)}
    memory = BaseMemory(plan)
    for key, x in given.items():
        memory.set(key, x)
    for phase in ("forward", "backward"):
        for launch in plan.phase(phase):
            run_launch(memory, launch)
        wanted = {k: v for k, v in expected.items() if phase == "backward" or not k.split(":")[0].endswith("grad")}
        wanted |= {k: v for k, v in given.items() if not k.startswith("state:")}
        if not all(np.allclose(memory.get(k), v, rtol=1e-5, atol=1e-6) for k, v in wanted.items()):
            return False
    return not memory.spoiled()


# -- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_right_plans_pass(name: str) -> None:
    net, plan = to_plan(NETS[name]())
    assert check_plan(plan, net) == []
    assert check_plan(plan, net, simulated_bytes=0) == []
    assert check_plan(plan) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_mutation_that_changes_a_result_is_found(name: str) -> None:
    """What the checker lets pass is harmless, which the interpreter shows: the same results from two draws of data."""
    net, plan = to_plan(NETS[name]())
    rng = random.Random(name)
    caught: Counter[str] = Counter()
    harmless: Counter[str] = Counter()
    for k in range(MUTANTS_A_NET):
        mutate = MUTATIONS[k % len(MUTATIONS)]
        mutant = mutate(plan, rng)
        if check_plan(mutant, net):
            caught[mutate.__name__] += 1
            continue
        assert all(_computes(mutant, net, seed) for seed in (1, 2)), f"{mutate.__name__} (mutant {k}) is wrong"
        harmless[mutate.__name__] += 1
    assert sum(caught.values()) >= CAUGHT_A_NET, (caught, harmless)
    assert sum((caught + harmless).values()) == MUTANTS_A_NET
    assert all(caught[m.__name__] for m in (drop_launch, flip_add, alias, change_strides, move_segment, shrink_base))


def test_more_than_500_mutations_are_found() -> None:
    assert CAUGHT_A_NET * len(NAMES) > 500


SCRATCH = """net s(n = 3) {
    input x: f32[n, 4, 6, 6]
    input label: i32[n]
    v = tanh(x) |> conv(5, kernel=3, pad=1)
    w = relu(v) |> conv(3, kernel=3, pad=1)
    c = concat(v, sigmoid(w))
    loss softmax_loss(c |> global_avg_pool |> flatten |> linear(4), label)
}
"""


def test_scratch_over_what_is_alive_is_found() -> None:
    """Scratch of each launch, put over each value that is read later: the checker finds it, and it spoils a result."""
    lowering = compile_net(SCRATCH, "scratch.cnet").phase("train")
    net, plan = lowering.kernels.main, lowering.plan
    assert check_plan(plan, net) == [] and _computes(plan, net, 1)
    moved = 0
    for k, launch in enumerate(plan.launches):
        if launch.scratch is None:
            continue
        for stored in plan_report(plan).stored:
            if not (stored.first < k < stored.last) or stored.is_scratch:
                continue
            scratch = replace(launch.scratch, offset_bytes=stored.window.offset_bytes // 64 * 64)
            arena = replace(plan.bases["arena"], size_bytes=max(scratch.end_bytes, plan.bases["arena"].size_bytes))
            mutant = _with_launch(plan, k, replace(launch, scratch=scratch))
            mutant = replace(mutant, bases={**plan.bases, "arena": arena})
            assert check_plan(mutant, net), (k, stored.title)
            # At sizes where bytes have no owners, too.
            assert check_plan(mutant, net, simulated_bytes=0), (k, stored.title)
            assert not _computes(mutant, net, 1), (k, stored.title)
            moved += 1
    assert moved >= 5


def test_mutants_are_wrong() -> None:
    """Most mutants that the checker finds do compute something else (it is not merely strict)."""
    net, plan = to_plan(NETS["shared_cotangent"]())
    rng = random.Random(0)
    wrong = 0
    for _ in range(40):
        mutant = drop_launch(plan, rng)
        assert check_plan(mutant, net)
        wrong += not _computes(mutant, net, 1)
    assert wrong == 40


def test_messages_name_the_launch_and_what_it_read() -> None:
    net, plan = to_plan(NETS["two_batches"]())
    launches = plan.launches
    relu, sum_b = (next(k for k, x in enumerate(launches) if x.kernel == name) for name in ("k9_relu_grad", "k10_sum"))
    # relu_grad works in place, so without it its reader finds what it would have read.
    assert check_plan(replace(plan, launches=[*launches[:relu], *launches[relu + 1 :]]), net)[0].render() == (
        "error: launch 9 @k10_sum: computes a value that the net does not have\n"
        "note: read 0 is %hb[0, 0] to %hb[1, 5], written by launch 1\n"
        "note: read 0 should be %lb.grad.use0"
    )
    moved = _with_window(plan, 2, 0, replace(launches[2].reads[0], offset_bytes=4))
    assert check_plan(moved, net)[0].render() == (
        "error: launch 2 @k2_linear_bias: read 0 of arena+4 [5, 6] strides [6, 1]: element [4, 5] was never written"
    )
    added = _with_launch(plan, sum_b, replace(launches[sum_b], add=(True,)))
    assert (
        "write 0 adds to grads+320 [6] strides [1]: element [0] was never written" in check_plan(added, net)[0].message
    )


def test_values_of_several_segments() -> None:
    """A result may lie in several places; each must hold its part, and together they hold all of it."""
    net, plan = to_plan(NETS["inference_only"]())
    (whole,) = plan.values["output:c"]
    left = Segment((0, 0), whole.window.sub((0, 0), (2, 4)))
    right = Segment((0, 4), whole.window.sub((0, 4), (2, 2)))
    given = dict(zip(map(argument_key, net.args), arguments(net), strict=True))
    expected = run_plan(plan, given)["output:c"]

    def with_segments(*segments: Segment) -> Plan:
        return replace(plan, values={**plan.values, "output:c": segments})

    split = with_segments(left, right)
    assert check_plan(split, net) == [] and check_plan(split, net, simulated_bytes=0) == []
    assert np.array_equal(run_plan(split, given)["output:c"], expected)
    wrong = {
        "output:c has 8 of its 12 elements": with_segments(left),
        "two segments of output:c hold the same elements": with_segments(left, right, right),
        "a segment of output:c leaves its shape": with_segments(left, replace(right, start=(0, 5))),
        "output:c in outputs+0": with_segments(
            Segment((0, 2), whole.window.sub((0, 0), (2, 4))), Segment((0, 0), whole.window.sub((0, 4), (2, 2)))
        ),
    }
    for message, bad in wrong.items():
        found = check_plan(bad, net)
        assert found and any(message in d.message for d in found), (message, found)


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("made", [None, "backward", "forward"])
def test_results_are_made_in_their_phase(phase: str, made: str | None) -> None:
    """A plan without one half, or with all in one, even where the net that it was made of is not there."""
    _, plan = to_plan(NETS["two_batches"]())
    moved = [replace(x, phase=made) if x.phase == phase and made else x for x in plan.launches]
    kept = [x for x in moved if made or x.phase != phase]
    found = [d.message for d in check_plan(replace(plan, launches=kept))]
    if made == phase:
        assert found == []
        return
    if made == "forward":
        assert any("is in grads, which a forward launch must not write" in message for message in found)
        return
    kinds = ("output", "loss", "total") if phase == "forward" else ("grad",)
    results = {key for key in plan.values if key.partition(":")[0] in kinds}
    assert results and set(found) >= {f"{key} is written by no {phase} launch" for key in results}


def test_verify_raises_everything() -> None:
    net, plan = to_plan(NETS["two_batches"]())
    bad = _with_window(plan, 0, 0, replace(plan.launches[0].reads[0], offset_bytes=1 << 20))
    bad = _with_window(bad, 1, 0, replace(bad.launches[1].reads[0], offset_bytes=2))
    with pytest.raises(ConcatcError) as error:
        verify_plan(bad, net)
    assert "touches bytes 1048576 to 1048624 of inputs" in str(error.value)
    assert "is not aligned for f32" in str(error.value)


# -- lattices --------------------------------------------------------------------------------------------------------


def _bytes(window: Window) -> set[int]:
    step = {"f32": 4, "f64": 8, "i1": 1}[window.dtype]
    offsets = [
        window.offset_bytes + step * sum(i * s for i, s in zip(at, window.strides, strict=True))
        for at in np.ndindex(window.shape)
    ]
    return {offset + k for offset in offsets for k in range(step)}


def _random_window(rng: random.Random) -> Window:
    rank = rng.randrange(0, 4)
    shape = tuple(rng.randrange(1, 5) for _ in range(rank))
    strides = tuple(rng.choice([0, 1, 2, 3, 4, 5, 8, 12, 16, 20]) for _ in range(rank))
    dtype = rng.choice(["f32", "f32", "f64", "i1"])
    return Window("arena", rng.randrange(0, 120), shape, strides, dtype)


def test_overlap_is_exact() -> None:
    rng = random.Random(7)
    outcomes = Counter()
    for _ in range(4000):
        a, b = _random_window(rng), _random_window(rng)
        meet = bool(_bytes(a) & _bytes(b))
        assert overlap(a, b) == meet, (a, b)
        outcomes[meet] += 1
    assert min(outcomes.values()) > 500


def test_overlap_with_itself_is_exact() -> None:
    rng = random.Random(8)
    for _ in range(4000):
        window = _random_window(rng)
        step = {"f32": 4, "f64": 8, "i1": 1}[window.dtype]
        repeats = len(_bytes(window)) < step * int(np.prod(window.shape))
        assert overlaps_itself(window) == repeats, window


def test_interleaved_windows_do_not_overlap() -> None:
    """Channels 0..12 and 12..24 of a channels-last buffer share every row of pixels, and no byte."""
    a = Window("arena", 0, (64, 12, 32, 32), (32 * 32 * 32, 1, 32 * 32, 32))
    b = replace(a, offset_bytes=48)
    assert not overlap(a, b)
    assert overlap(a, replace(b, offset_bytes=44))
    assert not overlap(a, replace(b, base="grads"))
