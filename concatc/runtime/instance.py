"""One phase of a net at one choice of dims, ready to run: its code, and how arrays get in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from concatc.loops.memory import Array, allocate, view
from concatc.loops.plan import interface_key
from concatc.runtime.index_check import check_indices
from concatc.runtime.optimizers import OptimizerState
from concatc.runtime.pool import Pool
from concatc.runtime.source import Phase, Source
from concatc.runtime.store import Store
from concatc.targets import Executable

OWN_BASES = ("inputs", "outputs")


class Instance:
    """Runs one phase at one choice of dims on the memory of a store (shared) and a pool (the phase's own)."""

    def __init__(self, source: Source, phase: Phase, store: Store, pool: Pool) -> None:
        self.source = source
        self.phase = phase
        self.lowered = source.phase(phase)
        self.signature = self.lowered.signature
        self.interface = self.lowered.interface
        self.shapes = {name: spec.type.shape for name, spec in self.signature.inputs.items()}
        self.output_grads = self.names("output_grad")
        self.checks = self.lowered.index_checks
        self.executable: Executable | None = None  # the one that ran last
        self._store = store
        self._pool = pool
        self._pool_version = -1
        self._bases: dict[str, Array] = {}
        self._views: dict[str, Array] = {}
        self._executables: dict[tuple[object, ...] | None, Executable] = {}
        self._optimizer_bases: dict[Executable, Array] = {}
        self._stamps: list[tuple[str, Array]] | None = None

    @property
    def size_bytes(self) -> dict[str, int]:
        """Bytes of the bases that are this plan's own."""
        sizes = {name: self.interface.bases[name].size_bytes for name in OWN_BASES}
        if self.source.target.runs_plan:
            sizes["arena"] = self.lowered.arena_bytes
        return sizes

    @property
    def built(self) -> tuple[tuple[object, ...] | None, ...]:
        """The kinds of update that there is code with; None is code without one."""
        return tuple(self._executables)

    def build(self, update: OptimizerState | None) -> Executable:
        """The code, with an optimizer's update where one is given; compiled once for each kind of update."""
        key = update.key if update is not None else None
        if key is None and self._executables:
            return next(reversed(self._executables.values()))
        if key not in self._executables:
            self._executables[key] = self.source.executable(self.phase, update)
            # Code with an update has a base for it in every phase.
            self._optimizer_bases[self._executables[key]] = allocate(0) if update is None else update.base
        return self._executables[key]

    def run(self, phase: str, executable: Executable, update: OptimizerState | None = None) -> None:
        """Run launches of a phase of the plan."""
        self._claim()
        self._bases["optimizer"] = self._optimizer_bases[executable] if update is None else update.base
        if self._stamps is None:
            executable.run(self._bases, phase)
        else:
            self._stamps.append((phase, executable.run_timed(self._bases, phase)))
        self.executable = executable

    @contextmanager
    def timed(self) -> Iterator[list[tuple[str, Array]]]:
        """Run with a clock: the list gets of each run in here its phase, and when it began and each launch was done.

        Times are nanoseconds.
        """
        self._stamps = []
        try:
            yield self._stamps
        finally:
            self._stamps = None

    def write_inputs(self, arrays: Mapping[str, Array]) -> None:
        """Check labels and indices, then copy the arrays to where the plan reads them."""
        check_indices(self.checks, {"input": arrays, "state": self._store.states})
        self._claim()
        if self.interface.staged:
            # They lie among outputs: an array that views outputs is taken before they are written.
            own = self._bases["outputs"]
            arrays = {name: a.copy() if np.may_share_memory(a, own) else a for name, a in arrays.items()}
        for name, array in arrays.items():
            self._view("input", name)[...] = array

    def write(self, kind: str, name: str, value: object) -> None:
        """Set an argument that is no input (weights of losses, random state), where the net has it."""
        if interface_key(kind, name) in self.interface.slots:
            self._claim()
            self._view(kind, name)[...] = value

    def read(self, kind: str, name: str) -> Array:
        """A view of a result; lives until the next run of this phase."""
        self._claim()
        return self._view(kind, name)

    def names(self, kind: str) -> list[str]:
        """The arguments and results of a kind."""
        prefix = f"{kind}:"
        return [key.removeprefix(prefix) for key in self.interface.slots if key.startswith(prefix)]

    def _view(self, kind: str, name: str) -> Array:
        key = interface_key(kind, name)
        if key not in self._views:
            slot = self.interface.slots[key]
            self._views[key] = view(self._bases[slot.base], slot)
        return self._views[key]

    def _claim(self) -> None:
        """Take the memory of the pool for this plan; another plan may have made it grow."""
        if self._pool_version == self._pool.version:
            return
        self._pool.reserve(self.size_bytes)
        self._bases = {**self._store.bases, **self._pool.bases}
        self._views = {}
        self._pool_version = self._pool.version
