"""What a pass gains: a net with its pipeline as it is and with another one, in turn, in one process.

python -m benchmarks.passes examples/nets/residual.cnet --dim n=32 --phase infer --without fold-batch-norm
python -m benchmarks.passes examples/nets/googlenet.cnet --dim n=4 --instead merge-branches

``--without`` leaves a pass out; ``--instead`` puts passes, as ``concatc opt --passes`` takes them, in the places of
those of their names.  A row is one pipeline: milliseconds of processor time of one step (gradients only) or inference
on one thread, least of all rounds; how many times as long it takes as the pipeline as it is, median over the rounds;
and what its plan takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.report import markdown
from concatc.ir.passes import Pass

Pipelines = dict[str, tuple[Pass, ...]]
Change = Callable[[Pipelines], Pipelines]
TITLES = {"train": "training: ", "infer": "inference: "}


def changed(pipelines: Pipelines, without: Sequence[str], instead: Sequence[Pass]) -> Pipelines:
    """The pipelines less some passes, and with others in the places of those of their names."""
    placed = {step.name: step for step in instead}
    return {
        level: tuple(placed.get(step.name, step) for step in steps if step.name not in without)
        for level, steps in pipelines.items()
    }


def made(path: str, dims: Mapping[str, Any], phase: str, change: Change) -> tuple[Callable[[], object], list[str]]:
    """A call that runs a phase of the net, compiled with changed pipelines, and what its plan takes, in two words."""
    import concatc
    from concatc import lowering
    from concatc.runtime.profiling import made_up_inputs

    known = lowering.PIPELINES[phase]
    lowering.PIPELINES[phase] = lambda options, graph: change(known(options, graph))
    try:
        net = concatc.compile(path, dims=dims, threads=1)
        net.init(seed=0)
        inputs = made_up_inputs(net.signature, net.index_checks)
        if phase == "infer":
            net.eval(inputs)
            lines = str(net.memory).splitlines()
        else:
            net.train_step(inputs)
            lines = str(net.memory).splitlines()
    finally:
        lowering.PIPELINES[phase] = known
    at = next(k for k, line in enumerate(lines) if line.startswith(TITLES[phase]))
    words = [lines[at].rpartition("arena ")[2], lines[at + 1].partition("copies ")[2].partition(",")[0]]
    return (lambda: net.eval(inputs) if phase == "infer" else net.train_step(inputs)), words


def measure(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Milliseconds of processor time of each call, round by round, in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, found, strict=True):
            call()  # what the other one left in the caches is no part of it
            start = time.thread_time_ns()
            call()
            taken.append((time.thread_time_ns() - start) / 1e6)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print."""
    os.environ["CONCATC_CACHE"] = "objects"  # whole nets are kept by their text and options, not by their passes
    from concatc.passes.registry import parse_pipeline

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--phase", choices=tuple(TITLES), default="train")
    parser.add_argument("--without", action="append", default=[], metavar="PASS")
    parser.add_argument("--instead", default="", metavar="PASSES")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args(arguments)
    dims = {
        name: float(value) if "." in value else int(value) for name, _, value in (d.partition("=") for d in args.dim)
    }
    instead = parse_pipeline(args.instead)
    variants: dict[str, Change] = {"as it is": lambda pipelines: pipelines}
    title = ", ".join([*(f"without {name}" for name in args.without), *([f"with {args.instead}"] if instead else [])])
    variants[title] = lambda pipelines: changed(pipelines, args.without, instead)
    nets = [made(args.net, dims, args.phase, change) for change in variants.values()]
    times = measure([call for call, _ in nets], args.rounds)
    rows = [
        [
            name,
            f"{min(taken):.3f}",
            f"{statistics.median(t / own for t, own in zip(taken, times[0], strict=True)):.3f}",
            *words,
        ]
        for name, taken, (_, words) in zip(variants, times, nets, strict=True)
    ]
    print(markdown(["pipeline", "ms", "times as long", "arena", "copied"], rows))


if __name__ == "__main__":
    main()
