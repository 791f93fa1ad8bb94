"""How long a net takes to its first training step in a fresh process: from an empty cache, and from a full one.

python -m benchmarks.compile_time [thread densenet121 ..] [--rounds 3] [--workers N] [--json compile_time.json]

*cold* and *warm* begin before Python does and end behind the first step of training (forward and backward), with
inputs made up: interpreter, imports, compilation, memory, initial values, the step itself.  *compiled* is the part to
where code is loaded.  Processor times hold the workers that compile; with a load on the machine they say more than the
clock.  Each round has a cache of its own, which its first process fills and the second one reads; least of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.nets import ROOT
from benchmarks.report import machine, markdown, write_json

NETS = ("thread", "nets/densenet40", "nets/densenet121", "nets/inception", "nets/residual", "nets/unet")
BARS_S = {"thread": (2.0, None), "densenet121": (10.0, 0.3)}
CHILD = "--in-this-process"


def step(path: str) -> None:
    """The first step, and what it took, as a line of JSON."""
    import concatc

    imported_s = _cpu_s()
    net = concatc.compile(path)
    executable = net._source.executable("train", None)
    compiled_s = _cpu_s()
    from concatc.runtime.profiling import made_up_inputs

    net.init(seed=0)
    loss = net.train_step(made_up_inputs(net.signature, net.index_checks))["loss"]
    loaded = [name for name in ("lark", "numba") if name in sys.modules]
    found = {"imported_s": imported_s, "compiled_s": compiled_s, "cpu_s": _cpu_s(), "loss": loss, "loaded": loaded}
    launches = len(executable.table.kernels)  # type: ignore[attr-defined]
    print(json.dumps({**found, "launches": launches}), flush=True)


def _cpu_s() -> float:
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime


def in_a_process(path: Path, cache: Path, workers: int | None) -> dict[str, Any]:
    """The first step in a process of its own."""
    environment = {**os.environ, "CONCATC_CACHE_DIR": str(cache), "CONCATC_CACHE": "nets"}
    if workers is not None:
        environment["CONCATC_WORKERS"] = str(workers)
    command = [sys.executable, "-m", "benchmarks.compile_time", CHILD, str(path)]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = process.stdout.readline()  # behind the step; how long an interpreter takes to end is no part of it
        elapsed_s = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{path.name}: the process ended in {process.returncode}")
    return {"elapsed_s": elapsed_s, **json.loads(found)}


def measure(net: str, rounds: int, workers: int | None) -> dict[str, Any]:
    """The runs of a net, cold and warm."""
    runs: dict[str, Any] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind in runs:
                runs[kind].append(in_a_process(ROOT / "examples" / f"{net}.cnet", Path(folder), workers))
    if len({run["loss"] for kind in runs for run in runs[kind]}) > 1:
        raise SystemExit(f"{net}: not the same loss in every process")
    return {"net": Path(net).name, **runs}


def row(found: dict[str, Any]) -> list[str]:
    """A net as a row of the table."""
    cells = [found["net"], str(found["cold"][0]["launches"])]
    for kind, bar in zip(("cold", "warm"), BARS_S.get(found["net"], (None, None)), strict=True):
        least = {what: min(run[what] for run in found[kind]) for what in ("elapsed_s", "cpu_s", "compiled_s")}
        wanted = f" (bar {bar:g})" if bar is not None else ""
        cells += [f"{least['elapsed_s']:.2f}", f"{least['cpu_s']:.2f}", f"{least['compiled_s']:.2f}{wanted}"]
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(Path(net).name for net in NETS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    names = {Path(net).name: net for net in NETS}
    if unknown := [name for name in args.nets if name not in names]:
        parser.error(f"no net {', '.join(unknown)}")
    found = []
    head = ["net", "launches", *(f"{kind} {what}" for kind in ("cold", "warm") for what in ("s", "CPU s", "compiled"))]
    for name in args.nets or names:
        found.append(measure(names[name], args.rounds, args.workers))
        print(" | ".join(row(found[-1])), flush=True)
    print(markdown(head, map(row, found)))
    write_json(args.json, {"machine": machine(), "nets": found})


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        step(sys.argv[2])
    else:
        main()
