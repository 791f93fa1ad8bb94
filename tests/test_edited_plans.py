"""Dumps of plans and loops: run as they are, run as edited, and refused where an edit is wrong."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.cli.main import run
from concatc.compiler import Options, compile_net
from concatc.edited import EditedDump
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.ir.levels import LEVELS
from concatc.ir.printer import PLAIN, print_module
from tests.emulated import tiles_for_all
from tests.test_edited import NET, batch

STEPS = ("plan", "loops")
EXAMPLES = Path(__file__).parent.parent / "examples"
# The larger nets are as these are, at many times the size; dims keep the rest small.
EXAMPLE_NETS: dict[str, tuple[str | None, dict[str, int]]] = {
    "thread.cnet": (None, {}),
    "self_concat.cnet": ("twice", {}),
    "two_losses.cnet": ("joined", {}),
    "digits.cnet": (None, {}),
    "nets/two_tower.cnet": (None, {}),
    "nets/siamese.cnet": (None, {}),
    "nets/two_task.cnet": (None, {}),
    "nets/inception.cnet": (None, {}),
    "nets/residual.cnet": (None, {"depth": 1}),
}
# Ways of the IR at other levels: what copies labels, indexes rows, recomputes, keeps blobs and has states.
INDICES = """
net indices(n = 4) {
    input a: i32[n]
    input pair: i32[n, 2]
    input b: f32[n, 3, 6, 6]
    p, q = slice(pair, axis=1, sizes=[1, 1])
    ids = concat(a, reshape(p, [n]), axis=0)
    t = embedding(ids, vocab=7, dim=4) @table
    h = b |> conv(4, kernel=3, pad=1) |> batch_norm |> relu |> max_pool(2, stride=2) |> dropout(0.3)
    y = linear(flatten(h), 5)
    z = concat(y, linear(sum(reshape(t, [2, n, 4]), axes=[0]), 5), axis=0)
    loss softmax_loss(z, concat(a, reshape(q, [n]), axis=0), ignore=6)
    output z
}
"""


@cache
def original() -> concatc.CompiledModule:
    net = concatc.compile_source(NET)
    net.init(seed=1)
    return net


@cache
def dump(level: str) -> str:
    """What the compiler makes of the net."""
    return original().ir(level)


@cache
def written(level: str) -> str:
    """A dump of the net that stays as it is, whatever the planner learns: edits are made in it."""
    return (Path(__file__).parent / "edited" / f"{level}.mlir").read_text(encoding="utf-8")


def load(text: str, tmp_path: Path) -> concatc.CompiledModule:
    path = tmp_path / "dump.mlir"
    path.write_text(text, encoding="utf-8")
    net = concatc.compile(path)
    net.init(seed=1)
    return net


def trained(net: concatc.CompiledModule, steps: int = 2) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Losses and parameters of some steps from the same start."""
    net.init(seed=1)
    optimizer = concatc.Adam(0.01)
    losses = [net.train_step(batch(), optimizer=optimizer) for _ in range(steps)]
    return losses, {name: np.array(value) for name, value in net.params.items()}


def nameless(module: Module) -> str:
    """The text of a module but for the names of values: a dump tells those that are alike by numbers."""
    copied = clone_module(module)
    for function in copied.functions:
        for value in (*function.args, *(v for op in function.walk() for v in op.results)):
            value.name = ""
        for block in (b for op in function.walk() for region in op.regions for b in region.blocks):
            for arg in block.args:
                arg.name = ""
    return print_module(copied, PLAIN)


@pytest.mark.parametrize("example", EXAMPLE_NETS)
def test_every_level_of_an_example_gives_its_loops(example: str) -> None:
    """The loops made from a dump are those of the net, to the letter: so is all that they compute."""
    path = EXAMPLES / example
    net, dims = EXAMPLE_NETS[example]
    compilation = compile_net(path.read_text(encoding="utf-8"), str(path), Options(net=net, dims=dims))
    for phase in compilation.phases:
        lowering = compilation.phase(phase)
        loops = nameless(lowering.loops)
        for level in LEVELS:
            # What is simplified in a joint graph is the compiler's business; a dump of it is run as it stands.
            if level != "joint" and (phase == "train" or level in STEPS):
                again = EditedDump(lowering.dump(level), f"{level}.mlir", Options())
                assert again.level == level or (again.level == "graph" and level == "split"), level
                assert nameless(again.phase(phase).loops) == loops, level


# A joint graph is run without simplifying it: it gives other kernels, and test_edited.py compares what they compute.
@pytest.mark.parametrize("level", [level for level in LEVELS if level != "joint"])
def test_a_dump_computes_the_same_bits(level: str, tmp_path: Path) -> None:
    net = load(dump(level), tmp_path)
    original().init(seed=1)
    results, expected = net.forward(batch()), original().forward(batch())
    gradients, wanted = net.backward(), original().backward()
    for found, true in ((results, expected), (gradients, wanted)):
        assert list(found) == list(true)
        assert all(np.array_equal(found[name], true[name]) for name in true)
    losses, params = trained(net)
    true_losses, true_params = trained(original())
    assert losses == true_losses
    assert all(np.array_equal(params[name], true_params[name]) for name in true_params)


@pytest.mark.parametrize("level", STEPS)
def test_indices_are_checked(level: str, tmp_path: Path) -> None:
    """Labels and indices keep their bounds, those that are copied, cut and ignored too."""
    net = concatc.compile_source(INDICES)
    again = load(net.ir(level), tmp_path)
    rng = np.random.default_rng(0)
    good = {
        "a": np.int32([0, 4, 6, 1]),
        "pair": np.int32([[6, 4], [0, 0], [3, 6], [1, 2]]),
        "b": rng.normal(size=(4, 3, 6, 6)).astype(np.float32),
    }
    for module in (net, again):
        module.init(seed=2)
    assert again.train_step(good) == net.train_step(good)
    for name, at, value in (("a", (1,), 5), ("a", (0,), -1), ("pair", (0, 0), 7), ("pair", (2, 1), 5)):
        bad = {key: np.array(array) for key, array in good.items()}
        bad[name][at] = value
        for module in (net, again):
            with pytest.raises(concatc.UsageError, match=rf"input `{name}` holds {value} at \[{at[0]}"):
                module.train_step(bad)


@pytest.mark.parametrize("level", STEPS)
def test_inference_has_a_dump_of_its_own(level: str, tmp_path: Path) -> None:
    training = load(dump(level), tmp_path)
    assert training.outputs == {}
    with pytest.raises(concatc.UsageError, match="of training, which holds no inference"):
        training.eval(x=batch()["x"])
    inference = load(original().ir(level, phase="infer"), tmp_path)
    x = batch()["x"]
    original().init(seed=1)
    np.testing.assert_array_equal(inference.eval(x=x)["y"], original().eval(x=x)["y"])
    with pytest.raises(concatc.UsageError, match="has no loss"):
        inference.train_step(x=x)


@pytest.mark.parametrize("level", STEPS)
def test_what_such_a_dump_cannot_do_is_explained(level: str, tmp_path: Path) -> None:
    path = tmp_path / "dump.mlir"
    path.write_text(dump(level))
    with pytest.raises(concatc.UsageError, match=f"of the level {level}, which the target `reference` does not run"):
        concatc.compile(path, target="reference")
    net = concatc.compile(path)
    with pytest.raises(concatc.UsageError, match=f"a dump of the level {level}; it has no kernels"):
        net.ir("kernels")
    with pytest.raises(concatc.UsageError, match="was made for n=4"):
        net.forward(x=np.zeros((5, 5), np.float32), label=np.zeros(5, np.int32))
    assert net.memory.arena_bytes == original().memory.arena_bytes
    assert repr(net) == repr(original())


# -- edits that are meant ----------------------------------------------------------------------------------------------


def expected(h: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    p = original().params
    joined = np.concatenate([h, h if second is None else second], axis=1)
    return joined @ p["two.weight"].T + p["two.bias"]


def hidden() -> np.ndarray:
    p = original().params
    return batch()["x"] @ p["one.weight"].T + p["one.bias"]


def test_the_op_of_a_plans_kernel(tmp_path: Path) -> None:
    original().init(seed=1)
    net = load(edited("plan", '"cnet.relu"', '"cnet.neg"'), tmp_path)
    np.testing.assert_allclose(net.forward(batch())["y"], expected(-hidden()), atol=1e-5)


def test_a_constant_of_a_plan(tmp_path: Path) -> None:
    """The gradient of the total is 1: with 3 in its place all gradients are three times as large."""
    net = load(edited("plan", "{value = 1.0}", "{value = 3.0}"), tmp_path)
    original().init(seed=1)
    for module in (net, original()):
        module.forward(batch())
        module.backward()
    for name, grad in original().grads.items():
        np.testing.assert_allclose(net.grads[name], 3 * grad, rtol=1e-5, atol=1e-7, err_msg=name)


def test_the_window_of_a_launch(tmp_path: Path) -> None:
    """The second linear adds the first bias of the first one, in place of its own."""
    text = written("plan")
    swapped = re.sub(r"(\"cnet.launch\"\(%y.concat, %two.weight, )%two.bias,", r"\1%other,", text)
    window = re.search(r"%one\.bias = (.*?\n?.*?) : \(", text.replace("\n        : (", " : ("))
    assert window is not None and swapped != text
    at = swapped.index('    "cnet.launch"(%y.concat, %two.weight, %other')
    added = '    %other = "cnet.window"(%params) {offset = 128} : (!m1) -> memref<3xf32, strided<[1]>>\n'
    net = load(
        swapped[:at] + added + swapped[at:].replace("!m10, !m11", "memref<3xf32, strided<[1]>>, !m11", 1), tmp_path
    )
    net.params["one.bias"] = np.arange(6, dtype=np.float32)
    p = net.params
    h = np.maximum(batch()["x"] @ p["one.weight"].T + p["one.bias"], 0)
    wanted = np.concatenate([h, h], axis=1) @ p["two.weight"].T + p["one.bias"][:3]
    np.testing.assert_allclose(net.forward(batch())["y"], wanted, atol=1e-5)


def test_the_order_of_reads(tmp_path: Path) -> None:
    """A launch left out: its part of the concat holds what another launch left there, or is found unwritten."""
    text = re.sub(r' *"cnet.launch"\(%h, %arena.24\)[^\n]*\n[^\n]*\n', "", written("plan"))
    with pytest.raises(concatc.ConcatcError, match=r"launch 1 @k1_linear_bias: .* was never written"):
        load(text, tmp_path)


def test_the_arithmetic_of_loops(tmp_path: Path) -> None:
    original().init(seed=1)
    net = load(edited("loops", "arith.maximumf", "arith.minimumf"), tmp_path)
    np.testing.assert_allclose(net.forward(batch())["y"], expected(np.minimum(hidden(), 0)), atol=1e-5)


def test_a_constant_of_loops(tmp_path: Path) -> None:
    """relu is a maximum with 0; with 0.5 it is one with 0.5."""
    text = written("loops")
    at = text.index("func.func private @k0_linear_bias_relu")
    kernel = text[at:].replace("arith.maximumf %1, %0 ", "arith.maximumf %1, %half ", 1)
    kernel = kernel.replace(
        "%0 = arith.constant 0.0 : f32", "%0 = arith.constant 0.0 : f32\n%half = arith.constant 0.5 : f32", 1
    )
    original().init(seed=1)
    net = load(text[:at] + kernel, tmp_path)
    np.testing.assert_allclose(net.forward(batch())["y"], expected(np.maximum(hidden(), 0.5)), atol=1e-5)


def test_how_a_parameter_starts_stands_in_the_declaration(tmp_path: Path) -> None:
    for level in STEPS:
        net = load(edited(level, 'constant(0.0)"}', 'constant(2.0)", cnet.lr = 0.0}', count=1), tmp_path)
        assert (net.params["one.bias"] == 2).all() and (net.params["two.bias"] == 0).all()
        net.train_step(batch(), optimizer=concatc.SGD(0.1))
        assert (net.params["one.bias"] == 2).all() and not (net.params["two.bias"] == 0).all()


def edited(level: str, old: str, new: str, count: int = -1) -> str:
    text = written(level)
    assert old in text
    return text.replace(old, new, count)


# -- edits that are wrong ----------------------------------------------------------------------------------------------
WRONG_PLANS = {
    "beyond its base": (
        ('%arena.24 = "cnet.window"(%arena) {offset = 24}', '%arena.24 = "cnet.window"(%arena) {offset = 2400}'),
        "the window is bytes 2400 to 2568 of arena, which has",
    ),
    "before its base": (("{offset = 24}", "{offset = -4}"), "the window is bytes -4 to 164 of arena"),
    "not aligned": (("{offset = 24}", "{offset = 25}"), "starts at byte 25, which is not aligned for f32"),
    "overlapping": (("{offset = 24}", "{offset = 4}"), "write 0 overlaps read 0 and is another window"),
    "an unknown kernel": (("@k1_linear_bias,", "@k1_linear_bia,"), "no function @k1_linear_bia in the plan"),
    "an unknown op": (('"cnet.relu"', '"cnet.rely"'), "unknown op cnet.rely"),
    "a phase before": (
        (
            'kernel = @k1_linear_bias, reads = 3, add = [false],\n        phase = "forward"',
            'kernel = @k1_linear_bias, reads = 3, add = [false],\n        phase = "update"',
        ),
        "which a update launch must not write",
    ),
    "an argument elsewhere": (
        ('%x = "cnet.window"(%inputs) {offset = 0,', '%x = "cnet.window"(%inputs) {offset = 64,'),
        "input:x must lie at inputs+0 [4, 5], dense",
    ),
    "a name twice": (('holds = ["h"]', 'holds = ["y.concat"]'), "y.concat has two places"),
    "no place": (('{offset = 0, holds = ["input:x"]}', "{offset = 0}"), "no window holds input:x"),
    "a result that nothing writes": (
        ("(%y.grad, %two.bias.grad) {kernel", "(%y.grad, %spare) {kernel"),
        "%spare is not defined",
    ),
    "a dim": (("cnet.dims = {n = 4}", "cnet.dims = {n = 5}"), "axis 0 has 4 elements, but is the dim n = 5"),
    "a dim of no net": (('cnet.dims = ["n", ""]', 'cnet.dims = ["m", ""]'), "the dim `m`, which the net does not have"),
    "dims of another rank": (('cnet.dims = ["n", ""]', 'cnet.dims = ["n"]'), "`cnet.dims` must be 2 texts"),
    "bounds": (("{extent = 3,", "{extents = 3,"), "`cnet.index` of %label is malformed"),
    "a parameter's start": (('"xavier()"', '"xavie()"'), "is no way to start a parameter"),
    "no declaration": (("func.func private @net(", "func.func private @nt("), "@nt has no body"),
    "too little scratch": (
        ("!m14 = memref<128xi8, strided<[1]>>", "!m14 = memref<64xi8, strided<[1]>>"),
        "@k2_softmax_loss needs 128 bytes of scratch at a multiple of 64; the launch has 64",
    ),
}
WRONG_LOOPS = {
    "beyond its base": (
        ("%c512 = arith.constant 512 : index", "%c512 = arith.constant 51200 : index"),
        "the window is bytes 51200 to 51216 of arena, which has 640",
    ),
    "not aligned": (("%c512 = arith.constant 512", "%c512 = arith.constant 513"), "is not aligned for f32"),
    "too many rows": (
        ("@k1_linear_bias(%c0, %c4, %c3, %c12,", "@k1_linear_bias(%c0, %c64, %c3, %c12,"),
        "reaches element 4 of axis 0 of %y.concat_, which has 4 elements",
    ),
    "too many terms": (
        ("@k1_linear_bias(%c0, %c4, %c3, %c12,", "@k1_linear_bias(%c0, %c4, %c3, %c24,"),
        "reaches element 12 of axis 1 of %y.concat_, which has 12 elements",
    ),
    "an index": (("memref.load %one.bias_[%i1]", "memref.load %one.bias_[%k0]"), "%k0 is not defined"),
    "another index": (
        ("%x__ = memref.load %x_[%i0, %k]", "%x__ = memref.load %x_[%k, %i0]"),
        "reaches element 4 of axis 0 of %x_, which has 4 elements",
    ),
    "a loop that never ends": (
        ("scf.for %i0 = %begin to %end step %c1", "scf.for %i0 = %begin to %end step %c0"),
        "the bounds of a loop are numbers, arguments and other loops; its step is 1 or more",
    ),
    "a cast": (
        ("to offset: [0], sizes: [4, 6], strides: [12, 1]", "to offset: [0], sizes: [4, 6], strides: [13, 1]"),
        "the offset is 0, and sizes and strides are those of",
    ),
    "a phase": (('{cnet.phase = "forward"}', '{cnet.phase = "forwards"}'), "`forwards` is no phase"),
    "a store to parameters": (("%20 = memref.view %outputs[%c0][]", "%20 = memref.view %params[%c0][]"), "memref"),
    "a base": (("%inputs: !m0, %params", "%input: !m0, %params"), "%inputs is not defined"),
    "an operation in @step": (
        ("%c24 = arith.constant 24 : index", "%c24 = arith.addi %c4, %c4 : index"),
        "@step holds",
    ),
    "bounds": (("{extent = 3,", "{extents = 3,"), "`cnet.index` of %label is malformed"),
    "a call that is missing": (("func.call @k3_total_loss(", "func.call @k3_total_los("), "no function of the module"),
}
CASES = [("plan", name) for name in WRONG_PLANS] + [("loops", name) for name in WRONG_LOOPS]


@pytest.mark.parametrize(("level", "case"), CASES)
def test_a_wrong_edit_is_an_error_with_its_place(level: str, case: str) -> None:
    (old, new), message = (WRONG_PLANS if level == "plan" else WRONG_LOOPS)[case]
    with pytest.raises(concatc.ConcatcError) as caught:
        EditedDump(edited(level, old, new, count=1), "dump.mlir", Options())
    assert message in str(caught.value)
    assert re.match(r"dump\.mlir:\d+:\d+: error: ", str(caught.value)), str(caught.value)


def test_unread_labels_stay_unchecked_and_indices_of_a_plan_cannot_be_hidden(tmp_path: Path) -> None:
    """What a plan indexes is read off its launches: bounds that are deleted from its text are there all the same."""
    text = written("plan")
    without = text.replace(', cnet.index = [{extent = 3, op = "softmax_loss"}]', "")
    assert without != text
    net = load(without, tmp_path)
    with pytest.raises(concatc.UsageError, match="must hold 0 to 2"):
        net.forward(batch() | {"label": np.int32([0, 3, 1, 1])})


def test_loops_cannot_index_what_is_not_bounded(tmp_path: Path) -> None:
    """Rows of a table are read at an index: conditions keep it in the table, or what the declaration states does."""
    guarded = concatc.compile_source(INDICES).ir("loops")
    text = guarded.replace("arith.constant 7 : i32", "arith.constant 8 : i32")
    wider = re.sub(r"extent = 7,(\s+op = \"embedding\", at)", r"extent = 8,\1", text)
    assert guarded != text != wider
    load(text, tmp_path)
    load(guarded.replace("extent = 7", "extent = 8"), tmp_path)
    with pytest.raises(concatc.ConcatcError, match=r"reaches element 7 of axis 0 of %table.weight_, which has 7"):
        load(wider, tmp_path)
    with pytest.raises(concatc.ConcatcError, match=r"the index of axis 0 of %table.weight_, .* cannot be followed"):
        load(re.sub(r", cnet.index = \[\{.*?\}\]", "", text, flags=re.DOTALL), tmp_path)


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        run(list(arguments))
    return ended.value.code


def test_the_command_runs_the_forward_pass_of_a_training_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", **batch())
    for level in STEPS:
        (tmp_path / "dump.mlir").write_text(dump(level))
        assert exit_code("run", str(tmp_path / "dump.mlir"), "--data", str(tmp_path / "data.npz")) == 0
        shown = capsys.readouterr()
        assert "its forward pass runs, losses included" in shown.err
        assert shown.out.startswith("loss: ")
        assert exit_code("check", str(tmp_path / "dump.mlir")) == 0
        assert exit_code("compile", str(tmp_path / "dump.mlir")) == 0
        assert re.search(r"training: [1-9]\d* launches of [1-9]\d* kernels", capsys.readouterr().out)
        assert exit_code("summary", str(tmp_path / "dump.mlir")) == 2
        assert "do not hold the operations of small" in capsys.readouterr().err
        assert exit_code("compile", str(tmp_path / "dump.mlir"), "--recompute", "none") == 2
        assert "what --recompute chooses is settled in it" in capsys.readouterr().err


def test_the_precision_of_a_plan_is_settled_on_cpu_and_chosen_on_cuda(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dump.mlir").write_text(dump("plan"))
    asked = ("compile", str(tmp_path / "dump.mlir"), "--emit", "kernels", "--precision")
    assert exit_code(*asked, "fast") == 2
    assert "what --precision chooses is settled in it" in capsys.readouterr().err
    for precision, has_tensor_cores in (("exact", False), ("fast", True)):
        with tiles_for_all():
            assert exit_code(*asked, precision, "--target", "cuda") == 0
        assert ("mma(l" in capsys.readouterr().out) == has_tensor_cores


@pytest.mark.parametrize(
    ("level", "said"), [("plan", "what the bytes hold is not checked"), ("loops", "loops have no plan to check")]
)
def test_checks_that_are_asked_for_say_what_they_were(
    level: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dump.mlir").write_text(dump(level))
    assert exit_code("compile", str(tmp_path / "dump.mlir"), "--verify-each", "--verify-plan") == 0
    assert said in capsys.readouterr().err


SLANTED = "      scf.for %i1 = %c0 to %n_i1 step %c1 {\n        %acc = scf.for"


def test_a_loop_may_start_where_another_one_is(tmp_path: Path) -> None:
    """The upper triangle of the rows is computed; what is left of it stays what the arena held: zeros."""
    assert SLANTED in written("loops")
    net = load(edited("loops", SLANTED, SLANTED.replace("= %c0", "= %i0"), count=1), tmp_path)
    original().init(seed=1)
    np.testing.assert_allclose(net.forward(batch())["y"], expected(np.triu(np.maximum(hidden(), 0))), atol=1e-5)


def test_a_loop_that_ends_behind_its_window_with_another_one() -> None:
    wider = "      %more = arith.addi %n_i1, %i0 : index\n" + SLANTED.replace("to %n_i1", "to %more")
    text = edited("loops", SLANTED, wider, count=1)
    with pytest.raises(concatc.ConcatcError, match=r"reaches element 6 of axis 0 of %one.bias_, which has 6 elements"):
        EditedDump(text, "dump.mlir", Options())


@pytest.mark.parametrize("net", ["unet", "googlenet"])
def test_large_nets_pass_the_checks(net: str) -> None:
    """Convolutions with prologues in scratch, tiles of channels, padding, pooling: no index is suspected wrongly."""
    path = EXAMPLES / "nets" / f"{net}.cnet"
    lowering = compile_net(path.read_text(encoding="utf-8"), str(path)).phase("train")
    for level in STEPS:
        EditedDump(lowering.dump(level), f"{level}.mlir", Options())
