"""Inputs that a concat would copy: the caller's arrays are put straight into it, and live as long as the plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.batch_sizes.rescale import Rescaled
from concatc.compiler import Options, compile_net
from concatc.diagnostics import ConcatcError
from concatc.inspect.memory import plan_report
from concatc.passes.check_plan import check_plan
from concatc.passes.plan_memory import PlanMemory
from concatc.runtime.module import CompiledModule
from tests.test_budget import without_budget

GROWING = Path(__file__).parent.parent / "examples" / "nets" / "growing.cnet"
SMALL = {"n": 2, "layers": 3, "growth": 3, "channels": 5, "size": 4}
# Where the inputs lie, in order, and what is copied in a step of the training phase, in bytes.
NETS: dict[str, tuple[str, list[str], int]] = {
    "channels": (
        """input x: f32[n, 4, 5, 5]
        h = concat(x, relu(conv(x, 3, kernel=3, pad=1)), axis=1)
        z = conv(h, 2, kernel=1)
        loss mean(square(z))
        output z""",
        ["arena"],
        0,
    ),
    "rows": (
        """input x: f32[n, 4]
        input y: f32[2 * n, 4]
        loss mean(square(linear(concat(x, y, axis=0), 2)))""",
        ["arena", "arena"],
        0,
    ),
    "labels": (
        """input a: i32[n]
        input b: i32[n]
        input x: f32[2 * n, 4]
        z = linear(x, 3)
        loss softmax_loss(z, concat(a, b, axis=0))
        output z""",
        ["arena", "arena", "inputs"],
        0,
    ),
    "in two concats": (
        """input x: f32[n, 4]
        a = linear(x, 3)
        loss mean(square(linear(concat(x, relu(a), axis=1), 2)))
        loss mean(square(linear(concat(tanh(a), x, axis=1), 2)))""",
        ["arena"],
        0,  # one concat reads segments
    ),
    "joined with itself": (
        """input x: f32[n, 4]
        loss mean(square(linear(concat(x, x, axis=1), 2)))""",
        ["inputs"],  # read in segments
        0,
    ),
    "sliced": (
        """input x: f32[n, 4]
        p, q = slice(x, axis=1, sizes=[1, 3])
        loss mean(square(linear(concat(q, relu(linear(x, 3)), axis=1), 2)))
        output p""",
        ["inputs"],  # a part of it cannot lie elsewhere
        3 * 3 * 4 + 3 * 4,  # q, and the output p
    ),
    "reshaped": (
        """input x: f32[n, 2, 2]
        h = flatten(x)
        loss mean(square(linear(concat(h, relu(linear(h, 3)), axis=1), 2)))""",
        ["arena"],
        0,
    ),
    "columns first": (
        """input x: f32[n, 4, 6]
        loss mean(square(linear(x |> transpose([0, 2, 1]) |> flatten, 3)))
        output relu(x) as z""",
        ["arena"],
        0,
    ),
    "reshaped in two ways": (
        """input x: f32[n, 4, 6]
        h = x |> transpose([0, 2, 1]) |> flatten
        loss mean(square(linear(h, 3)))
        loss mean(square(linear(x |> flatten, 3))) as other""",
        ["inputs"],
        3 * 24 * 4,
    ),
    "read later": (
        """input x: f32[n, 4]
        d = linear(relu(concat(x, linear(x, 3), axis=1)), 4)
        loss mean(square(linear(concat(x * d, x, axis=1), 2)))
        output d""",
        ["arena"],
        0,
    ),
    "a part of an output": (
        """input x: f32[n, 4]
        c = concat(linear(x, 3), x, axis=1)
        loss mean(square(c))
        output c""",
        ["outputs"],
        0,
    ),
    "an output": (
        """input x: f32[n, 4]
        output x as y
        loss mean(square(linear(x, 2)))""",
        ["outputs"],
        0,
    ),
}


def source(name: str) -> str:
    return f"net staged(n = 3) {{\n{NETS[name][0]}\n}}\n"


def data(net: CompiledModule, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    given = {}
    for name, spec in net.signature.inputs.items():
        shape = tuple(net.dims.get(dim, n) if dim else n for dim, n in zip(spec.dims, spec.type.shape, strict=True))
        if spec.type.is_float:
            given[name] = rng.normal(size=shape).astype(np.float32)
        else:
            given[name] = rng.integers(0, 3, shape).astype(np.int32)
    return given


def assert_same(got: Any, wanted: Any) -> None:
    """Float32 sums of at most a few hundred terms."""
    assert list(got) == list(wanted)
    for name in got:
        scale = max(1.0, float(np.abs(wanted[name]).max(initial=0.0)))
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize("name", NETS)
def test_where_inputs_lie_and_what_is_copied(name: str) -> None:
    _, bases, copied = NETS[name]
    lowering = compile_net(source(name), "staged.cnet").phase("train")
    slots = [slot for key, slot in lowering.interface.slots.items() if key.startswith("input:")]
    assert [slot.base for slot in slots] == bases
    moved = plan_report(lowering.plan).moved_bytes
    assert moved["copy"] == copied, [r.message for r in lowering.plan.remarks]
    assert moved["input staging"] == sum(4 * int(np.prod(slot.shape)) for slot in slots)
    assert check_plan(lowering.plan, lowering.kernels.main) == []


@pytest.mark.parametrize("name", [n for n, (_, bases, _) in NETS.items() if bases != ["inputs"]])
def test_all_calls_in_any_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """forward, eval between forward and backward, train steps, other batch sizes: as the reference does it."""
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path))
    nets = [concatc.compile_source(source(name), target=target, input_grads=True) for target in ("cpu", "reference")]
    optimizers = [concatc.SGD(lr=0.05), concatc.SGD(lr=0.05)]
    rng = np.random.default_rng(0)
    for dims in ({}, {"n": 7}, {}):
        ours, wanted = (net.with_dims(**dims) for net in nets)
        for _ in range(2):
            given = data(ours, rng)
            ours.forward(data(ours, rng))  # whose arrays are gone
            assert_same(ours.forward(given), wanted.forward(given))
            if nets[0].outputs:
                other = data(ours, rng)
                assert_same(ours.eval(other), wanted.eval(other))
            assert_same(ours.backward(), wanted.backward())
            given = data(ours, rng)
            losses = [net.train_step(given, optimizer=o) for net, o in zip((ours, wanted), optimizers, strict=True)]
            assert_same(*losses)
            assert_same(ours.params, wanted.params)


def test_another_batch_size_runs_the_same_code() -> None:
    net = concatc.compile_source(source("channels"))
    net.init(0)
    net.forward(x=np.zeros((3, 4, 5, 5), np.float32))
    other = net.with_dims(n=5)
    assert isinstance(other._source, Rescaled)
    slot = other._source.phase("train").interface.slots["input:x"]
    assert (slot.base, slot.shape, slot.strides) == ("arena", (5, 4, 5, 5), (175, 25, 5, 1))
    plan = other._source.phase("train").plan
    assert plan.values["input:x"][0].window == slot and check_plan(plan) == []


@pytest.mark.parametrize("layers", [32, 64])
def test_a_blob_that_grows_copies_nothing(layers: int) -> None:
    path = GROWING
    for phase in ("train", "infer"):
        options = concatc.compiler.Options(dims={"layers": layers})
        plan = compile_net(path.read_text(encoding="utf-8"), str(path), options).phase(phase).plan
        assert plan.remarks == []
        assert plan_report(plan).moved_bytes["input staging"] == 8 * 24 * 16 * 16 * 4


def test_an_output_may_be_given_back() -> None:
    """An array of the last call may be a view of where inputs are put."""
    text = """net back(n = 2) {
        input x: f32[n, 2]
        input y: f32[n, 2]
        c = concat(x, y, axis=1)
        output c
    }"""
    net = concatc.compile_source(text)
    x, y = np.float32([[1, 2], [3, 4]]), np.float32([[5, 6], [7, 8]])
    c = net.eval(x=x, y=y, copy=False)["c"]
    assert np.array_equal(c, np.concatenate([x, y], axis=1))
    again = net.eval(x=c[:, 2:], y=c[:, :2])["c"]
    assert np.array_equal(again, np.concatenate([y, x], axis=1))


def test_arrays_of_any_layout_and_dlpack() -> None:
    net = concatc.compile_source(source("channels"))
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 5)).astype(np.float32)
    wanted = net.eval(x=x)["z"]
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    class Foreign:
        def __dlpack__(self, **options: Any) -> Any:
            return x.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return x.__dlpack_device__()

    assert np.array_equal(net.eval(x=turned)["z"], wanted)
    assert np.array_equal(net.eval(x=Foreign())["z"], wanted)


def test_kept_blobs_that_hold_an_input() -> None:
    net = concatc.compile_source(source("channels"), keep=["h", "x"])
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 5)).astype(np.float32)
    net.forward(x=x)
    assert np.array_equal(net.blobs["x"].data, x) and np.array_equal(net.blobs["h"].data[:, :4], x)
    net.backward()
    assert np.array_equal(net.blobs["h"].data[:, :4], x)


def test_an_input_that_would_cost_memory_is_copied() -> None:
    """A concat is alive from its first part on: a small input would hold a large one from the start."""
    text = """net late(n = 64) {
        input x: f32[n, 1]
        input y: f32[n, 64]
        h = y
        for k in 0..4 { h = relu(linear(h, 256)) }
        h = linear(h, 4)
        output linear(concat(x, linear(h, 512), axis=1), 2) as z
    }"""
    lowering = compile_net(text, "late.cnet").phase("infer")
    slot = lowering.interface.slots["input:x"]
    need = sum(base.size_bytes for base in lowering.plan.bases.values())
    apart = PlanMemory(lowering.slots, stage=False).plan(lowering.kernels)
    assert slot.base == "inputs" and need <= sum(base.size_bytes for base in apart.bases.values())


@pytest.mark.parametrize("name", NETS)
def test_a_large_budget_changes_nothing(name: str) -> None:
    free, within = (compile_net(source(name), "staged.cnet", Options(max_memory=n)) for n in (None, 1 << 30))
    assert free.phase("train").interface.slots == within.phase("train").interface.slots
    plans = [without_budget(net.phase("train").dump("plan")) for net in (free, within)]
    assert plans[0] == plans[1]


CHAIN = """net chain(n = 64) {
    input x: f32[n, 16]
    h = linear(concat(x, x |> linear(16) |> tanh, axis=1), 64)
    for k in 0..8 { h = h |> linear(64) |> tanh }
    loss mean(square(linear(h, 3)))
}
"""


def test_an_update_within_a_budget_moves_an_input() -> None:
    """What the optimizer holds leaves room for another plan only, which has the input at another place."""
    rng = np.random.default_rng(0)
    free = concatc.compile_source(CHAIN)
    free.init(1)
    need = sum(base.size_bytes for base in free._source.phase("train").plan.bases.values())
    params = sum(p.nbytes for p in free.params.values())
    net = concatc.compile_source(CHAIN, max_memory=need + params)
    net.init(1)
    optimizers = [concatc.SGD(lr=0.01, momentum=0.9) for _ in range(2)]
    x = rng.normal(size=(64, 16)).astype(np.float32)
    assert_same(net.forward(x=x), free.forward(x=x))  # prepares a call that must not be made with the other plan
    assert_same(net.backward(), free.backward())
    places = set()
    for step in range(6):
        x = rng.normal(size=(64, 16)).astype(np.float32)
        if step % 3 == 0:  # a forward pass of its own, by the code that there is
            assert_same(net.forward(x=x), free.forward(x=x))
            assert_same(net.backward(), free.backward())
            net.step(optimizers[0])
            free.step(optimizers[1])
        else:
            losses = [one.train_step(x=x, optimizer=own) for one, own in zip((net, free), optimizers, strict=True)]
            assert_same(*losses)
        slot = net._calls.current["train"].interface.slots["input:x"]
        places.add((slot.base, slot.offset_bytes, slot.strides))
    first = net._source.phase("train").interface.slots["input:x"]
    assert (first.base, first.offset_bytes, first.strides) not in places and first.base == "arena"


def test_the_plan_says_where_inputs_are_put() -> None:
    net = concatc.compile_source(source("channels"))
    text = net.ir("plan")
    window = next(line for line in text.splitlines() if "cnet.window" in line)
    assert '%x = "cnet.window"(%arena) {offset = 0, holds = ["input:x"]}' in window
    assert 'cnet.base = "arena"' in text[text.index("@net(") :]
    blocks = net.memory.phases["train"].report.blocks()
    assert any(s.name == "x" and s.first == 0 for block in blocks for s in block.members)


EDITS = {
    "another base": ('cnet.base = "arena"', 'cnet.base = "params"', "an input is staged in arena or outputs, not in"),
    "no offset": ("cnet.offset = 0", "cnet.offset = 0.5", "`cnet.offset` must say at which byte of arena it lies"),
    "strides": ("cnet.strides = [175, 25, 5, 1]", "cnet.strides = [175, 25, 5]", "`cnet.strides` must be 4 whole"),
    "one place": ("cnet.strides = [175, 25, 5, 1]", "cnet.strides = [175, 25, 5, 0]", "two elements in one place"),
    "outside": ("cnet.offset = 0", "cnet.offset = 1073741824", "which has"),
}


@pytest.mark.parametrize("level", ["plan", "loops"])
def test_dumps_are_run(level: str, tmp_path: Path) -> None:
    net = concatc.compile_source(source("channels"))
    net.init(0)
    path = tmp_path / f"{level}.mlir"
    path.write_text(net.ir(level), encoding="utf-8")
    again = concatc.compile(path)
    again.init(0)
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 5)).astype(np.float32)
    assert_same(again.forward(x=x), net.forward(x=x))
    assert_same(again.backward(), net.backward())


@pytest.mark.parametrize("level", ["plan", "loops"])
@pytest.mark.parametrize("edit", EDITS)
def test_wrong_places_are_told(level: str, edit: str, tmp_path: Path) -> None:
    before, after, message = EDITS[edit]
    text = concatc.compile_source(source("channels")).ir(level)
    at = text.index(before, text.index("@net("))
    path = tmp_path / f"{level}.mlir"
    path.write_text(text[:at] + after + text[at + len(before) :], encoding="utf-8")
    with pytest.raises(ConcatcError) as error:
        concatc.compile(path)
    # A plan says it in two places: the window and the declaration.
    expected = "input:x must lie at" if level == "plan" and edit == "one place" else message
    assert expected in str(error.value) and error.value.diagnostics[0].loc is not None


@pytest.mark.parametrize("name", ["a part of an output", "columns first"])
def test_written_modules(name: str, tmp_path: Path) -> None:
    net = concatc.compile_source(source(name))
    net.init(0)
    from concatc.artifact import write_module

    write_module(net._source, tmp_path / "written")
    again = concatc.load(tmp_path / "written")
    again.init(0)
    x = data(net, np.random.default_rng(0))["x"]
    assert_same(again.forward(x=x), net.forward(x=x))
    assert_same(again.backward(), net.backward())
    assert_same(again.eval(x=-x), net.eval(x=-x))
