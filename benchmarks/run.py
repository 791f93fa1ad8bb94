"""Compile time, step time and memory of the workloads, concatc beside PyTorch eager: one command, one table.

    python -m benchmarks.run [--nets thread,unet] [--rounds 7] [--json results.json]

Steps are forward and backward, gradients kept, on one thread.  Both systems run in one process, a round of each in
turn, and the table shows the median time and the median of the rounds' ratios.  Compile time (start of compilation to
the end of the first step, nothing cached) and memory are taken in a process of their own for each system.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.nets import ROOT, WORKLOADS, Workload
from benchmarks.systems import SYSTEMS, Step, make_step

ROUND_S = 0.25  # a round repeats the step until this much time has passed
MIB = 1 << 20


def child(system: str, work: Workload, cache: str) -> dict[str, Any]:
    """What `benchmarks.child` measures, with an empty cache of compiled code."""
    environment = {**os.environ, "CONCATC_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.child", system, work.name]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def round_s(step: Step) -> float:
    """Seconds a step, over one round."""
    start, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - start < ROUND_S:
        step()
        steps += 1
    return (time.perf_counter() - start) / steps


def interleaved(work: Workload, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each system, round by round, in turn."""
    steps = {system: make_step(system, work) for system in SYSTEMS}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    for _ in range(rounds):
        for system, step in steps.items():
            times[system].append(round_s(step))
    return times


def measure(work: Workload, rounds: int) -> dict[str, Any]:
    """One row."""
    row: dict[str, Any] = {"net": work.name, "dims": work.dims}
    for system in SYSTEMS:
        with tempfile.TemporaryDirectory() as cache:
            row[system] = child(system, work, cache)
    losses = [row[system]["loss"] for system in SYSTEMS]
    row["loss_difference"] = abs(losses[0] - losses[1])
    times = interleaved(work, rounds)
    for system in SYSTEMS:
        row[system]["step_s"] = statistics.median(times[system])
    ratios = [b / a for a, b in zip(*(times[s] for s in SYSTEMS), strict=True)]
    row["speedup"] = statistics.median(ratios)
    row["spread"] = [min(ratios), max(ratios)]
    return row


HEAD = ["net", "first step, s", "step, ms", "torch / concatc", "growth, MiB", "loss differs by"]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table; pairs are concatc, then torch."""
    a, b = (row[system] for system in SYSTEMS)
    low, high = row["spread"]
    return [
        row["net"],
        f"{a['first_s']:.1f}, {b['first_s']:.1f}",
        f"{a['step_s'] * 1e3:.3g}, {b['step_s'] * 1e3:.3g}",
        f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})",
        f"{a['growth_bytes'] / MIB:.1f}, {b['growth_bytes'] / MIB:.1f}",
        f"{row['loss_difference']:.1e}",
    ]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def machine() -> dict[str, str]:
    """What it ran on."""
    import llvmlite
    import numba
    import numpy
    import torch

    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    versions = {m.__name__: m.__version__ for m in (numpy, numba, llvmlite, torch)}
    return {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version(), **versions}


def main() -> None:
    """Measure the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(w.name for w in WORKLOADS), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write everything measured there")
    options = parser.parse_args()
    chosen = [w for w in WORKLOADS if w.name in options.nets.split(",")]
    rows = []
    for work in chosen:
        rows.append(measure(work, options.rounds))
        print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    print(markdown(HEAD, [cells(row) for row in rows]))
    if options.json:
        beside = options.json.with_suffix(".tmp")
        beside.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
        beside.rename(options.json)


if __name__ == "__main__":
    main()
