"""A dump that is edited and run gives the edited result, at every level that can be run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.frontend.source import is_dump, is_dump_text
from concatc.ir.passes import PassManager
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.dumps import dump_text, load_dump
from concatc.passes.registry import parse_pipeline

NET = """
net small(n = 4) {
    input x: f32[n, 5]
    input label: i32[n]
    h = x |> linear(6) @one |> relu
    y = linear(concat(h, h, axis=1), 3) @two
    loss softmax_loss(y, label)
    output y
}
"""
LEVELS = ("graph", "split", "joint", "optimized", "kernels")
TARGETS = ("reference", "cpu")

DUMPED = "net f(n = 2) { input x: f32[n, 3]; output x + x as y; loss mean(x) }"


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(4, 5)).astype(np.float32), "label": np.int32([0, 2, 1, 2])}


@pytest.fixture(scope="module")
def original() -> concatc.CompiledModule:
    net = concatc.compile_source(NET, target="reference")
    net.init(seed=1)
    return net


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_dump_runs_as_the_net_does(level: str, target: str, original: concatc.CompiledModule, tmp_path: Path) -> None:
    path = tmp_path / "dump.mlir"
    path.write_text(original.ir(level))
    net = concatc.compile(path, target=target, verify_each=True)
    net.init(seed=1)
    losses = net.train_step(batch())
    assert losses == pytest.approx(original.train_step(batch()), rel=1e-6)
    for name, grad in original.grads.items():
        np.testing.assert_allclose(net.grads[name], grad, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(net.eval(x=batch()["x"])["y"], original.eval(x=batch()["x"])["y"], atol=1e-6)
    with pytest.raises(concatc.UsageError, match="must hold 0 to 2"):
        net.train_step(batch() | {"label": np.int32([0, 2, 1, 3])})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("level", LEVELS)
def test_an_edited_dump_runs_as_edited(
    level: str, target: str, original: concatc.CompiledModule, tmp_path: Path
) -> None:
    text = original.ir(level)
    edited = text.replace('"cnet.relu"', '"cnet.neg"')
    assert edited != text
    path = tmp_path / "dump.mlir"
    path.write_text(edited)
    net = concatc.compile(path, target=target)
    net.init(seed=1)
    x, p = batch()["x"], original.params
    h = -(x @ p["one.weight"].T + p["one.bias"])
    expected = np.concatenate([h, h], axis=1) @ p["two.weight"].T + p["two.bias"]
    np.testing.assert_allclose(net.forward(batch())["y"], expected, atol=1e-5)
    np.testing.assert_allclose(net.eval(x=x)["y"], expected, atol=1e-5)


def test_what_a_dump_cannot_do_is_explained(original: concatc.CompiledModule, tmp_path: Path) -> None:
    path = tmp_path / "dump.mlir"
    path.write_text(original.ir("kernels"))
    net = concatc.compile(path, target="reference")
    with pytest.raises(concatc.UsageError, match="a dump of the level kernels; it has no joint"):
        net.ir("joint")
    with pytest.raises(concatc.UsageError, match="was made for n=4"):
        net.eval(x=np.zeros((5, 5), np.float32))
    with pytest.raises(concatc.UsageError, match="is a dump: dims, keep are settled in it"):
        concatc.compile(path, dims={"n": 5}, keep=["h"])
    path.write_text(original.ir("graph").replace("cnet.relu", "cnet.rely"))
    with pytest.raises(concatc.ConcatcError, match="rely"):
        concatc.compile(path)


@pytest.mark.parametrize(
    ("level", "passes", "message"),
    [
        ("plan", "fuse", "fuse needs a net's function of tensors; @step is a plan or loops"),
        ("plan", "order-kernels", "order-kernels needs a net's function of tensors"),
        ("kernels", "fuse", "fuse needs operations outside of kernels; @small is fused already"),
        ("kernels", "choose-recompute", "choose-recompute needs operations outside of kernels"),
        ("graph", "split-loss-over-concat,derive-backward", "derive-backward needs the split level: %h has several"),
    ],
)
def test_a_pass_at_the_wrong_level_says_what_it_needs(
    level: str, passes: str, message: str, original: concatc.CompiledModule
) -> None:
    module = load_dump(original.ir(level), "dump.mlir")
    with pytest.raises(concatc.UsageError, match=re.escape(message)):
        PassManager(parse_pipeline(passes)).run(module)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{cnet.kind = "output"}', '{cnet.kind = "outptu"}', "unknown kind `outptu`"),
        ('{cnet.kind = "loss_weights"}', '{cnet.kind = "inpt"}', "unknown kind `inpt`"),
        ('{cnet.kind = "loss"}', '{cnet.kind = "loss", cnet.weight = "a"}', "`cnet.weight` must be a number"),
        ("!t6x5, !t6,", '!t6x5, !t6 {cnet.kind = "grad", cnet.name = "one.bais"},', "is of `one.bais`"),
        ("!t6x5, !t6,", '!t6x5, !t6 {cnet.kind = "grad", cnet.name = "two.bias"},', "two results of kind grad"),
        ("constant(0.0)", "gaussian(0.0, -1.0)", "the deviation is negative"),
        ("constant(0.0)", "gaussian(std=-1)", "needs numbers"),
        ("constant(0.0)", "garbage", "is no way to start a parameter"),
    ],
)
def test_a_broken_interface_is_an_error_of_the_dump(
    old: str, new: str, message: str, original: concatc.CompiledModule
) -> None:
    text = original.ir("joint")
    assert old in text
    with pytest.raises(concatc.ConcatcError, match=re.escape(message)) as caught:
        load_dump(text.replace(old, new, 1), "dump.mlir")
    assert str(caught.value).startswith("dump.mlir:")


def test_a_joint_dump_says_what_is_frozen(original: concatc.CompiledModule) -> None:
    """Every parameter has its gradient, but for those that are said to be frozen."""
    module = load_dump(original.ir("split"), "dump.mlir")
    PassManager([DeriveBackward(freeze=("one.bias",))]).run(module)
    text = dump_text(module)
    assert "cnet.lr = 0.0" in text
    load_dump(text, "dump.mlir")
    with pytest.raises(concatc.ConcatcError, match=r"returns no gradient of parameter `one\.bias`"):
        load_dump(text.replace(", cnet.lr = 0.0", ""), "dump.mlir")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cnet.dims = {n = 4}", "cnet.dims = {n = 5}", "%x of @small: axis 0 has 4 elements, but is the dim n = 5"),
        ("cnet.dims = {n = 4}", "cnet.dims = {m = 4}", "axis 0 is the dim `n`, which the net does not have"),
        ("cnet.dims = {n = 4}", "cnet.dims = 4", "`cnet.dims` of @small must give each dim a number or a text"),
        ('cnet.dims = ["n", ""]', 'cnet.dims = ["n"]', "%x of @small: `cnet.dims` must be 2 texts"),
        ('cnet.dims = ["n", ""]', 'cnet.dims = ["", "n"]', "%x of @small: axis 1 has 5 elements, but is the dim n = 4"),
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_dims_agree_with_shapes(level: str, old: str, new: str, message: str, original: concatc.CompiledModule) -> None:
    text = original.ir(level)
    assert old in text
    with pytest.raises(concatc.ConcatcError, match=re.escape(message)) as caught:
        load_dump(text.replace(old, new, 1), "dump.mlir")
    line = 1 + text[: text.index("func.func")].count("\n")
    assert str(caught.value).startswith(f"dump.mlir:{line}:")


@pytest.mark.parametrize(
    ("level", "old", "new", "message"),
    [
        ("graph", "cnet.init", "cnet.inti", "has the unknown attribute `cnet.inti`\nhelp: did you mean `cnet.init`?"),
        ("joint", "cnet.dims = {n", "cnet.dmis = {n", "unknown attribute `cnet.dmis` of @small\nhelp: did you mean"),
        ("graph", ", %label: !n4 {", ", %label: !n4 {cnet.extent = 3, ", "`cnet.extent`\nhelp: there are cnet.kind, "),
        (
            "graph",
            '"cnet.relu"(%h.bias)',
            '"cnet.relu"(%h.bias) {cnet.faze = 1}',
            "relu has the unknown attribute",
        ),
        ("plan", "cnet.init", "cnet.inti", "help: did you mean `cnet.init`?"),
    ],
)
def test_misspelled_attributes_are_no_attributes(
    level: str, old: str, new: str, message: str, original: concatc.CompiledModule, tmp_path: Path
) -> None:
    text = original.ir(level)
    assert old in text
    path = tmp_path / "dump.mlir"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(concatc.ConcatcError) as error:
        concatc.compile(path, target="cpu").ir("loops")
    assert message in str(error.value)


@pytest.mark.parametrize("level", ["graph", "kernels", "plan", "loops"])
def test_a_dump_is_known_by_how_it_begins(tmp_path: Path, level: str) -> None:
    text = concatc.compile_source(DUMPED, target="reference").ir(level)
    (tmp_path / "dump.txt").write_text(text)
    net = concatc.compile(tmp_path / "dump.txt")
    assert net.forward(x=np.ones((2, 3), np.float32))["y"].tolist() == [[2.0] * 3] * 2
    with pytest.raises(concatc.UsageError, match="is a dump: dims are settled in it"):
        concatc.compile_source(text, dims={"n": 3})


def test_nets_are_no_dumps(tmp_path: Path) -> None:
    for text in (DUMPED, f"# func.func\n{DUMPED}", ""):
        assert not is_dump_text(text, "net.txt")
    assert is_dump_text("", "net.mlir") and not is_dump(tmp_path / "gone") and not is_dump(tmp_path)
