"""Profiles: what `net.profile` measures, its table and its trace, and the command `concatc bench`."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.diagnostics import Loc
from concatc.inspect.profile import Launched, Profile
from concatc.inspect.profile_text import HEADER
from concatc.inspect.work import Work
from concatc.targets import Bandwidth, Peaks
from concatc.targets.cpu import peaks as peaks_module
from concatc.targets.cpu.native import Host, host, object_code
from concatc.targets.cpu.peaks import machine_peaks, peaks_ir

NET = """net small(n = 4, size = 8) {
    input x: f32[n, 5]
    input label: i32[n]
    state seen: f32[1] = constant(0)
    update seen = seen + 1
    h = x |> linear(size) |> relu
    y = linear(h, 3)
    loss softmax_loss(y, label)
    output y
}
"""
PEAKS = Peaks(
    "a machine", {"f32": 100.0, "f64": 50.0}, (Bandwidth(1 << 10, 50.0, 40.0), Bandwidth(1 << 20, 20.0, 10.0))
)


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait for measurements."""
    monkeypatch.setattr("concatc.targets.cpu.target.machine_peaks", lambda again=False: PEAKS)
    monkeypatch.setattr("concatc.targets.cpu.peaks.machine_peaks", lambda again=False: PEAKS)


@pytest.fixture(scope="module")
def net() -> concatc.CompiledModule:
    return concatc.compile_source(NET, filename="small.cnet")


def made_profile() -> Profile:
    """A profile of three kernels and numbers that can be followed."""
    conv = Launched("k0_conv", "forward", ("conv",), Loc("a.cnet", 3, 1), Work(100_000, 0, 512, 256, "f32"))
    relu = Launched("k1_relu", "forward", ("relu",), Loc("a.cnet", 4, 1), Work(0, 64, 600_000, 400_000, "f32"))
    again = replace(relu, loc=Loc("a.cnet", 9, 1))
    unknown = Launched("k2_sum", "backward")
    stamps = [[0, 2000, 102_000, 202_000, 203_000], [300_000, 302_000, 402_000, 502_000, 503_000]]
    calls = np.array([200_000, 210_000, 205_000])
    launched = (conv, relu, again, unknown)
    return Profile("a", {"n": 4}, "train", launched, np.array(stamps), calls, PEAKS, 3 << 20, 1 << 20, 10)


def test_what_threads_share_is_told() -> None:
    """The second and third launch, of 100 us each, are shared whole and by half; all launches take 203 us."""
    alone = made_profile()
    assert alone.data()["threads"] == 1 and alone.shared_part == 0
    assert "ms on one thread, median" in alone.text() and "threads share" not in alone.text()
    together = replace(alone, threads=2, shared=(0.0, 1.0, 0.5, 0.0))
    assert together.shared_part == pytest.approx(150 / 203)
    assert "ms on 2 threads, median" in together.text() and "; 74 % of that is what threads share" in together.text()


def test_rows_are_kernels_by_time() -> None:
    profile = made_profile()
    relu, conv, unknown = profile.rows
    assert [(r.kernel, r.rates.launches, r.rates.elapsed_ns) for r in profile.rows] == [
        ("k1_relu", 2, 200_000),
        ("k0_conv", 1, 2000),
        ("k2_sum", 1, 1000),
    ]
    assert conv.rates.gflops == 50.0 and conv.rates.bound == "compute"
    assert conv.rates.roofline == pytest.approx(100_000 / 100.0 / 2000)
    # 1 MB lies in the larger memory: 200 KB are read alone, the rest is read and written.
    least_ns = 200_000 / 20.0 + 800_000 / 10.0
    assert relu.rates.bound == "memory" and relu.rates.roofline == pytest.approx(least_ns / 100_000)
    assert relu.rates.gigabytes == 10.0 and relu.rates.gflops == 0.0
    assert unknown.rates.bound is None and unknown.rates.roofline is None
    assert profile.total.elapsed_ns == profile.step_ns == 203_000
    assert list(profile.phases) == ["forward", "backward"]
    assert sum(rates.elapsed_ns for rates in profile.phases.values()) == profile.total.elapsed_ns


def test_least_times_of_memory() -> None:
    assert PEAKS.memory_ns(0, 0) == 0.0
    assert PEAKS.memory_ns(1000, 0) == 20.0
    assert PEAKS.memory_ns(500, 500) == 25.0
    assert PEAKS.memory_ns(0, 1000) == 25.0
    assert PEAKS.memory_ns(1 << 30, 0) == (1 << 30) / 20.0  # larger than what was measured


def test_the_table(pinned_file: Any) -> None:
    profile = made_profile()
    here = Path(__file__).parent / "data"
    pinned_file(here / "profile.txt", profile.text() + "\n")
    pinned_file(here / "profile_most.txt", profile.text(most=1) + "\n")
    assert str(profile) == profile.text()


def test_busy_machines_are_told() -> None:
    profile = made_profile()
    assert "note: " not in profile.text()
    assert "note: calls differ by 3.0 times" in replace(profile, calls_ns=np.array([100, 300, 300])).text()


def events(trace: dict[str, Any], track: int) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] == track]


def test_the_trace_holds_each_launch_of_each_round() -> None:
    profile = made_profile()
    trace = json.loads(json.dumps(profile.trace()))
    kernels = events(trace, 2)
    assert [e["name"] for e in kernels] == [x.kernel for x in profile.launched] * 2
    assert [(e["ts"], e["dur"]) for e in kernels[:2]] == [(0.0, 2.0), (2.0, 100.0)]
    assert kernels[0]["args"] == {
        "ops": "conv",
        "line": "a.cnet:3",
        "flops": 100_000,
        "read_bytes": 512,
        "written_bytes": 256,
    }
    assert [e["name"] for e in events(trace, 1)] == ["step 0", "forward", "backward", "step 1", "forward", "backward"]
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert names == {1: "steps", 2: "kernels"}


def test_a_net_is_profiled(net: concatc.CompiledModule) -> None:
    profile = net.profile(rounds=3, optimizer=concatc.SGD(lr=0.1, momentum=0.9))
    assert profile.stamps.shape == (3, len(profile.launched) + 1) and len(profile.calls_ns) == 3
    assert (np.diff(profile.stamps, axis=1) >= 0).all()
    assert list(profile.phases) == ["forward", "backward", "update"]
    assert all(launch.work is not None and launch.ops for launch in profile.launched)
    assert profile.total.flops == 2 * 4 * (5 * 8 * 2 + 8 * 3 * 3)
    assert profile.memory_bytes >= profile.arena_bytes > 0
    assert sum(row.rates.launches for row in profile.rows) == len(profile.launched)


def test_time_of_the_processor(net: concatc.CompiledModule) -> None:
    profile = net.profile(rounds=2, cpu_time=True)
    assert (np.diff(profile.stamps, axis=1) >= 0).all() and profile.data()["cpu_time"]
    assert profile.stamps[0, 0] < time.process_time_ns() < time.monotonic_ns()  # what a thread was given is little
    assert "times are those of the processor in this thread" in profile.text()
    assert "processor" not in net.profile(rounds=1).text()


def test_rows_add_up_to_the_step(net: concatc.CompiledModule) -> None:
    """Nothing lies between two launches: the rows of one round are the step."""
    profile = net.profile(rounds=1)
    assert sum(np.diff(profile.stamps[0])) == profile.step_ns
    assert sum(row.rates.elapsed_ns for row in profile.rows) == pytest.approx(profile.step_ns, abs=len(profile.rows))
    assert profile.step_ns <= profile.measured_ns


def test_kernels_of_a_trace_do_not_overlap(net: concatc.CompiledModule) -> None:
    trace = json.loads(json.dumps(net.profile(rounds=4).trace()))
    kernels = events(trace, 2)
    assert kernels and all(e["dur"] >= 0 for e in kernels)
    for before, after in itertools.pairwise(kernels):
        assert before["ts"] + before["dur"] <= after["ts"] + 1e-6
    steps = [e for e in events(trace, 1) if e["cat"] == "step"]
    assert len(steps) == 4
    for step, group in zip(steps, np.array_split(np.array(kernels, object), 4), strict=True):
        assert group[0]["ts"] == step["ts"] and group[-1]["ts"] <= step["ts"] + step["dur"]


def test_a_profile_changes_nothing_that_lasts() -> None:
    net = concatc.compile_source(NET, filename="small.cnet")
    optimizer = concatc.Adam(lr=0.1)
    batch = {"x": np.ones((4, 5), np.float32), "label": np.arange(4, dtype=np.int32) % 3}
    net.train_step(batch, optimizer=optimizer)
    other = concatc.compile_source(NET, filename="small.cnet")
    other_optimizer = concatc.Adam(lr=0.1)
    other.train_step(batch, optimizer=other_optimizer)
    net.profile(rounds=2, optimizer=optimizer)
    net.profile(rounds=2, phase="infer")
    for _ in range(2):
        assert net.train_step(batch, optimizer=optimizer) == other.train_step(batch, optimizer=other_optimizer)
    assert all(np.array_equal(net.params[name], other.params[name]) for name in net.params)
    assert float(net.states["seen"][0]) == 3.0


def test_inference_and_other_batch_sizes(net: concatc.CompiledModule) -> None:
    profile = net.with_dims(n=7).profile(rounds=1, phase="infer")
    assert (profile.phase, dict(profile.dims)) == ("infer", {"n": 7, "size": 8})
    assert profile.total.flops == 2 * 7 * (5 * 8 + 8 * 3)
    given = net.profile({"x": np.zeros((3, 5), np.float32)}, phase="infer", rounds=1)
    assert given.total.flops == 2 * 3 * (5 * 8 + 8 * 3)
    assert "eval" in profile.text() and "inference" in profile.text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is a whole number from 1 to 100000, not 0"),
        ({"rounds": 1.5}, "rounds is a whole number from 1 to 100000, not 1.5"),
        ({"phase": "test"}, "a phase is `train` or `infer`, not `test`"),
        ({"phase": "infer", "optimizer": concatc.SGD()}, "inference has no update"),
        ({"x": np.zeros((4, 4), np.float32)}, "label"),
    ],
)
def test_wrong_calls(net: concatc.CompiledModule, options: dict[str, Any], message: str) -> None:
    with pytest.raises(concatc.UsageError, match=re.escape(message)):
        net.profile(**options)


def test_what_to_profile_of_a_net_without_a_loss() -> None:
    net = concatc.compile_source("net f(n = 2) { input x: f32[n, 3]; output linear(x, 2) as y }")
    with pytest.raises(
        concatc.UsageError, match='net f has no loss, so it has no training step\nhelp: `phase="infer"`'
    ):
        net.profile(rounds=1)
    assert net.profile(phase="infer", rounds=1).total.flops == 2 * 2 * 3 * 2


def test_a_profile_of_training_outdates_a_forward_pass() -> None:
    net = concatc.compile_source(NET, filename="small.cnet")
    inputs = {"x": np.ones((4, 5), np.float32), "label": np.zeros(4, np.int32)}
    net.forward(inputs)
    net.profile(phase="infer", rounds=1)
    net.backward()
    net.forward(inputs)
    net.profile(rounds=1)
    with pytest.raises(concatc.UsageError, match=r"^error: profile\(\) ran steps of its own; run forward\(\) again"):
        net.backward()


def test_the_reference_has_no_kernels() -> None:
    net = concatc.compile_source(NET, target="reference")
    with pytest.raises(concatc.UsageError, match="no kernels to measure\nhelp: the target cpu has"):
        net.profile(rounds=1)


# -- written modules ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("written")
    (directory / "small.cnet").write_text(NET)
    assert exit_code(["compile", str(directory / "small.cnet"), "-o", str(directory / "small"), "--json"]) == 0
    yield directory / "small"


def test_written_modules(written: Path) -> None:
    module = concatc.load(written)
    profile = module.profile(rounds=1, optimizer=concatc.SGD(lr=0.1))
    assert profile.total.flops == 2 * 4 * (5 * 8 * 2 + 8 * 3 * 3)
    # No plan is written for other sizes: times are known, work is not.
    other = module.with_dims(n=7).profile(rounds=1)
    assert other.total.roofline is None and len(other.launched) == len(profile.launched) - 1
    assert "roofline" in other.text()


def test_a_written_module_in_a_process_that_has_seen_no_op(written: Path) -> None:
    script = (
        "import concatc, concatc.targets.cpu.peaks as peaks\n"
        "from concatc.targets import Bandwidth, Peaks\n"
        "known = Peaks('a machine', {'f32': 100.0, 'f64': 50.0}, (Bandwidth(1 << 20, 20.0, 10.0),))\n"
        "peaks.machine_peaks = lambda again=False: known\n"
        f"print(concatc.load({str(written)!r}).profile(rounds=1).total.flops)"
    )
    root = Path(concatc.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == f"{2 * 4 * (5 * 8 * 2 + 8 * 3 * 3)}\n", done.stderr


# -- peaks -------------------------------------------------------------------------------------------------------------


def test_peaks_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(peaks_module, "RUN_NS", 1000)
    monkeypatch.setattr(peaks_module, "RUNS", 2)
    monkeypatch.setattr(peaks_module, "MOST_BYTES", 1 << 15)
    first = machine_peaks()
    assert first.gflops["f32"] > 0 and first.gflops["f64"] > 0
    assert [b.size_bytes for b in first.bandwidths] == [1 << 14, 1 << 15]
    assert all(b.read > 0 and b.copy > 0 for b in first.bandwidths)
    assert first.bandwidths[0].read >= first.bandwidths[1].read
    measured: list[str] = []

    def measure(name: str, machine: Host) -> Peaks:
        measured.append(name)
        return PEAKS

    monkeypatch.setattr(peaks_module, "measure", measure)
    assert machine_peaks() == first and not measured
    assert machine_peaks(again=True) == PEAKS and measured == [first.machine]
    assert machine_peaks() == PEAKS


@pytest.mark.parametrize(("vector_bytes", "registers", "fma"), [(32, 16, True), (16, 16, False)])
def test_peaks_of_other_machines_compile(vector_bytes: int, registers: int, fma: bool) -> None:
    machine = replace(host(), vector_bytes=vector_bytes, registers=registers, fma=fma)
    assert object_code(peaks_ir(machine), machine)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small.cnet").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = exit_code(["bench", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_bench(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = bench(
        capsys, "small.cnet", "--rounds", "2", "--batch", "6", "--optimizer", "sgd", "--trace", "t.json"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "net small(n=6, size=8), training step"
    assert lines[1].startswith("one thread of a machine does 100 GFLOP/s f32")
    assert re.fullmatch(
        r"train_step [\d.]+ ms on (one thread|\d+ threads), median of 2 rounds; least .* ms, eight of ten .* to .* ms",
        lines[2],
    )
    assert any(line.startswith("kernel  ") and line.endswith("roofline") for line in lines)
    assert [line.split("  ")[0] for line in lines[-7:-3]] == ["all forward", "all backward", "all update", "all"]
    assert re.fullmatch(r"ready after [\d.]+ s: compilation, or code from the cache, and a first step", lines[-2])
    assert lines[-1] == "trace written to t.json"
    assert events(json.loads(Path("t.json").read_text()), 2)


def test_bench_for_tools(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, "small.cnet", "--rounds", "2", "--eval", "--dim", "n=3", "--json")
    data = json.loads(out)
    assert code == 0 and data["ok"] and data["phase"] == "infer" and data["dims"]["n"] == 3
    assert data["total"]["flops"] == 2 * 3 * (5 * 8 + 8 * 3)
    assert {"median", "least", "p10", "p90"} == set(data["call_ns"])
    kernel = data["kernels"][0]
    assert kernel["ops"] and kernel["locs"][0].startswith("small.cnet:") and kernel["bound"] in ("compute", "memory")


def test_bench_of_a_written_module(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, str(written), "--rounds", "1", "--batch", "9")
    assert code == 0 and out.startswith("net small(n=9, size=8), training step\n")
    code, _, err = bench(capsys, str(written), "--rounds", "1", "--batch", "9", "--dim", "n=3")
    assert code == 2 and "error: --batch 9: `n` is 3 already, by --dim n=3" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.cnet",), "none.cnet"),
        (("small.cnet", "--optimizer", "sgd", "--eval"), "error: --optimizer goes with --train"),
        (("small.cnet", "--target", "reference", "--rounds", "1"), "no kernels to measure"),
        (("small.cnet", "--trace", "."), "it is a directory"),
        (
            ("small.cnet", "--trace", "small.cnet/t.json"),
            "cannot write small.cnet/t.json: small.cnet is a file, not a folder",
        ),
        (("small.cnet", "--batch", "2", "--dim", "n=3"), "error: --batch 2: `n` is 3 already, by --dim n=3"),
        (("two.cnet", "--batch", "3"), "the net has 2 batch sizes, n, m\nhelp: write --dim n=N --dim m=N"),
        (("fixed.cnet", "--batch", "3"), "no input of the net begins with a dim"),
    ],
)
def test_wrong_benches(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    two = (
        "net two(n = 2, m = 3) {\n    input a: f32[n, 2]\n    input b: f32[m, 2]\n    output concat(a, b, axis=0)\n}\n"
    )
    (directory / "two.cnet").write_text(
        two.replace("output concat(a, b, axis=0)", "c = concat(a, b, axis=0)\n    output c")
    )
    (directory / "fixed.cnet").write_text("net fixed() {\n    input a: f32[4, 2]\n    b = relu(a)\n    output b\n}\n")
    code, _, err = bench(capsys, *arguments)
    assert code == 2 and message in err and "Traceback" not in err
    assert not Path("none").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/PROFILE.md"])
def test_the_docs_show_this_table(page: str) -> None:
    text = (Path(__file__).parent.parent / page).read_text(encoding="utf-8")
    assert tuple(re.search("^kernel  .*", text, re.MULTILINE)[0].split()) == HEADER  # type: ignore[index]
