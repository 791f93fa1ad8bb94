"""A look at a net at large batches by another process: it finds what this one finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from concatc import compiler
from concatc.batch_sizes.data import data_of as scaled_data
from concatc.batch_sizes.sample_data import data_of
from concatc.batch_sizes.sampling import found_in, recipe_of
from concatc.batch_sizes.scaling import samples_of
from concatc.compiler import Compilation, Options, compile_net
from concatc.targets.cpu import workers
from concatc.targets.cpu.native import host
from concatc.targets.cpu.workers import Workers

ONE = """
import "part.cnet" as part
net f(n = 4) {
    input x: f32[n, 5]; input label: i32[n]
    logits = x |> part.twice(7) |> dropout(0.5) |> linear(3)
    loss softmax_loss(logits, label)
    output logits
}
"""
TWO = """
import "part.cnet" as part
net f(n = 4, m = 3) {
    input x: f32[n, 5]; input y: f32[m, 5]; input label: i32[n]
    logits = x |> part.twice(7) |> linear(3)
    loss softmax_loss(logits, label) weight n / (n + m)
    output logits
    output y |> linear(2) as other
}
"""
PART = "block twice(x, size) { return x |> linear(size) |> batch_norm |> relu |> linear(size) }"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CONCATC_WORKERS", "2")
    monkeypatch.setattr(compiler, "LEAST_OPS", 0)


def compiled(text: str, tmp_path: Path) -> Compilation:
    part = tmp_path / "part.cnet"
    part.write_text(PART)
    net = compile_net(text, str(tmp_path / "net.cnet"), Options(recompute="none", freeze=("logits",), keep=("logits",)))
    part.unlink()  # what was read is what is looked at
    return net


@pytest.mark.parametrize("text", [ONE, TWO])
def test_what_another_process_is_told_gives_the_same_samples(text: str, tmp_path: Path) -> None:
    net = compiled(text, tmp_path)
    for phase in net.phases:
        recipe = json.loads(json.dumps(recipe_of(net.text, net.files, net.options, phase, net.scaling.here)))
        found = found_in(compiler.answer(recipe))
        assert found is not None
        decisions, samples = samples_of(phase, net.scaling.looked_at)
        assert len(samples) == {ONE: 1, TWO: 3}[text]
        assert found[0] == decisions
        assert data_of(found[1]) == data_of(samples)
        for (dims, theirs), (at, mine) in zip(found[1], samples, strict=True):
            assert dims == at
            assert (theirs.graph, theirs.weights, theirs.plan, theirs.code, theirs.step) == (
                mine.graph,
                mine.weights,
                mine.plan,
                mine.code,
                mine.step,
            )


def test_a_worker_looks_at_the_net(cache: None, tmp_path: Path) -> None:
    net, alone = compiled(ONE, tmp_path), compiled(ONE, tmp_path)
    with Workers(host()) as beside:
        beside.begin()
        net._ask("train", beside.aside)
        found = net.scaled("train")
    assert found is not None, net.scaling.reasons
    assert "looked_at" not in net.scaling.__dict__, "this process looked, too"
    wanted = alone.scaled("train")
    assert wanted is not None
    assert scaled_data(found) == scaled_data(wanted)
    assert net.scaled_plan("train").at({"n": 9}).launches == alone.scaled_plan("train").at({"n": 9}).launches


@pytest.mark.parametrize("program", ["raise SystemExit(1)", None], ids=["that ends", "that is none"])
def test_a_net_is_looked_at_here_where_no_process_does(
    program: str | None, cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "worker_command", lambda host: program and [sys.executable, "-S", "-c", program])
    net = compiled(ONE, tmp_path)
    with Workers(host()) as beside:
        beside.begin()
        net._ask("train", beside.aside)
        assert net.scaled("train") is not None, net.scaling.reasons
    assert "looked_at" in net.scaling.__dict__
