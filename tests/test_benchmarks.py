"""The harness of `benchmarks/`: what it says of rounds, whom it measures, and that all systems compute one thing."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cpu import contraction_flops, keep
from benchmarks.nets import ROWS, Workload
from benchmarks.problem import Problem, compiled
from benchmarks.process import Failed, Process
from benchmarks.race import Entry, Field, final, seconds_of
from benchmarks.report import deviation, geometric_mean, ratios
from benchmarks.systems import SYSTEMS
from benchmarks.tables import tables

SMALL: dict[str, dict[str, int]] = {
    "thread": {"x": 4, "y": 3, "a_width": 9, "b_width": 7, "hidden": 8, "classes": 5},
    "tiny thread": {"x": 4, "y": 3, "features": 9, "hidden": 8, "classes": 5},
    "siamese": {"n": 5, "size": 17, "width": 2},
    "unet": {"n": 2, "width": 3, "levels": 3, "size": 8},
    "two_tower": {"n": 6, "users": 9, "items": 7, "dim": 4},
}
# The other nets are compared by `test_nets_torch.py` and `test_jax_graph.py`, in float64.
CHECKED = ("thread", "unet", "two_tower", "siamese")


def small(row: str) -> Workload:
    """The net of a row at small dims: channels and classes of its labels with them."""
    work = next(w for w in ROWS if w.name == row)
    classes = {"user": 9, "item": 7, "genre": 64, "mask": 2}
    labels = {name: classes.get(name, SMALL[row].get("classes", 0)) for name in work.labels}
    return replace(work, dims={**work.dims, **SMALL[row]}, labels=labels)


# -- numbers -----------------------------------------------------------------------------------------------------------
def test_ratios_are_taken_round_by_round() -> None:
    """A round in which both were slow says nothing new."""
    assert ratios([2.0, 20.0, 3.0], [1.0, 10.0, 2.0]) == {"median": 2.0, "least": 1.5, "greatest": 2.0}


def test_the_geometric_mean() -> None:
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


def test_deviation() -> None:
    wanted = {
        "loss": np.array(2.0),
        "norm/w": np.array(10.0),
        "norm/b": np.array(1e-9),
        "output/y": np.array([1.0, -4.0]),
    }
    assert deviation(wanted, wanted) == 0.0
    assert deviation({**wanted, "loss": np.array(2.002)}, wanted) == pytest.approx(1e-3)
    assert deviation({**wanted, "output/y": np.array([1.4, -4.0])}, wanted) == pytest.approx(0.1)
    # A gradient that is zero but for rounding counts by the largest one.
    assert deviation({**wanted, "norm/b": np.array(2e-9)}, wanted) == pytest.approx(1e-4)
    assert deviation({**wanted, "loss": np.array(np.nan)}, wanted) == np.inf
    assert deviation({"loss": np.array(2.0)}, wanted) == np.inf


def test_flops_of_a_convolution_and_its_gradients() -> None:
    """Two convolutions, of 5 channels and of 8: three products, but for the gradient of the image."""
    dims = {"layers": 2, "n": 2, "growth": 3, "channels": 5, "size": 4}
    net = compiled(Workload("growing", "examples/nets/growing.cnet", dims)).phase("train").joint.main
    pairs = 10 * 10  # of a window and a tap in the image: rows times columns
    assert contraction_flops(net) == 2 * 2 * 3 * pairs * (2 * 5 + 3 * 8)


# -- races -------------------------------------------------------------------------------------------------------------
class Fake:
    """A system that takes the same time each round, and may fail behind some."""

    def __init__(self, step_s: float, lasts: int = 1000) -> None:
        self.first: dict[str, Any] = {}
        self.step_s, self.lasts, self.is_closed = step_s, lasts, False

    def ask(self, told: Any) -> dict[str, Any]:
        self.lasts -= 1
        if self.lasts < 0:
            raise Failed("broken")
        return {"step_s": self.step_s, "processors": 1.0}

    def close(self) -> None:
        self.is_closed = True


def field_of(fakes: dict[str, Fake]) -> Field:
    def start(entry: Entry) -> tuple[Fake, dict[str, Any]]:
        if entry.name not in fakes:
            raise Failed("no module")
        return fakes[entry.name], {"phases": {"train": {}}, "version": "1"}

    return Field(Fake(1.0), ("train",), start)


def test_who_is_far_behind_is_ended_and_the_best_is_found() -> None:
    fakes = {"slow": Fake(3.0), "good": Fake(1.5), "best": Fake(1.4)}
    field = field_of(fakes)
    for name in ("slow", "good", "best", "absent"):
        field.enter(Entry(name))
    assert [name for name, fake in fakes.items() if fake.is_closed] == ["slow"]
    assert field.failed == {"absent": "no module"}
    result = final(field, {}, "train", rounds=3, seconds=0.0)
    assert result["best"] == "best"
    assert result["ratios"]["good"]["median"] == 1.5
    assert sorted(result["times_s"]) == sorted(result["processors"]) == ["best", "concatc", "good"]


def test_a_peer_that_breaks_in_its_rounds_is_named_and_the_rest_goes_on() -> None:
    field = field_of({"good": Fake(1.5), "best": Fake(1.4, lasts=3)})
    for name in ("good", "best"):
        field.enter(Entry(name))
    result = final(field, {}, "train", rounds=3, seconds=0.0)
    assert result["best"] == "good" and "best" in field.failed


def test_time_of_processors() -> None:
    """What ran half of the time while others ran."""
    rounds = {"a": [{"step_s": 2.0, "processors": 0.5}]}
    assert (seconds_of(rounds, "wall"), seconds_of(rounds, "processor")) == ({"a": [2.0]}, {"a": [1.0]})


def test_a_row_without_peers() -> None:
    field = field_of({})
    assert final(field, {}, "train", rounds=1, seconds=0.0)["best"] is None


def test_records_are_replaced_and_in_order() -> None:
    found: dict[str, Any] = {"rows": []}
    for row, threads, n in (("unet", 1, 1), ("thread", 2, 2), ("thread", 1, 3), ("unet", 1, 4)):
        keep(found, {"row": row, "threads": threads, "phase": "train", "n": n})
    assert [(r["row"], r["threads"], r["n"]) for r in found["rows"]] == [
        ("thread", 1, 3),
        ("thread", 2, 2),
        ("unet", 1, 4),
    ]


def test_tables() -> None:
    ratio = {"median": 1.5, "least": 1.4, "greatest": 1.6}
    ours = {"step_s": 0.01, "first_s": 3.0, "first_warm_s": 0.2, "growth_bytes": 1 << 20, "deviation": 1e-3}
    peer = {"step_s": 0.015, "ratio": ratio, "trial": 1.5, "deviation": 2e-5, "growth_bytes": 2 << 20, "first_s": 9.0}
    key = {"row": "unet", "threads": 1}
    row = {**key, "phase": "train", "concatc": ours, "ours": {}, "peers": {"jax": peer}, "best": "jax", "failed": {}}
    broken = {**key, "phase": "infer", "failed": {"concatc": "ended"}}
    text = tables({"rows": [row, broken]})
    assert "| unet | 10 | jax | 15 | 1.50 (1.40 to 1.60) |" in text
    assert "| unet | train | 1.0e-03 | jax | 2.0e-05 | 1.0e-04 | beyond |" in text
    assert "| unet | 1.0 | jax | 2.0 | 3.0 | 0.2 | - | 9.0 | - |" in text
    assert "| unet | 1 | concatc | ended |" in text


# -- processes ---------------------------------------------------------------------------------------------------------
def python(code: str, ready_s: float = 60.0) -> Process:
    return Process([sys.executable, "-c", code], {}, ready_s, 60.0)


def test_a_process_answers_line_by_line() -> None:
    code = "import sys\nprint('{}', flush=True)\nfor line in sys.stdin: print(line.strip(), flush=True)"
    with python(code) as process:
        assert process.first == {}
        assert process.ask({"phase": "train"}) == {"phase": "train"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads how a process is from /proc")
def test_a_process_stands_still_until_it_is_asked() -> None:
    code = """
import os, sys, threading
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
print(os.getpid(), flush=True)
for line in sys.stdin: print(line.strip(), flush=True)"""
    with python(code) as process:
        status = Path(f"/proc/{process.first}/status")
        while "State:\tT (stopped)" not in status.read_text():
            time.sleep(0.001)
        assert process.ask({"phase": "train"}) == {"phase": "train"}


def test_a_process_that_ends_says_why() -> None:
    with pytest.raises(Failed, match="ValueError: no such thing"):
        python("raise ValueError('no such thing')")


def test_a_process_that_takes_too_long_is_ended() -> None:
    with pytest.raises(Failed, match=r"no answer after 0\.2 s"):
        python("import time; time.sleep(60)", ready_s=0.2)


def test_a_worker_serves_rounds(tmp_path: Path) -> None:
    work = next(w for w in ROWS if w.name == "tiny thread")
    problem = Problem.of(work)
    problem.save(tmp_path / "data.npz")
    job = {"system": "concatc", "row": work.name, "phases": ["train", "infer"], "threads": 1, "growth": True}
    job |= {"data": str(tmp_path / "data.npz"), "results": str(tmp_path / "found")}
    with Process([sys.executable, "-m", "benchmarks.worker", json.dumps(job)], {}, 120.0, 60.0) as process:
        assert process.first["phases"]["train"]["growth_bytes"] >= 0
        for phase in job["phases"]:
            assert process.ask({"phase": phase, "seconds": 0.0})["step_s"] > 0
    with np.load(tmp_path / "found.train.npz") as values:
        assert {"loss", "norm/ha.weight"} <= set(values.files)
    with np.load(tmp_path / "found.infer.npz") as values:
        assert values["output/logits"].shape == (16, 32)


# -- what systems compute ----------------------------------------------------------------------------------------------
def test_a_problem_is_read_as_it_was_written(tmp_path: Path) -> None:
    problem = Problem.of(small("two_tower"))
    problem.save(tmp_path / "data.npz")
    other = Problem.load(problem.work, tmp_path / "data.npz")
    assert other.read == problem.read == ("user", "item", "genre", "dense")
    assert other.weights == problem.weights
    for mine, theirs in (
        (problem.params, other.params),
        (problem.states, other.states),
        (problem.inputs, other.inputs),
    ):
        assert list(mine) == list(theirs)
        for name, x in mine.items():
            assert x.dtype == theirs[name].dtype
            np.testing.assert_array_equal(x, theirs[name])


def values_of(system: str, problem: Problem, phase: str) -> dict[str, np.ndarray]:
    step = SYSTEMS[system].prepare(problem, phase, threads=1)()
    step.run()
    return step.values()


@pytest.mark.peers
@pytest.mark.parametrize("phase", ["train", "infer"])
@pytest.mark.parametrize("row", CHECKED)
def test_systems_compute_what_the_reference_does(row: str, phase: str) -> None:
    """In float32 at small dims, beside float64: 1e-4 is 20 times what any of them is off."""
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")
    pytest.importorskip("jax", reason="JAX is not installed (the extra `peers`)")
    problem = Problem.of(small(row))
    wanted = values_of("float64", problem, phase)
    for system in ("concatc", "torch", "torch-channels-last", "jax", "jax-nhwc"):
        assert deviation(values_of(system, problem, phase), wanted) < 1e-4, system


@pytest.mark.peers
@pytest.mark.parametrize("row", CHECKED)
@pytest.mark.parametrize("system", ["onnxruntime", "openvino"])
def test_engines_of_inference(system: str, row: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")
    pytest.importorskip(system, reason="not installed (the extra `engines`)")
    problem = Problem.of(small(row))
    assert deviation(values_of(system, problem, "infer"), values_of("float64", problem, "infer")) < 1e-4


@pytest.mark.peers
@pytest.mark.parametrize("phase", ["train", "infer"])
@pytest.mark.parametrize("row", ["thread", "tiny thread"])
def test_pytensor(row: str, phase: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")
    pytest.importorskip("pytensor", reason="not installed")
    problem = Problem.of(small(row))
    assert deviation(values_of("pytensor", problem, phase), values_of("float64", problem, phase)) < 1e-4
