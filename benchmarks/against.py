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
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.nets import ROOT, WORKLOADS, Workload
from benchmarks.run import markdown
from benchmarks.systems import values_for

ROUND_S = 0.4
HEAD = ["net", "recompute", "other, ms", "this, ms", "this / other"]


class Stepper:
    """A process that does training steps with the concatc of one checkout."""

    def __init__(self, checkout: Path, work: Workload, data: Path, recompute: str) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "stepper.py"), str(work.path), str(data)]
        self.process = subprocess.Popen(
            [*command, json.dumps(work.dims), recompute],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.loss = float(self._answer().split()[1])

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def round_s(self) -> float:
        """Seconds a step, over one round."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{ROUND_S}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process in {self.process.args!r} ended early")
        return line


def measure(work: Workload, other: Path, recompute: str, rounds: int) -> list[str]:
    """One row."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "batch.npz"
        np.savez(data, **values_for(work)[1])  # type: ignore[arg-type]
        with Stepper(other, work, data, recompute) as theirs, Stepper(ROOT, work, data, recompute) as ours:
            if abs(theirs.loss - ours.loss) > 1e-4 * abs(theirs.loss):
                raise SystemExit(f"{work.name}: the losses are {theirs.loss} and {ours.loss}")
            pairs = [(theirs.round_s(), ours.round_s()) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    times = [statistics.median(t) * 1e3 for t in zip(*pairs, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [work.name, recompute, *(f"{t:.3g}" for t in times), ratio]


def main() -> None:
    """Measure the rows asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--nets", default=",".join(w.name for w in WORKLOADS), help="names, separated by commas")
    parser.add_argument("--recompute", default="none,auto", help="modes, separated by commas")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rows = []
    for work in (w for w in WORKLOADS if w.name in options.nets.split(",")):
        for recompute in options.recompute.split(","):
            rows.append(measure(work, options.other.resolve(), recompute, options.rounds))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown(HEAD, rows))


if __name__ == "__main__":
    main()
