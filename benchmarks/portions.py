"""How long inference takes in portions of the rows, by how large the arena of a portion may be.

python -m benchmarks.portions [resnet20 unet ..] [--threads 1] [--mib 1,2,4,8,16] [--rounds 20] [--clock wall|processor]

Nets are those of `benchmarks.nets.ROWS`.  Each size is a module of its own in this process; they take turns, a call
each, and the least and the median of the rounds are printed, in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import concatc
from benchmarks.nets import ROWS, Workload
from benchmarks.problem import Arrays, Problem
from benchmarks.report import markdown
from concatc.batch_sizes import in_portions

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
ALL_ROWS = 1 << 50
NETS = ("resnet20", "unet", "densenet40", "squeezenet b8", "googlenet")


def compiled(work: Workload, arena_bytes: int, threads: int, inputs: Arrays) -> concatc.CompiledModule:
    """The net, whose portions may have so large an arena; it has run once."""
    with patch.multiple(in_portions, NEAR_BYTES=arena_bytes // threads, OF_PARAMS=1 << 30):
        net = concatc.compile(work.path, dims=work.dims, threads=threads)
        net.eval(inputs)
    return net


def main() -> None:
    """Measure the nets asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=NETS, help=f"of ROWS; {', '.join(NETS)} unless some are named")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mib", default="1,2,4,8,16", help="arenas of a portion in all: %(default)s")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    sizes = {"all rows": ALL_ROWS, **{f"{mib} MiB": int(mib) << 20 for mib in options.mib.split(",")}}
    lines = []
    for work in (w for w in ROWS if w.name in options.nets):
        inputs = Problem.of(work).inputs_of("infer")
        nets = {size: compiled(work, arena_bytes, options.threads, inputs) for size, arena_bytes in sizes.items()}
        taken: dict[str, list[float]] = {size: [] for size in nets}
        for _ in range(options.rounds):
            for size, net in nets.items():
                start = clock()
                net.eval(inputs)
                taken[size].append((clock() - start) * 1e3)
        lines.append([work.name, *(f"{min(ms):.3g} ({statistics.median(ms):.3g})" for ms in taken.values())])
    print(markdown(["net", *sizes], lines))


if __name__ == "__main__":
    main()
