"""How much memory a training step takes, for one system and one workload, in a process of its own.

python -m benchmarks.resident concatc densenet40     prints one line of JSON

The growth is measured alike for all systems.  Code is made, and two steps run on parameters that are then given up,
with all that the allocator can give back (`malloc_trim`); what is resident then is imports, code, the batch and the
initial values in NumPy arrays.  From there: parameters and inputs are made anew, three steps run, and the growth is the
most that was resident during these steps (`VmHWM`), less what was before.  So it holds parameters, gradients, inputs,
activations and scratch, and neither compilation nor imports.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.nets import MEMORY_WORKLOADS
from benchmarks.problem import Problem
from benchmarks.systems import SYSTEMS

STEPS = 3


def process_bytes(field: str) -> int:
    """A field of the process's status: ``VmRSS`` is what is resident, ``VmHWM`` the most since `forget_high_water`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def forget_high_water() -> None:
    """Let ``VmHWM`` begin at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def give_back() -> None:
    """Let go of what nothing refers to."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def growth(start: Callable[[], Callable[[], float]]) -> dict[str, Any]:
    """Bytes that a training step takes, and the loss that it computes; `start` makes one."""
    step = start()
    for _ in range(2):
        step()
    del step
    give_back()
    before = process_bytes("VmRSS")
    step = start()
    forget_high_water()
    losses = [step() for _ in range(STEPS)]
    return {"growth_bytes": process_bytes("VmHWM") - before, "before_bytes": before, "loss": losses[0]}


def main() -> None:
    """Measure and print."""
    system, name = sys.argv[1:]
    problem = Problem.of(next(w for w in MEMORY_WORKLOADS if w.name == name))
    start = SYSTEMS[system].prepare(problem, "train", threads=1)
    print(json.dumps(growth(lambda: start().run)))


if __name__ == "__main__":
    main()
