"""The target ``reference``: the joint graph, op by op in NumPy, on the same bases as every other target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.core import FuncOp
from concatc.loops.bases import argument_key, result_keys
from concatc.loops.memory import Array, view
from concatc.loops.plan import Plan
from concatc.passes.graph import OUTPUT_GRAD
from concatc.targets import NOTHING, Beside, Lowered, Peaks
from concatc.targets.call import CallSpec, NativeCall
from concatc.targets.memory import HOST, HostMemory
from concatc.targets.reference.interpreter import run_function

NO_LAUNCHES = Diagnostic(
    "the target `reference` runs the joint graph op by op: it has no kernels to measure", help="the target cpu has"
)


@dataclass(frozen=True)
class ReferenceTarget:
    """NumPy; defines what a net means."""

    name: str = "reference"
    runs_plan: bool = False
    serves_sizes: bool = False

    def build(self, lowered: Lowered, beside: Beside = NOTHING) -> ReferenceExecutable:
        """Nothing is compiled."""
        beside.meanwhile()
        return ReferenceExecutable(lowered)

    def memory(self) -> HostMemory:
        """See :class:`concatc.targets.Target`."""
        return HOST

    def peaks(self, again: bool = False) -> Peaks:
        """See :class:`concatc.targets.Target`."""
        raise UsageError(NO_LAUNCHES)


class ReferenceExecutable:
    """Runs the joint graph of a net.

    ``forward`` computes gradients too, from the parameters as they are then, and ``backward`` hands them out; so both
    may be called apart, as with any target.  Where gradients of outputs are given in between, ``backward`` computes
    them anew, from what ``forward`` read.
    """

    def __init__(self, lowered: Lowered) -> None:
        self._joint = lowered.joint
        self._update = lowered.update
        self._windows = lowered.interface.slots
        self._gradients: dict[str, Array] = {}
        self._given_later = [k for k, arg in enumerate(self._net.args) if arg.attrs.get("cnet.kind") == OUTPUT_GRAD]
        self._read: list[Array] = []

    @property
    def _net(self) -> FuncOp:
        return self._joint.main

    def thread_bytes(self, threads: int) -> int:
        """Nothing is run by several threads."""
        return 0

    def run(self, bases: Mapping[str, Array], phase: str, threads: int = 1) -> None:
        """See :class:`concatc.targets.Executable`."""
        if phase in ("forward", "step"):
            self._forward(bases)
        if phase == "backward" and self._given_later:
            self._compute_again(bases)
        if phase in ("backward", "step"):
            self._write(bases, self._gradients)
        if phase in ("update", "step") and self._update is not None:
            _run_launches(self._update, bases)

    def run_timed(self, bases: Mapping[str, Array], phase: str, clock: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """See :class:`concatc.targets.Executable`."""
        raise UsageError(NO_LAUNCHES)

    @property
    def launches(self) -> tuple[tuple[str, str], ...]:
        """It has none."""
        return ()

    def shared(self, threads: int) -> tuple[float, ...]:
        """It has no launches."""
        return ()

    def native_call(self, bases: Mapping[str, Array], spec: CallSpec, threads: int = 1) -> NativeCall | None:
        """It runs in Python."""
        return None

    def text(self, what: str) -> str:
        """See :class:`concatc.targets.Executable`."""
        raise UsageError(f"the target `reference` runs the joint graph; it has no {what}")

    def _forward(self, bases: Mapping[str, Array]) -> None:
        arguments = [self._view(bases, argument_key(a)) for a in self._net.args]
        if self._given_later:
            self._read = [np.array(a) for a in arguments]
        by_key = self._compute(arguments)
        self._write(bases, {key: value for key, value in by_key.items() if key not in self._gradients})

    def _compute_again(self, bases: Mapping[str, Array]) -> None:
        for k in self._given_later:
            self._read[k] = np.array(self._view(bases, argument_key(self._net.args[k])))
        self._compute(self._read)

    def _compute(self, arguments: list[Array]) -> dict[str, Array]:
        results = run_function(self._net, arguments, module=self._joint)
        by_key = {key: np.array(value) for key, value in zip(result_keys(self._net), results, strict=True)}
        self._gradients = {key: value for key, value in by_key.items() if key.partition(":")[0].endswith("grad")}
        return by_key

    def _view(self, bases: Mapping[str, Array], key: str) -> Array:
        window = self._windows[key]
        return view(bases[window.base], window)

    def _write(self, bases: Mapping[str, Array], values: Mapping[str, Array]) -> None:
        for key, value in values.items():
            self._view(bases, key)[...] = value


def _run_launches(plan: Plan, bases: Mapping[str, Array]) -> None:
    for launch in plan.launches:
        reads = [np.array(view(bases[window.base], window)) for window in launch.reads]
        for window, value in zip(launch.writes, run_function(plan.kernels[launch.kernel], reads), strict=True):
            view(bases[window.base], window)[...] = value
