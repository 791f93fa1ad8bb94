"""Training steps on a GPU beside PyTorch: eager, compiled, and each as a CUDA graph.

    python -m benchmarks.cuda [--rows "tiny thread,unet"] [--rounds 30] [--json cuda.json] [--precision fast]

The workloads are those of `benchmarks.cpu` at sizes of a GPU.  A step is forward and backward, from inputs in the
host's memory to the loss in the host's memory, copies included, for all systems alike; parameters are equal, and losses
and norms of gradients are compared.  The median of the rounds is shown, systems taking turns, and the device memory
that each takes: of concatc what the driver has less, code included, of PyTorch the most bytes of tensors.  With
``--precision fast`` products of f32 are computed in tf32 by all, else in f32 by PyTorch.  Where there is no device it
says so and ends with status 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import concatc
from benchmarks.nets import ROWS, Workload
from benchmarks.problem import Problem
from benchmarks.report import deviation, markdown, write_json
from benchmarks.systems import Step
from concatc.diagnostics import ConcatcError
from concatc.options import Precision
from concatc.targets.cuda.device.choice import chosen_driver
from concatc.targets.cuda.device.driver import Driver

MIB = 1 << 20
Counter = Callable[[], Callable[[], int]]
WARM_UP = 5
# The dims that differ from those of `benchmarks.cpu`.
SIZES: Mapping[str, Mapping[str, int]] = {
    "thread": {},
    "tiny thread": {},
    "densenet_bc100": {"n": 256},
    "googlenet": {"n": 128},
    "unet": {"n": 16, "size": 256},
    "two_tower": {"n": 16384},
}


@dataclass
class Measured:
    """Seconds of each round of a system, the device memory that it takes, and what it computed."""

    run: Callable[[], float]
    values: Callable[[], dict[str, np.ndarray]]
    device_bytes: int
    times_s: list[float]


def workloads(names: list[str]) -> list[Workload]:
    """The rows of these names, at sizes of a GPU."""
    known = {work.name: work for work in ROWS}
    return [replace(known[name], dims={**known[name].dims, **SIZES[name]}) for name in names]


def ours(problem: Problem, precision: Precision = "high") -> Step:
    """The net on the target cuda."""
    net = concatc.compile(problem.work.path, dims=problem.work.dims, target="cuda", precision=precision)
    for name, value in problem.params.items():
        net.params[name] = value

    def values() -> dict[str, np.ndarray]:
        loss = net.train_step(problem.inputs)["loss"]
        norms = {f"norm/{k}": np.asarray(np.linalg.norm(g.astype(np.float64))) for k, g in net.grads.items()}
        return {"loss": np.asarray(loss), **norms}

    return Step(lambda: net.train_step(problem.inputs)["loss"], values)


def started(start: Callable[[], Step], counter: Counter) -> Measured:
    """A system, warmed up; ``counter`` begins to count the device memory that it takes."""
    taken = counter()
    step = start()
    for _ in range(WARM_UP):
        step.run()
    return Measured(step.run, step.values, taken(), [])


def driver_counter(driver: Driver) -> Callable[[], int]:
    """How many bytes of the device are free less than now."""

    def free() -> int:
        with driver.entered():
            return driver.memory_info()[0]

    before = free()
    return lambda: before - free()


def measure(work: Workload, rounds: int, driver: Driver, precision: Precision) -> dict[str, Any]:
    """All systems on one workload."""
    problem = Problem.of(work)
    systems = {"concatc": started(lambda: ours(problem, precision), lambda: driver_counter(driver))}
    failed: dict[str, str] = {}
    for kind, (start, counter) in peers(problem, precision == "fast").items():
        try:
            systems[f"torch {kind}"] = started(start, counter)
        except Exception as error:  # a peer that fails is named, and the others are measured
            failed[f"torch {kind}"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    for _ in range(rounds):
        for system in systems.values():
            began = time.perf_counter()
            system.run()
            system.times_s.append(time.perf_counter() - began)
    wanted = systems["concatc"].values()
    found = {
        name: {
            "median_s": statistics.median(system.times_s),
            "least_s": min(system.times_s),
            "device_bytes": system.device_bytes,
            "deviation": 0.0 if name == "concatc" else deviation(system.values(), wanted),
        }
        for name, system in systems.items()
    }
    return {"row": work.name, "dims": dict(work.dims), "systems": found, "failed": failed}


def peers(problem: Problem, tf32: bool) -> dict[str, tuple[Callable[[], Step], Counter]]:
    """PyTorch, where it is there and sees the device."""
    try:
        import torch

        from benchmarks.systems.torch_cuda import KINDS, counter, training_step
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}

    def starts(kind: str) -> Callable[[], Step]:
        return lambda: training_step(problem, kind, tf32=tf32)

    return {kind: (starts(kind), counter) for kind in KINDS}


def table(measured: list[dict[str, Any]]) -> str:
    """A line a system and workload."""
    lines = []
    for row in measured:
        best = min((s["median_s"] for name, s in row["systems"].items() if name != "concatc"), default=None)
        for name, s in row["systems"].items():
            ratio = "" if best is None or name != "concatc" else f"{best / s['median_s']:.2f}"
            us, mib = f"{s['median_s'] * 1e6:.1f}", f"{s['device_bytes'] / MIB:.1f}"
            lines.append([row["row"], name, us, mib, f"{s['deviation']:.1e}", ratio])
        lines += [[row["row"], name, "failed", "", why, ""] for name, why in row["failed"].items()]
    return markdown(["row", "system", "step, µs", "device, MiB", "deviation", "best peer / concatc"], lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where there is no device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(SIZES), help="which, of " + ", ".join(SIZES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--precision", choices=("exact", "high", "fast"), default="high", help="fast: tf32 for all")
    args = parser.parse_args(arguments)
    names = args.rows.split(",")
    unknown = [name for name in names if name not in SIZES]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}")
    try:
        driver = chosen_driver()
    except ConcatcError as error:
        print(f"nothing is measured: {error}", file=sys.stderr)
        return 1
    measured = []
    for work in workloads(names):
        print(f"{work.name} ..", file=sys.stderr, flush=True)
        measured.append(measure(work, args.rounds, driver, args.precision))
        if args.json is not None:
            write_json(
                args.json,
                {"device": driver.device, "arch": str(driver.arch), "precision": args.precision, "rows": measured},
            )
    print(f"{driver.device}, {driver.arch}; python -m benchmarks.cuda {' '.join(arguments or sys.argv[1:])}\n")
    print(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
