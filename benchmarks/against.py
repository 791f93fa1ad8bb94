"""Step time of this checkout beside another one of concatc: has a change made a net slower?

    python -m benchmarks.against PATH [--nets densenet40,unet] [--recompute none,auto] [--rounds 9]

``PATH`` is a checkout of another commit (``git worktree add PATH COMMIT``).  Each has a process of its own; rounds
alternate, and the table shows the median of the rounds' ratios: below 1, this checkout is faster.  Both read the nets
of this checkout, with equal data, and must find equal losses.  Both recompute as asked, with `auto` as each means it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.nets import ROOT, ROWS, Workload
from benchmarks.problem import Problem
from benchmarks.process import Failed, Process
from benchmarks.report import markdown, ratios, spread

ROUND_S = 0.4
READY_S = 900.0
HEAD = ["net", "recompute", "other, ms", "this, ms", "this / other"]
NETS = [work.name for work in ROWS if "train" in work.phases]


def stepper(checkout: Path, work: Workload, data: Path, recompute: str) -> Process:
    """A process that does training steps with the concatc of one checkout."""
    script = str(ROOT / "benchmarks" / "stepper.py")
    command = [sys.executable, script, str(work.path), str(data), json.dumps(work.dims), recompute]
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CONCATC_NUM_THREADS": "1"}
    return Process(command, env, READY_S, READY_S, cwd=checkout)


def measure(work: Workload, other: Path, recompute: str, rounds: int) -> list[str]:
    """One row."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "batch.npz"
        np.savez(data, **Problem.of(work).inputs)  # type: ignore[arg-type]
        with stepper(other, work, data, recompute) as theirs, stepper(ROOT, work, data, recompute) as ours:
            losses = [process.first["loss"] for process in (theirs, ours)]
            if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
                raise SystemExit(f"{work.name}: the losses are {losses[0]} and {losses[1]}")
            pairs = [[process.ask(ROUND_S)["step_s"] for process in (theirs, ours)] for _ in range(rounds)]
    before, after = zip(*pairs, strict=True)
    times = [f"{statistics.median(seconds) * 1e3:.3g}" for seconds in (before, after)]
    return [work.name, recompute, *times, spread(ratios(after, before))]


def main() -> None:
    """Measure the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--nets", default=",".join(NETS), help="names, separated by commas: %(default)s")
    parser.add_argument("--recompute", default="none,auto", help="modes, separated by commas")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rows = []
    for work in (w for w in ROWS if w.name in NETS and w.name in options.nets.split(",")):
        for recompute in options.recompute.split(","):
            try:
                rows.append(measure(work, options.other.resolve(), recompute, options.rounds))
            except Failed as error:
                raise SystemExit(f"{work.name}: {error}") from None
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown(HEAD, rows))


if __name__ == "__main__":
    main()
