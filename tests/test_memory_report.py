"""The memory report: what is moved, who lives in the arena and when, for people and for tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.compiler import Compilation, Options
from concatc.inspect.memory import plan_report
from concatc.inspect.memory_text import data_of, overview, picture
from concatc.ir.comments import bytes_text
from concatc.ir.types import NUMPY_DTYPES

EXAMPLES = Path(__file__).parent.parent / "examples"
COPIES = """net two(n = 2) {
    input x: f32[n, 3]
    param w: f32[4, 2] = constant(1)
    a = exp(x)
    c = concat(a, x, axis=1)
    d = concat(a, square(x), axis=0)
    output c
    output d
}
"""


def report_of(text: str, phase: str = "train"):  # type: ignore[no-untyped-def]
    return plan_report(Compilation(text, "net.cnet", Options()).phase(phase).plan)  # type: ignore[arg-type]


def example(name: str, **dims: int):  # type: ignore[no-untyped-def]
    path = EXAMPLES / name
    return plan_report(Compilation(path.read_text(), str(path), Options(dims=dims)).phase("train").plan)


def test_columns_are_the_sums_of_their_remarks() -> None:
    report = report_of(COPIES, "infer")
    assert report.remarks
    for kind, total in report.moved_bytes.items():
        staged = report.input_bytes if kind == "input staging" else 0
        assert total == staged + sum(r.bytes for r in report.remarks if r.kind == kind)
    assert report.moved_bytes["copy"] + report.moved_bytes["second store"] >= 24  # x in c, and a in both


def test_inputs_are_staged() -> None:
    report = example("thread.cnet", x=2, y=1)
    assert report.moved_bytes["copy"] == report.moved_bytes["second store"] == 0
    assert report.moved_bytes["input staging"] == 4 * (2 * 64 + 1 * 64 + 3)


@pytest.mark.parametrize("name", ["thread.cnet", "nets/densenet40.cnet", "nets/inception.cnet", "nets/unet.cnet"])
def test_blocks_never_meet(name: str) -> None:
    """Two blocks that are alive at one launch do not overlap, and all of them lie in the arena."""
    report = example(name) if name == "thread.cnet" else example(name, n=2)
    blocks = report.blocks()
    assert max(b.end_bytes for b in blocks) <= report.arena_bytes
    assert {s.name for b in blocks for s in b.members} == {s.name for s in report.stored}
    for k, a in enumerate(blocks):
        for b in blocks[k + 1 :]:
            apart = a.end_bytes <= b.offset_bytes or b.end_bytes <= a.offset_bytes
            assert apart or a.last < b.first or b.last < a.first, (a.name, b.name)


LARGE = {
    "densenet40": {"n": 16},
    "densenet_bc100": {"n": 8},
    "googlenet": {"n": 4},
    "growing": {"layers": 32},
    "inception": {"n": 16},
    "residual": {"n": 32},
    "unet": {"n": 8},
}


@pytest.mark.parametrize("name", LARGE)
def test_the_arena_is_near_the_largest_live_set(name: str) -> None:
    """Within 5 %, scratch left out, which is not part of the live set."""
    report = example(f"nets/{name}.cnet", **LARGE[name])
    assert report.arena_bytes >= 1 << 20
    assert report.live_set_bytes <= report.arena_bytes
    assert report.arena_bytes - report.scratch_bytes <= 1.05 * report.live_set_bytes


def test_feature_maps_grow_with_depth() -> None:
    """Twice the layers of a chain of concats take at most 2.1 times the bytes, parameters and gradients left out."""
    need = []
    for layers in (32, 64):
        bases = example("nets/growing.cnet", layers=layers).bases
        need.append(sum(n for name, n in bases.items() if name not in ("params", "grads")))
    assert need[1] <= 2.1 * need[0]


def test_the_picture_has_a_row_a_block() -> None:
    report = example("thread.cnet")
    lines = picture(report)
    assert len(lines) == 2 + len(report.blocks())
    peak = lines[-1].index("^")
    for line, block in zip(lines[1:-1], report.blocks(), strict=True):
        assert line.count("#") == block.last - block.first + 1
        assert (line[peak] == "#") == (block.first <= report.peak_launch <= block.last)


def test_the_need_is_all_bases() -> None:
    report = example("thread.cnet")
    assert report.need_bytes == sum(report.bases.values())
    assert overview("training", report)[0].startswith("training: 2")


def test_nothing_in_the_arena() -> None:
    report = report_of("net f() { input x: f32[2]; y = x; output y }", "infer")
    assert picture(report) == [] or report.stored
    assert data_of(report)["arena"]["bytes"] == report.arena_bytes


def test_remarks_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.cnet"
    net.write_text(COPIES)
    assert exit_code(["compile", str(net), "--remarks", "--target", "reference"]) == 0
    said = capsys.readouterr().out
    assert "moved in a step: copies" in said
    assert f"{net}:" in said and "(copies)" in said
    assert exit_code(["compile", str(net), "--json", "--target", "reference"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    column = sum(r["bytes"] for r in memory["infer"]["remarks"] if r["column"] == "copies")
    assert memory["infer"]["moved_bytes"]["copies"] == column > 0


def test_the_plan_begins_with_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["compile", str(EXAMPLES / "thread.cnet"), "--emit", "plan"]) == 0
    assert capsys.readouterr().out.startswith("// a step needs: ")


def test_copied_parts_of_concats_have_names() -> None:
    text = """net copied(n = 4) {
        input x: f32[n, 8]
        param w: f32[n, 4]
        a = relu(linear(x, 8))
        b = linear(concat(a, w, axis=1), 300)
        c = linear(concat(x, w, a, axis=1), 400)
        loss mean(square(b))
        loss mean(square(c))
    }"""
    report = plan_report(Compilation(text, "copied.cnet", Options()).phase("train").plan)
    names = [s.name for s in report.stored]
    assert sum(name == "w" for name in names) == 2
    assert not any(name.startswith("arena+") for name in names)


def test_what_optimizers_hold_is_counted() -> None:
    """Adam keeps two numbers for each parameter; the report and the profile say so."""
    net = concatc.compile(EXAMPLES / "thread.cnet")
    assert net.memory.optimizer_bytes == 0 and "optimizers:" not in str(net.memory)
    inputs = net.signature.inputs.items()
    data = {name: np.zeros(spec.type.shape, NUMPY_DTYPES[spec.type.dtype]) for name, spec in inputs}
    optimizer = concatc.Adam(lr=0.1)
    net.train_step(data, optimizer=optimizer)
    params_bytes = net.memory.phases["train"].bases["params"]
    assert 2 * params_bytes <= net.memory.optimizer_bytes <= 2 * params_bytes + 1024
    assert f"  optimizers: {bytes_text(net.memory.optimizer_bytes)} besides" in str(net.memory)
    assert net.memory.data()["train"]["optimizer_bytes"] == net.memory.optimizer_bytes
    alone, with_it = (net.profile(rounds=1, optimizer=o).memory_bytes for o in (None, optimizer))
    assert with_it - alone == net.memory.optimizer_bytes
