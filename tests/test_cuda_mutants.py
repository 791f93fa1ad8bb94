"""Generated device kernels with one thing wrong: the emulator finds each, or the result shows it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from concatc.loops.plan import Plan
from concatc.op import Sample, f32, load_all_ops
from concatc.targets.cuda import kernels
from concatc.targets.cuda.emulator.fault import KernelFault
from concatc.targets.cuda.emulator.run import emulate
from tests.emulated import tiles_for_all, with_scratch
from tests.kernel_plans import CANARY, untouched
from tests.sample_plans import Samples

OPS = load_all_ops()
# Of each kind of kernel one: more than one tile, rows of more elements than a block has threads, several rows a block.
KERNELS = {
    "tiles": Sample(OPS["linear"](), (f32(70, 21), f32(66, 21))),
    "tensor_cores": Sample(OPS["linear"](), (f32(66, 20), f32(34, 20))),
    "copies_of_four": Sample(OPS["linear"](transpose=True), (f32(66, 20), f32(20, 36))),
    "rows": Sample(OPS["softmax_grad"](axis=1), (f32(3, 300), f32(3, 300))),
    "stats": Sample(OPS["channel_stats"](), (f32(3, 2, 9, 11),)),
    "points": Sample(OPS["avg_pool"](kernel=(3, 3), stride=(2, 2), pad=(1, 1)), (f32(2, 3, 9, 9),)),
    "scatter": next(iter(OPS["embedding_grad"].samples())),
}
# Changes that change nothing: barriers between arrays that another barrier keeps apart as well, and the guards of an
# index that is never out of range, of the first terms of which there are more, of the terms behind the last.
HARMLESS = {
    "tiles": ["one more"] * 2,
    "tensor_cores": ["one more"] * 2,
    "copies_of_four": ["one more"] * 3,
    "stats": ["no barrier"] * 2,
    "scatter": ["one more"],
}
MOST = 6  # of a sort, since the sums of a thread are stored one like the other
BARRIER = re.compile(r"^ *cuda\.syncthreads\(\)\n", re.MULTILINE)
LESS = re.compile(r" < ")
STOP = re.compile(r"range\((.*?, )?(n_\w+)(?!, 16)\b")
WAIT = re.compile(r"^ *(wait_for|commit)_copies\(\)\n", re.MULTILINE)
SHARE = re.compile(r"(\w+)\[(v_\d+)\], (\w+\[v_\d+ \+ \d+\])")  # of a matrix: its first two numbers
ROUNDED = re.compile(r" tf32\((?=\w+\))")
SHUFFLE = re.compile(r"(shfl_xor_sync\(\w+, \w+), (\d+)")
ELEMENT = re.compile(r"= (acc\w*)\[1\]")
STORE = re.compile(r"^( *\w+\[[^\]]*)\] = ", re.MULTILINE)


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """What was done, at which line, and the source with it."""
    for name, pattern, new in (
        ("no barrier", BARRIER, ""),
        ("one more", LESS, " <= "),
        ("one iteration more", STOP, None),
        ("one element on", STORE, None),
        ("no wait", WAIT, ""),
        ("other share", SHARE, r"\3, \1[\2]"),
        ("other shuffle", SHUFFLE, r"\1, 0"),
        ("not rounded", ROUNDED, " ("),
        ("other element", ELEMENT, r"= \1[2]"),
    ):
        for match in itertools.islice(pattern.finditer(source), MOST):
            if new is not None:
                text = match.expand(new)
            else:
                text = match[0].replace("] = ", " + 1] = ") if pattern is STORE else f"{match[0]} + 1"
            line = source.count("\n", 0, match.start()) + 1
            yield f"{name}, line {line}", source[: match.start()] + text + source[match.end() :]


def run(kind: str, change: Callable[[str], str]) -> Callable[[Plan, np.ndarray], None]:
    """Runs device kernels whose source was changed, on one block."""

    def run_changed(plan: Plan, arena: np.ndarray) -> None:
        with tiles_for_all(parts=1), patch.multiple(kernels, MOST_BLOCKS=1):
            module = kernels.gpu_module(plan, "exact" if kind == "tiles" else "high")
        module = replace(module, source=change(module.source))
        emulate(module, with_scratch(module, {"arena": arena}))

    return run_changed


def seems_right(kind: str, change: Callable[[str], str]) -> bool:
    """Whether neither the emulator nor the result nor a canary shows that something was changed."""
    sample = KERNELS[kind]
    try:
        made = Samples("f32", [("f32", "dense", "sample", sample)], run(kind, change))
        made.check("dense", "sample", sample)
    except (KernelFault, AssertionError):
        return False
    return bool((untouched(made.arena, made.plan) == CANARY).all())


@pytest.mark.parametrize("kind", KERNELS)
def test_mutants_are_found(kind: str) -> None:
    sources: list[str] = []
    assert seems_right(kind, lambda source: (sources.append(source), source)[1])
    found = list(mutants(sources[0]))
    assert len(found) > 3
    missed = [what for what, source in found if seems_right(kind, lambda _, source=source: source)]
    assert [what.partition(",")[0] for what in missed] == HARMLESS.get(kind, []), f"{missed}\n{sources[0]}"
