"""Step times on a CPU beside the fastest peers, with accuracy, memory and time to the first step: one command.

    python -m benchmarks.cpu --json cpu.json [--rows thread,unet] [--rounds 5] [--threads 1,2] [--phases train,infer]

A row is a workload of `benchmarks.nets.ROWS`.  Every system computes on the same parameters and data, in a process of
its own, with the same number of threads; its loss and the norms of its gradients, or its outputs, are compared with
PyTorch in float64 before anything is timed.  `benchmarks.race` says who is measured how often.  Figures of a row are
written when it is done; a file from the same machine is added to, ``--show`` prints it.  A peer that is not installed,
fails or takes too long is named with the reason.  ``--python pytensor=PATH`` gives a package an interpreter.
``--caches DIR`` keeps compiled code of peers from run to run; their first steps are cold without it.  ``--quick`` is
for a look: most of the time goes into what Inductor compiles.  On a machine that has other work to do, ``--clock
processor`` counts the time that processors spent, for one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nets import ROWS, Workload
from benchmarks.problem import Problem
from benchmarks.process import Failed
from benchmarks.race import MAY_GAIN, Entry, Field, Runner, Setting, final, note
from benchmarks.report import machine, write_json
from benchmarks.systems import PEERS
from benchmarks.tables import tables
from concatc.compiler import Options
from concatc.inspect.work import arithmetic_of
from concatc.ir.core import FuncOp
from concatc.op import lowered
from concatc.targets.cpu.peaks import machine_peaks

READY_S = 400.0
ANSWER_S = 120.0
ONE_THREAD = "concatc, one thread"
PRECISIONS = ("concatc-exact", "concatc-fast")  # beside the one that is chosen where none is asked for


def reference(setting: Setting) -> dict[str, dict[str, np.ndarray]]:
    """What PyTorch computes in float64, by phase."""
    process, _ = replace(setting, threads=os.cpu_count() or 1, growth=False, reference={}).start(Entry("float64"))
    process.close()
    found = {}
    for path in setting.results.glob("float64-*.npz"):
        with np.load(path, allow_pickle=False) as values:
            found[path.stem.rpartition(".")[2]] = dict(values)
    return found


def measure_row(work: Workload, args: argparse.Namespace, caches: Path, found: dict[str, Any]) -> None:
    """All phases and numbers of threads of a row; each is written when it is done."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        problem = Problem.of(work)
        problem.save(folder / "data.npz")
        flops = contraction_flops(problem.compilation.phase("train").joint.main) if work.dense else 0
        setting = Setting(
            row=work.name,
            threads=1,
            phases=tuple(p for p in work.phases if p in args.phases),
            data=folder / "data.npz",
            caches=caches,
            results=folder,
            reference={},
            pythons=dict(pair.split("=", 1) for pair in args.python),
            ready_s=args.ready,
            answer_s=ANSWER_S,
            growth=True,
        )
        try:
            setting = replace(setting, reference=reference(setting))
        except Failed as error:
            note(f"  no reference, nothing is compared: {error}")
        peers = [name for name in args.systems if PEERS[name].takes(problem)]
        for threads in args.threads:
            note(f"  {work.name}, {threads} thread{'s'[: threads > 1]}")
            at = replace(setting, threads=threads, growth=threads == 1)
            peers = measure(at, flops, peers, args, found)
            write_json(args.json, found)


def measure(
    setting: Setting, flops: int, peers: list[str], args: argparse.Namespace, found: dict[str, Any]
) -> list[str]:
    """One row with a number of threads; the peers that may be the fastest with more threads.

    ``flops`` are those of a training step whose share of the machine's peak is asked for, else 0.
    """
    key = {"row": setting.row, "threads": setting.threads}
    beside: dict[str, Runner] = {}
    field = None
    try:
        beside["concatc"], said = both_starts(setting) if setting.growth else setting.start(Entry("concatc"))
        field = Field(beside["concatc"], setting.phases, setting.start, args.clock)
        race(field, peers)
        own = others_of_ours(setting, beside, said)
        for phase in setting.phases:
            note(f"    {phase}: {', '.join(n for n in field.running if field.near(n, phase, 9))}")
            result = final(field, own.get(phase, {}), phase, args.rounds, args.seconds)
            record = {
                **key,
                "phase": phase,
                **summary(result, field, said, phase),
                "load": os.getloadavg()[0],
                "clock": args.clock,
            }
            if phase == "train" and flops and setting.threads == 1:
                record["share_of_peak"] = share(flops, result["times_s"])
            keep(found, record)
    except Failed as error:
        note(f"  {setting.row}: {error}")
        for phase in setting.phases:
            keep(found, {**key, "phase": phase, "failed": {"concatc": str(error)}})
    finally:
        for runner in beside.values():
            runner.close()
        if field is not None:
            field.close()
    trials = field.trials if field is not None else {}
    near = {name for times in trials.values() for name in times if times[name] <= MAY_GAIN * min(times.values())}
    return [name for name in peers if {name, Entry(name, "keeps").name} & near] or peers


def both_starts(setting: Setting) -> tuple[Runner, dict[str, Any]]:
    """concatc from an empty cache, and again in a process that stays."""
    with tempfile.TemporaryDirectory() as cold:
        first, said = replace(setting, caches=Path(cold)).start(Entry("concatc"))
        first.close()
        runner, warm = replace(setting, caches=Path(cold), growth=False).start(Entry("concatc"))
    for phase, about in said["phases"].items():
        about["first_warm_s"] = warm["phases"][phase]["first_s"]
    return runner, said


def race(field: Field, peers: list[str]) -> None:
    """Try all peers, then those near the best with an allocator that keeps memory."""
    for name in peers:
        field.enter(Entry(name))
    for name in peers:
        if any(field.near(name, phase, MAY_GAIN) for phase in field.phases):
            field.enter(Entry(name, "keeps"))


def others_of_ours(setting: Setting, beside: dict[str, Runner], said: dict[str, Any]) -> dict[str, dict[str, Runner]]:
    """By phase what takes turns and is no peer: other precisions, one thread beside several."""
    plain = replace(setting, growth=False)
    if setting.threads > 1:
        beside[ONE_THREAD] = replace(plain, threads=1).start(Entry("concatc"))[0]
        return {phase: {ONE_THREAD: beside[ONE_THREAD]} for phase in setting.phases}
    if "train" not in setting.phases:
        return {}
    for system in PRECISIONS if "precision" in {f.name for f in fields(Options)} else ():
        beside[system], about = plain.start(Entry(system))
        said[system] = about["phases"]["train"]
    return {"train": {name: runner for name, runner in beside.items() if name != "concatc"}}


def share(flops: int, times: Mapping[str, list[float]]) -> float:
    """Of the machine's peak, measured now; by direct algorithms where those are another precision."""
    direct = times.get("concatc-exact", times["concatc"])
    return flops / statistics.median(direct) / (machine_peaks(again=True).gflops["f32"] * 1e9)


def contraction_flops(net: FuncOp) -> int:
    """Multiplications and additions of the contractions (convolutions, products) of a function of ops.

    Taps that fall into padding are not counted, nor are maps and sums, nor what concatc computes twice: a share of the
    peak made of this is a lower bound.
    """
    return sum(arithmetic_of(piece)[0] for op in net.ops[:-1] for piece in lowered(op))


def summary(result: Mapping[str, Any], field: Field, said: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """What is kept of a race in one phase."""
    times = {name: statistics.median(seconds) for name, seconds in result["times_s"].items()}
    busy = result["processors"]
    about = {name: found["phases"][phase] for name, found in field.said.items() if phase in found["phases"]}
    peers = {}
    for name, trial in field.trials.get(phase, {}).items():
        measured: dict[str, Any] = {}
        if name in times:
            measured = {"step_s": times[name], "ratio": result["ratios"][name], "processors": busy[name]}
        peers[name] = {"trial": trial, **measured, **about[name], "version": field.said[name]["version"]}
    own = {name: {"step_s": times[name], **said.get(name, {})} for name in times if name.startswith("concatc-")}
    if ONE_THREAD in times:
        own[ONE_THREAD] = {"step_s": times[ONE_THREAD], "ratio": result["ratios"][ONE_THREAD]}
    ours = {"step_s": times["concatc"], "processors": busy["concatc"], **said["phases"][phase]}
    return {"concatc": ours, "ours": own, "peers": peers, "failed": field.failed, "best": result["best"]}


def keep(found: dict[str, Any], record: dict[str, Any]) -> None:
    """Put a record in the place of an older one of the same row, phase and threads, rows in their order."""
    order = {work.name: k for k, work in enumerate(ROWS)}

    def key(r: dict[str, Any]) -> tuple[int, str, int]:
        return order[r["row"]], r["phase"], r["threads"]

    rows = [r for r in found["rows"] if key(r) != key(record)]
    found["rows"] = sorted([*rows, record], key=key)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [work.name for work in ROWS]
    parser.add_argument("--rows", type=listed(names), default=names, help=f"by commas: {','.join(names)}")
    parser.add_argument("--systems", type=listed(PEERS), default=list(PEERS), help=f"peers: {','.join(PEERS)}")
    parser.add_argument("--phases", type=listed(["train", "infer"]), default=["train", "infer"], help="train,infer")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2], help="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a round, and at least one step")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="processor: on a busy machine")
    parser.add_argument("--ready", type=float, default=READY_S, help="seconds that a system may take to compile")
    parser.add_argument("--python", action="append", default=[], metavar="PACKAGE=PATH", help="its interpreter")
    parser.add_argument("--caches", type=Path, help="where peers keep compiled code from run to run")
    parser.add_argument("--json", type=Path, help="write what is measured there, row by row, keeping other rows")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.1 s, and no Inductor")
    parser.add_argument("--show", action="store_true", help="print the tables of --json and measure nothing")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 3, 0.1
        args.systems = [name for name in args.systems if not name.startswith("inductor")]
    return args


def listed(names: Any) -> Any:
    """A type for names separated by commas."""

    def take(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(names)}")
        return chosen

    return take


def main() -> None:
    """Measure the rows asked for and print the tables."""
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes of systems end, too
    found: dict[str, Any] = {"machine": machine(), "rows": []}
    if args.json is not None and args.json.exists():
        older = json.loads(args.json.read_text(encoding="utf-8"))
        if args.show or older["machine"] == found["machine"]:
            found = older
    if not args.show:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as fresh:
            for work in ROWS:
                if work.name in args.rows:
                    note(f"{work.name}, after {time.perf_counter() - began:.0f} s")
                    measure_row(work, args, args.caches or Path(fresh), found)
        write_json(args.json, found)
    print(tables(found))


if __name__ == "__main__":
    main()
