"""``--blob``: what makes and reads one blob and its gradient."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.compiler import compile_net
from concatc.diagnostics import UsageError
from concatc.inspect.blob_path import path_text
from concatc.ir.levels import BLOB_LEVELS
from concatc.ir.parser import parse_module
from concatc.ir.printer import PLAIN
from tests.test_docs import ROOT

THREAD = ROOT / "examples" / "thread.cnet"

TWICE = """
module @m {
  func.func @f(%x: tensor<3xf32>, %g: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
    %h = "cnet.relu"(%x) : (tensor<3xf32>) -> tensor<3xf32>
    %h.use0, %h.use1, %h.use2 = "cnet.split"(%h)
        : (tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>)
    %hh = "cnet.exp"(%h.use0) : (tensor<3xf32>) -> tensor<3xf32>
    %k = "cnet.neg"(%h.use1) : (tensor<3xf32>) -> tensor<3xf32>
    %m = "cnet.mul"(%hh, %k) : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    %p = "cnet.square"(%g) {transposes = "mul %m"} : (tensor<3xf32>) -> tensor<3xf32>
    %q = "cnet.neg"(%p) {transposes = "neg %k"} : (tensor<3xf32>) -> tensor<3xf32>
    %r = "cnet.exp"(%q) {transposes = "exp %hh"} : (tensor<3xf32>) -> tensor<3xf32>
    %h.grad = "cnet.accumulate"(%q, %r) {transposes = "split %h"} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    %x.grad = "cnet.relu_grad"(%h, %h.grad) {transposes = "relu %h"} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    func.return %h.use2, %x.grad : tensor<3xf32>, tensor<3xf32>
  }
}
"""


def makes(text: str) -> list[str]:
    """What each line makes, or how many operations it stands for."""
    return re.findall(r"^(?:%([\w.]+).* = |// \.\. (\d+) operation)", text, re.MULTILINE)


def short(text: str) -> list[str]:
    return [name or f"({count})" for name, count in makes(text)]


def test_splits_and_accumulates_belong_to_the_path() -> None:
    module = parse_module(TWICE)
    text = path_text(module, "h", PLAIN)
    # What is added to the gradient is made by %q and %r, whatever they are called.
    assert short(text) == ["h", "h.use0", "hh", "k", "(2)", "q", "r", "h.grad", "x.grad", "(1)"]
    assert short(path_text(module, "m", PLAIN)) == ["(4)", "m", "(6)"]
    assert short(path_text(module, "g", PLAIN)) == ["(5)", "p", "(5)"]


@pytest.mark.parametrize("level", BLOB_LEVELS)
def test_each_level_shows_the_join(level: str) -> None:
    lowering = compile_net(THREAD.read_text(encoding="utf-8"), str(THREAD)).phase("train")
    text = lowering.dump(level, blob="h")
    left_out = sum(int(count) for _, count in makes(text) if count)
    assert short(text)[1] == "h" and left_out > 0
    assert 0 < text.count("cnet.") < lowering.dump(level).count("cnet.")
    assert max(map(len, text.splitlines())) < 110


def test_the_joint_path_of_the_thread() -> None:
    net = concatc.compile(THREAD)
    found = short(net.ir("joint", blob="h"))
    assert found == ["(6)", "h", "logits.linear", "(5)", "(5)", "logits.weight.grad", "h.grad", "ha.grad", "(9)"]
    assert "// ---- backward ----\n" in net.ir("joint", blob="h")
    assert "backward" not in net.ir("split", blob="h")


def test_a_kernel_that_computes_a_blob_inside_is_on_its_path() -> None:
    lowering = compile_net(THREAD.read_text(encoding="utf-8"), str(THREAD)).phase("train")
    text = lowering.dump("kernels", blob="ha.linear")
    assert short(text)[0] == "ha" and "%ha.linear_ = " in text


def test_unknown_blobs() -> None:
    net = concatc.compile(THREAD)
    with pytest.raises(UsageError) as caught:
        net.ir("joint", blob="logit")
    assert str(caught.value) == "error: this level of the net has no blob `logit`\nhelp: did you mean `logits`?"
    with pytest.raises(UsageError, match="the loops hold no blobs"):
        net.ir("loops", blob="h")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["compile", str(THREAD), "--emit", "ir", "--blob", "hb"]) == 0
    assert '%hb = "cnet.relu"(%hb.bias.2)' in capsys.readouterr().out
    assert exit_code(["compile", str(THREAD), "--blob", "hb"]) == 2
    assert capsys.readouterr().err == "error: --blob goes with --emit ir and --dump-ir\n"
    assert exit_code(["compile", str(THREAD), "--emit", "ir", "--blob", "hc"]) == 2
    assert "has no blob `hc`" in capsys.readouterr().err
    arguments = ["compile", str(THREAD), "--target", "reference", "--dump-ir", str(tmp_path), "--blob", "ha.linear"]
    assert exit_code(arguments) == 0
    names = sorted(path.stem for path in tmp_path.glob("*.mlir"))
    assert names == [f"{number:02d}-{level}" for number, level in enumerate(BLOB_LEVELS)]
    assert short((tmp_path / "02-joint.mlir").read_text(encoding="utf-8"))[0] == "ha.linear"
    assert (tmp_path / "inference" / "00-graph.mlir").exists()


def test_levels_without_the_blob_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", str(THREAD), "--target", "reference", "--dump-ir", str(tmp_path), "--blob"]
    assert exit_code([*arguments, "softmax_loss"]) == 0
    assert (tmp_path / "02-joint.mlir").exists() and not (tmp_path / "inference").exists()
    assert exit_code([*arguments, "softmax"]) == 2
    assert "help: did you mean `softmax_loss`?" in capsys.readouterr().err
