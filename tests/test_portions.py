"""Inference in portions of the rows: which nets, how many rows, and that nobody sees it in the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.artifact import write_module
from concatc.batch_sizes import in_portions
from concatc.batch_sizes.row_by_row import is_row_by_row
from concatc.compiler import Options, compile_net
from tests.example_nets import NETS
from tests.nets.batch_nets import batch_net

HEAD = "net small(n = 6) {\n    input x: f32[n, 3, 8, 8]\n    param p: f32[1, 3, 8, 8]\n"
ROWS = {
    "y = x |> conv(4, kernel=3, pad=1) |> relu |> flatten |> linear(5)": True,
    "y = x + p": True,
    "y = softmax(x |> flatten)": True,
    "y = x - mean(x, axes=[0], keepdims=true)": False,
    "y = concat(x, x, axis=0)": False,
    "y = p * 2": False,
    "y = transpose(x, perm=[1, 0, 2, 3])": False,
}


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any arena is larger than what caches hold."""
    monkeypatch.setattr(in_portions, "NEAR_BYTES", 1)
    monkeypatch.setattr(in_portions, "OF_PARAMS", 1 << 40)


@pytest.mark.parametrize("line", ROWS)
def test_nets_of_which_rows_are_made_of_the_same_rows(line: str) -> None:
    net = compile_net(f"{HEAD}    {line}\n    output y\n}}\n", "small.cnet", Options()).phase("infer").graph.main
    assert is_row_by_row(net, "n") is ROWS[line]


def portions_of(net: concatc.CompiledModule, threads: int) -> float:
    """How often the launches of inference run in a call."""
    executable: Any = net._calls.current["infer"].build(None)
    return len(executable._table(threads).kernels) / len(executable.table.kernels)


def inputs_of(net: concatc.CompiledModule, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    inputs = {name: spec.type for name, spec in net.signature.inputs.items() if spec.type.dtype == "f32"}
    return {name: rng.normal(size=(n, *type.shape[1:])).astype("f4") for name, type in inputs.items()}


SMALL = """
net small(n = 7) {
    input x: f32[n, 3, 12, 12]
    h = x |> conv(8, kernel=3, pad=1) |> batch_norm |> relu
    y = h + conv(h, 8, kernel=3, pad=1)
    z = concat(y, max_pool(h, 3, stride=1, pad=1), axis=1)
    logits = z |> global_avg_pool |> flatten |> linear(5)
    output logits
    output z
}
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_have_the_bits_of_all_rows_at_once(
    threads: int, monkeypatch: pytest.MonkeyPatch, small_portions: None
) -> None:
    """Portions of equal size and a smaller last one, of one row for each thread; then other numbers of rows."""
    expected: dict[int, dict[str, bytes]] = {}
    for near in (1 << 40, 1):
        monkeypatch.setattr(in_portions, "NEAR_BYTES", near)
        net = concatc.compile_source(SMALL, threads=threads)
        net.init(seed=0)
        for n in (7, 7, 4, 1):
            found = {key: value.tobytes() for key, value in net.eval(inputs_of(net, n)).items()}
            assert expected.setdefault(n, found) == found
            assert portions_of(net, threads) == (1 if near > 1 else -(-n // threads))


def test_an_example_in_portions(monkeypatch: pytest.MonkeyPatch, small_portions: None) -> None:
    dims = {"size": 48, "width": 16, "classes": 10, "n": 5}
    found = []
    for near in (1 << 40, 1):
        monkeypatch.setattr(in_portions, "NEAR_BYTES", near)
        net = concatc.compile(NETS / "squeezenet.cnet", dims=dims, threads=1)
        found.append(net.eval(inputs_of(net, 5))["logits"].tobytes())
        assert portions_of(net, 1) == (1 if near > 1 else 5)
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", [7005, 7333, 7285])
@pytest.mark.filterwarnings("ignore::concatc.ConcatcWarning")
def test_random_nets_in_portions(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nets that do with rows whatever an op may do, some that are found to leave them apart."""
    found = []
    for near in (1 << 40, -1):
        monkeypatch.setattr(in_portions, "_near", lambda table, threads, near=near: near)
        net = concatc.compile_source(batch_net(seed), dims={"n": 5}, threads=2)
        found.append({name: value.tobytes() for name, value in net.eval(inputs_of(net, 5)).items()})
        assert portions_of(net, 2) == (1 if near > 0 else 3)
    assert found[0] == found[1]


def test_what_fits_near_is_one_portion_and_more_is_cut_evenly() -> None:
    scaled = compile_net(SMALL, "small.cnet", Options(dims={"n": 10})).scaled("infer")
    assert scaled is not None and scaled.by_rows
    arena = [scaled.layout.at([n]).size_bytes["arena"] for n in (1, 2, 4, 8)]
    assert [in_portions._most(scaled, 10, 1, near) for near in (0, *arena)] == [1, 1, 2, 4, 5]
    assert [in_portions._most(scaled, 10, 2, near) for near in (0, *arena)] == [2, 2, 2, 4, 6]
    assert in_portions._most(scaled, 10, 16, 0) >= 10


def test_training_and_nets_of_dependent_rows_run_at_once(small_portions: None) -> None:
    lines = "y = x + p - mean(relu(x), axes=[0], keepdims=true)", "z = y |> conv(4, kernel=1) |> relu", "output z"
    text = HEAD + "".join(f"    {line}\n" for line in lines) + "}\n"
    net = concatc.compile_source(text)
    net.eval(inputs_of(net, 6))
    assert portions_of(net, 1) == 1
    trained: Any = concatc.compile_source(SMALL)._source.executable("train", None)
    assert trained._table(1) is trained.table


def test_a_profile_counts_the_portions_of_a_launch_as_one(small_portions: None) -> None:
    net = concatc.compile_source(SMALL, threads=1)
    profile = net.profile(phase="infer", rounds=2)
    assert portions_of(net, 1) == 7
    assert profile.stamps.shape == (2, len(net._source.phase("infer").plan.launches) + 1)
    assert (np.diff(profile.stamps, axis=1) >= 0).all()


def test_written_and_cached_nets_run_in_portions(tmp_path: Path, small_portions: None) -> None:
    nets = [concatc.compile_source(SMALL, threads=2) for _ in range(2)]  # the second one off the cache
    write_module(compile_net(SMALL, "small.cnet"), tmp_path / "written")
    nets.append(concatc.load(tmp_path / "written", threads=2))
    results = []
    for net in nets:
        net.init(seed=3)
        results.append({name: value.tobytes() for name, value in net.eval(inputs_of(net, 7)).items()})
        assert portions_of(net, 2) == 4
    assert results[1:] == results[:1] * 2
