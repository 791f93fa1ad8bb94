"""One system, one workload, in a process of its own: time to the first step and memory that a step needs.

python -m benchmarks.child concatc densenet40     prints one line of JSON
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.nets import WORKLOADS
from benchmarks.systems import make_step


def resident_bytes() -> int:
    """The process's memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Measure and print."""
    system, name = sys.argv[1:]
    work = next(w for w in WORKLOADS if w.name == name)
    start = time.perf_counter()
    step = make_step(system, work)
    step()
    first_s = time.perf_counter() - start
    # Importing and compiling leave pages behind; what a step needs shows best in a process that did nothing else.
    # So the growth is taken from the second net of the process, for both systems alike.
    before = resident_bytes()
    second = make_step(system, work)
    loss = 0.0
    for _ in range(3):
        loss = second()
    after = resident_bytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"first_s": first_s, "growth_bytes": after - before, "peak_bytes": peak, "loss": loss}))


if __name__ == "__main__":
    main()
