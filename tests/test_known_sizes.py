"""Batch sizes at which a net is run without its graph: which these are, and what follows there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.artifact import write_module
from concatc.batch_sizes.known_sizes import KnownSizes
from concatc.compiler import compile_net
from concatc.passes import verify
from concatc.runtime import bounds
from tests.example_nets import NETS

ROOT = Path(__file__).resolve().parent.parent
LARGE = 67108859
ROWS = "net f(n = 9) {{ input x: f32[n, 6]; {} }}"
TABLE = "net f(n = 4) {{ input ids: i32[n, 3]; layer table = embedding(5, dim=2)\n {} }}"


def known(text: str) -> KnownSizes | None:
    compilation = compile_net(text, "f.cnet")
    scaled = compilation.scaled("train")
    assert scaled is not None, compilation.scaling.reasons
    return scaled.known


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ("output linear(x, 3) as y", 1),
        ("output batch_norm(linear(x, 3)) as y", 2),
        ("a, b = slice(x, axis=0, sizes=[3, n - 3]); output tanh(b) as y", 4),  # 3 would do; powers of two are tried
    ],
)
def test_small_sizes_that_ops_take_are_known(body: str, least: int) -> None:
    assert known(ROWS.format(body)) == KnownSizes((least,), (LARGE,))


def test_what_is_not_known_is_asked_of_the_graph() -> None:
    text = ROWS.format("a, b = slice(x, axis=0, sizes=[3, n - 3]); output tanh(b) as y")
    net = concatc.compile_source(text)
    assert net.eval(x=np.ones((3, 6), np.float32))["y"].shape == (0, 6)
    with pytest.raises(concatc.UsageError, match="the net does not compile with that"):
        net.eval(x=np.ones((2, 6), np.float32))


def test_indices_in_some_columns_are_those_of_each_row() -> None:
    text = TABLE.format("a, b = slice(ids, axis=1, sizes=[1, 2])\n output table(b) as y")
    assert known(text) == KnownSizes((1,), (LARGE,))
    net = concatc.compile_source(text)
    for n in (1, 2, 4, 7):
        ids = np.full((n, 3), [99, 4, 0], np.int32)
        assert net.eval(ids=ids)["y"].shape == (n, 2, 2)
        ids[n - 1, 2] = 5
        with pytest.raises(concatc.UsageError, match=rf"input `ids` holds 5 at \[{n - 1}, 2\], but must hold 0 to 4"):
            net.eval(ids=ids)


def test_indices_in_some_rows_are_asked_of_the_graph() -> None:
    text = TABLE.format("a, b = slice(ids, axis=0, sizes=[n - 1, 1])\n output table(a) as y")
    assert known(text) is None
    net = concatc.compile_source(text)
    for n in (4, 7):
        ids = np.full((n, 3), 4, np.int32)
        ids[n - 1] = 99
        assert net.eval(ids=ids)["y"].shape == (n - 1, 3, 2)
        ids[n - 2, 2] = 5
        with pytest.raises(concatc.UsageError, match=rf"input `ids` holds 5 at \[{n - 2}, 2\]"):
            net.eval(ids=ids)


def test_extents_that_shrink_with_another_dim_are_compiled_for_each() -> None:
    """Equal sizes take them all, so they must not be what is tried alone."""
    body = "g = concat(a, b, a, b, axis=0); p, q = slice(g, axis=0, sizes=[2 * n - m, 3 * m]); output tanh(p) as y"
    compilation = compile_net(f"net f(n = 6, m = 6) {{ input a: f32[n, 2]; input b: f32[m, 2]; {body} }}", "f.cnet")
    assert compilation.scaled("infer") is None
    assert "none of them negative" in compilation.scaling.reasons["infer"]


def test_known_sizes_look_at_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    net = concatc.compile_source(ROWS.format("output linear(x, 3) as y"))
    net.eval(x=np.ones((4, 6), np.float32))
    monkeypatch.setattr(verify, "verify", None)
    monkeypatch.setattr(bounds, "index_checks", None)
    assert net.eval(x=np.ones((9, 6), np.float32))["y"].shape == (9, 3)


# What a fresh process does: it opens DenseNet-40, runs it, and then at another batch size, as often as it is asked.
SCRIPT = """
import sys, time, numpy as np, concatc
net = {opened}
def run(net, n):
    image, label = np.zeros((n, 3, 32, 32), np.float32), np.zeros(n, np.int32)
    return net.train_step(image=image, label=label), net.eval(image=image)
run(net, 2)
start = time.thread_time()
other = net.with_dims(n=7)
taken = time.thread_time() - start
instances = [i for i in net._plans.instances.values() if i.source.dims == other.dims]
assert sorted((i.phase, len(i.built)) for i in instances) == [("infer", 1), ("train", 1)]
assert run(other, 7)[1]["logits"].shape == (7, 10)
print(taken, *sys.modules)
"""
# A front end, a parser, ops, passes, generators of code.
COMPILING = (
    "lark",
    "numba",
    "concatc.compiler",
    "concatc.frontend.cnet",
    "concatc.ir.parser",
    "concatc.ops.conv",
    "concatc.passes",
    "concatc.targets.cpu.target",
    "concatc.targets.cpu.workers",
)


@pytest.mark.parametrize("how", ["cached", "written"])
def test_another_batch_size_of_densenet40_is_there_at_once_in_a_fresh_process(how: str, tmp_path: Path) -> None:
    """The first other size, training and inference, of a net that was compiled elsewhere: less than 50 ms, as in
    `test_batch_sizes`, of which a third is reading what only the first one reads; the least of three processes.
    """
    source, written = NETS / "densenet40.cnet", tmp_path / "densenet40"
    environment = {**os.environ, "CONCATC_CACHE": "nets"}
    opened = f"concatc.compile({str(source)!r}, dims={{'n': 2}})"
    if how == "written":
        opened = f"concatc.load({str(written)!r})"
        write_module(compile_net(source.read_text(), str(source), concatc.compiler.Options(dims={"n": 2})), written)
    command = [sys.executable, "-c", SCRIPT.format(opened=opened)]
    taken = []
    for run in range(4):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        if run == 0:
            continue  # a net that the cache does not hold was compiled
        seconds, *imported = done.stdout.split()
        taken.append(float(seconds))
        assert not [name for name in imported if name in COMPILING]
    assert min(taken) < 0.05, taken
