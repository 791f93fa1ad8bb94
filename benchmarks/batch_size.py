"""How long a net that runs takes to be ready at another batch size: ``net.with_dims(n=7)``, in fresh processes.

python -m benchmarks.batch_size [densenet40 ..] [--rounds 3]

*compiled* in the process, read off the *cache* of whole nets, *written* by ``concatc compile -o`` and loaded.  Each net
has made a training step and an inference at its own dims, so both phases are made ready.  *first* is the first other
size, *next* the median of five more, *step* what the first training step there takes longer than the second one.
Milliseconds of processor time of the thread that asks; least of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.nets import ROOT
from benchmarks.report import markdown

CHILD = "--in-this-process"
HOME, SIZES = 16, (7, 3, 32, 5, 64, 9)


def ready(opened: str, path: str) -> None:
    """Open a net, run it, ask for other sizes; what that took, as a line of JSON."""
    import concatc
    from concatc.runtime.profiling import made_up_inputs

    net = concatc.load(path) if opened == "written" else concatc.compile(path, dims={"n": HOME}, threads=1)
    net.init(seed=0)
    inputs = made_up_inputs(net.signature, net.index_checks)
    net.train_step(inputs)
    net.eval(inputs)
    taken, others = [], []
    for n in SIZES:
        start = time.thread_time()
        others.append(net.with_dims(n=n))
        taken.append(1e3 * (time.thread_time() - start))
    given = {name: value[: SIZES[0]] for name, value in inputs.items()}
    steps = []
    for _ in range(2):
        start = time.thread_time()
        others[0].train_step(given)
        steps.append(1e3 * (time.thread_time() - start))
    loaded = [name for name in ("lark", "numba", "concatc.passes.verify", "concatc.ops.conv") if name in sys.modules]
    first, *rest = taken
    print(json.dumps({"ms": [first, statistics.median(rest), steps[0] - steps[1]], "loaded": loaded}))


def measure(net: Path, opened: str, rounds: int, folder: Path) -> list[str]:
    """A row of the table."""
    caches = {"compiled": "objects", "cache": "nets", "written": "objects"}
    environment = {**os.environ, "CONCATC_CACHE_DIR": str(folder / "cache"), "CONCATC_CACHE": caches[opened]}
    path, written = net, folder / net.stem
    if opened == "written":
        path = written
        made = [sys.executable, "-m", "concatc", "compile", str(net), "--dim", f"n={HOME}", "-o", str(written)]
        subprocess.run(made, cwd=ROOT, env=environment, capture_output=True, check=True)
    command = [sys.executable, "-m", "benchmarks.batch_size", CHILD, opened, str(path)]
    found = []
    for _ in range(rounds + 1):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    del found[0]  # it fills the cache
    least = [min(run["ms"][k] for run in found) for k in range(3)]
    return [net.stem, opened, *(f"{max(ms, 0):.1f}" for ms in least), ", ".join(found[0]["loaded"]) or "none"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=["densenet40"], help="of examples/nets, with a batch size n")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    rows = []
    for name in args.nets:
        with tempfile.TemporaryDirectory() as folder:
            net = ROOT / "examples" / "nets" / f"{name}.cnet"
            rows += [measure(net, opened, args.rounds, Path(folder)) for opened in ("compiled", "cache", "written")]
    print(markdown(["net", "opened", "first ms", "next ms", "step ms", "loaded of front end and passes"], rows))


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        ready(*sys.argv[2:4])
    else:
        main()
