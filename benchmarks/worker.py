"""One system on one workload, in a process that stays alive and does a round of steps when it is told.

    python -m benchmarks.worker '{"system": "torch", "row": "unet", "phases": ["train"], "threads": 1, ..}'

First it makes the steps of all phases and prints what it found: for each phase seconds to the end of the first step
(imports, compilation, allocation), and `growth` where that is asked for; what was computed goes to the file `results`.
Then each line on stdin is a round, ``{"phase": "train", "seconds": 0.3}``, and the answer is the seconds of a step and
how many processors were busy.  Only one process is told at a time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.nets import ROWS
from benchmarks.problem import Problem
from benchmarks.resident import growth
from benchmarks.systems import SYSTEMS, Step, System

LOOK_S = 0.005  # the clock is looked at about this often


def timed_round(step: Step, seconds: float, expected_s: float) -> tuple[float, float]:
    """Seconds a step over at least `seconds` and one step, and the processors that were busy meanwhile."""
    at_once = max(1, int(min(LOOK_S, seconds) / expected_s))
    steps, start, cpu = 0, time.perf_counter(), time.process_time()
    while not steps or time.perf_counter() - start < seconds:
        for _ in range(at_once):
            step.run()
        steps += at_once
    wall, busy = time.perf_counter() - start, time.process_time() - cpu
    return wall / steps, busy / wall


def first(problem: Problem, system: System, phase: str, job: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """The steps of a phase, and what is said of them; their values are written."""
    began = time.perf_counter()
    start = system.prepare(problem, phase, job["threads"])
    step = start()
    step.run()
    said: dict[str, Any] = {"first_s": time.perf_counter() - began}
    np.savez(Path(job["results"]).with_suffix(f".{phase}.npz"), **step.values())  # type: ignore[arg-type]
    if job["growth"] and phase == "train":
        del step
        said.update(growth(lambda: start().run))
        step = start()
    began = time.perf_counter()
    step.run()
    said["warm_s"] = time.perf_counter() - began
    return step, said


def serve(job: dict[str, Any], answers: TextIO) -> None:
    """Make the steps, then answer until stdin ends."""
    work = next(w for w in ROWS if w.name == job["row"])
    system = SYSTEMS[job["system"]]
    problem = Problem.load(work, Path(job["data"]))
    if system.reads_graph:
        _ = [problem.compilation.phase(phase).graph for phase in work.phases]  # no part of the time
    steps: dict[str, Step] = {}
    said: dict[str, Any] = {"phases": {}, "version": installed(system.package)}
    for phase in job["phases"]:
        steps[phase], said["phases"][phase] = first(problem, system, phase, job)
    print(json.dumps(said), file=answers, flush=True)
    expected = {phase: found["warm_s"] for phase, found in said["phases"].items()}
    for line in sys.stdin:
        told = json.loads(line)
        phase = told["phase"]
        expected[phase], busy = timed_round(steps[phase], told["seconds"], expected[phase])
        print(json.dumps({"step_s": expected[phase], "processors": busy}), file=answers, flush=True)


def installed(package: str) -> str:
    """The version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main() -> None:
    """What systems print goes to stderr, so that answers stay apart."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(json.loads(sys.argv[1]), answers)


if __name__ == "__main__":
    main()
