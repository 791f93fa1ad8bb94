"""Plans on the cuda target without a GPU: their device kernels, run by the emulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from concatc.loops.memory import allocate
from concatc.loops.plan import Plan
from concatc.targets.cuda import groups, kernels, products, split_sums
from concatc.targets.cuda.emulator.run import emulate
from concatc.targets.cuda.launches import SCRATCH, GpuModule
from concatc.targets.reference.plan_interpreter import POISON, BaseMemory


def run_emulated(plan: Plan, values: Mapping[str, np.ndarray], phase: str = "step") -> BaseMemory:
    """The memory behind a run of the plan's device kernels, on a poisoned arena; no canary is touched.

    ``values`` holds every argument of the net by its key (``input:a``).
    """
    memory = BaseMemory(plan)
    for key, value in values.items():
        memory.set(key, value)
    module = kernels.gpu_module(plan)
    emulate(module, with_scratch(module, memory.bases), phase)
    spoiled = memory.spoiled()
    assert not spoiled, f"bytes outside all values were written: {', '.join(spoiled)}"
    return memory


@contextmanager
def tiles_for_all(parts: int = 3) -> Iterator[None]:
    """Sums run by tiles and rows by blocks, however small they are, in some parts; blocks take one after the other."""
    with (
        patch.multiple(split_sums, LEAST_OF_PRODUCTS=1, LEAST_PRODUCT=1, MOST_PARTS=parts),
        patch.multiple(split_sums, LEAST_OF_ROWS=1, LEAST_ROW=1),
        patch.multiple(products, LEAST_ROWS=1, LEAST_TERMS=1),
        patch.multiple(groups, LONG_SUM=2, LONG_ROW=2),
        patch.multiple(kernels, MOST_BLOCKS=3),
    ):
        yield


def with_scratch(module: GpuModule, bases: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The bases of a module: a plan's, and the one of the device kernels, poisoned."""
    own = allocate(module.bases.get(SCRATCH, 0))
    own[...] = POISON
    return {**bases, SCRATCH: own}
