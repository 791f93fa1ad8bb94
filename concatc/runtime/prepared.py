"""A call that ran, ready to be made again natively: the way of every step of a training loop but the first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from concatc.loops.bases import Interface
from concatc.loops.plan import interface_key
from concatc.runtime.index_check import IndexCheck, ranges_of
from concatc.runtime.optimizers import Optimizer, OptimizerState
from concatc.targets import Executable
from concatc.targets.call import Bounds, CallSpec, NativeCall

if TYPE_CHECKING:
    from concatc.runtime.instance import Instance


class Prepared:
    """One call of a module.

    It may be made as long as nothing else ran in its phase and no weight of a loss was changed: what it does not write
    itself is then in memory.  What it writes: the scalars of an optimizer, seed and step of a net with dropout.
    """

    __slots__ = ("_call", "_executable", "_native", "_random", "_update", "instance", "optimizer")

    def __init__(
        self,
        instance: Instance,
        native: NativeCall,
        executable: Executable,
        optimizer: Optimizer | None = None,
        update: OptimizerState | None = None,
    ) -> None:
        self.instance = instance
        self.optimizer = optimizer
        self._native = native
        self._executable = executable
        self._call = native.call
        self._random = instance.group("random").get("random")
        self._update = update

    def make(self, arrays: dict[str, object], seed: int, step: int) -> dict[str, float] | None:
        """Make it; None where it has to go the general way, which says what is wrong, if anything is.

        Raises :class:`ConcatcError` where a kernel fails.
        """
        update = self._update
        if update is not None:
            update.write_scalars()
        if self._random is not None:
            self._random[:] = seed, step
        results = self._call(arrays)
        if isinstance(results, int):
            raise self._native.failure(results)
        if results is None:
            return None
        self.instance.executable = self._executable  # a backward pass is of the plan of its forward pass
        if update is not None:
            update.steps += 1
        return results


def call_spec(interface: Interface, checks: Iterable[IndexCheck], phases: tuple[str, ...]) -> CallSpec:
    """A call that takes all inputs of a phase; one with a backward pass gives the losses, the total as ``"loss"``."""
    slots = {key.partition(":"): slot for key, slot in interface.slots.items()}
    results = ("total", "loss") if "backward" in phases else ()
    return CallSpec(
        phases,
        {name: slot for (kind, _, name), slot in slots.items() if kind == "input"},
        tuple(_bounds(interface, check) for check in checks),
        {name: slot for of in results for (kind, _, name), slot in slots.items() if kind == of},
        "outputs" if interface.staged else None,
    )


def _bounds(interface: Interface, check: IndexCheck) -> Bounds:
    window = interface.slots[interface_key(check.kind, check.name)]
    every = ((0, math.prod(window.shape), 1),)
    ranges = every if check.positions is None else tuple(ranges_of(check.positions))
    return Bounds(window, ranges, check.extent, check.ignored)
