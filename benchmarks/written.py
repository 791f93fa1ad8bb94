"""What a written module takes in a fresh process: memory of a chain of concats, and the time to load it.

python -m benchmarks.written [--layers 32] [--rounds 5] [--json written.json]

The net is `examples/nets/growing.cnet` (relu, conv 3x3, concat; batch 8, 16x16, growth 12), with one layer and with
``--layers``.  Each is written once (``concatc compile -o DIR``) and run in ``--rounds`` processes of its own, in turn
(`benchmarks/fresh.py`).  *grown by* is the median peak of the deep net less that of the net of one layer: what the
process takes in any case is in both.  *planned* is the same difference of what `net.memory` says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.nets import ROOT
from benchmarks.report import MIB, machine, write_json
from concatc.artifact import write_module
from concatc.compiler import Options, compile_net
from concatc.runtime.memory_report import MemoryReport

NET = ROOT / "examples" / "nets" / "growing.cnet"
BAR_MIB = 12.0  # at 32 layers
LOAD_BAR_S = 0.25


def write(layers: int, directory: Path) -> int:
    """Write the net; the bytes that a training step plans."""
    compilation = compile_net(NET.read_text(encoding="utf-8"), str(NET), Options(dims={"layers": layers}))
    write_module(compilation, directory)
    report = MemoryReport.of(compilation.name, {"train": compilation.phase("train")})
    return sum(report.phases["train"].bases.values())


def fresh(directory: Path) -> dict[str, Any]:
    """What one process says."""
    command = [sys.executable, "-m", "benchmarks.fresh", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(layers: int, rounds: int) -> dict[str, Any]:
    """Peaks of both nets, what was planned, and the times to load the deep one."""
    with tempfile.TemporaryDirectory() as folder:
        depths = {"one": 1, "deep": layers}
        planned = {name: write(depth, Path(folder) / name) for name, depth in depths.items()}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in depths}
        for _ in range(rounds):
            for name in depths:
                runs[name].append(fresh(Path(folder) / name))
    peaks = {name: [run["peak_bytes"] for run in runs[name]] for name in depths}
    return {
        "layers": layers,
        "planned_bytes": planned["deep"] - planned["one"],
        "grown_bytes": round(statistics.median(peaks["deep"]) - statistics.median(peaks["one"])),
        "peak_bytes": peaks,
        "load_s": [run["load_s"] for run in runs["deep"]],
        "load_cpu_s": [run["load_cpu_s"] for run in runs["deep"]],
        "imported": sorted({name for run in runs["deep"] for name in run["imported"]}),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.layers, args.rounds)
    medians = {name: statistics.median(peaks) / MIB for name, peaks in found["peak_bytes"].items()}
    print(f"planned   {found['planned_bytes'] / MIB:.2f} MiB more with {args.layers} layers than with one")
    print(
        f"grown by  {found['grown_bytes'] / MIB:.2f} MiB (peaks {medians['one']:.1f} and {medians['deep']:.1f} MiB; "
        f"bar at 32 layers {BAR_MIB:g})"
    )
    print(
        f"load      {statistics.median(found['load_s']):.3f} s, {statistics.median(found['load_cpu_s']):.3f} s of it "
        f"on the processor (bar {LOAD_BAR_S:g}); imports {', '.join(found['imported']) or 'neither lark nor numba'}"
    )
    write_json(args.json, {"machine": machine(), **found})


if __name__ == "__main__":
    main()
