"""One phase of a net at one choice of dims, ready to run: its code, and how arrays get in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from concatc.ir.comments import bytes_text
from concatc.ir.types import dense_strides
from concatc.loops.bases import Interface
from concatc.loops.memory import Array, allocate, view
from concatc.loops.plan import interface_key
from concatc.runtime.index_check import check_indices
from concatc.runtime.inputs import Given
from concatc.runtime.optimizers import OptimizerState
from concatc.runtime.pool import THREADS, Pool
from concatc.runtime.prepared import call_spec
from concatc.runtime.source import Phase, Source
from concatc.runtime.store import Store
from concatc.targets import Executable
from concatc.targets.call import NativeCall
from concatc.targets.memory import HOST, DeviceArray

OWN_BASES = ("inputs", "outputs")
# Native calls by phases and code, with what stands for the memory that they were made for: the views of it.
Calls = dict[tuple[tuple[str, ...], Executable], tuple[dict[str, Array], NativeCall | None]]


class Instance:
    """Runs one phase at one choice of dims on the memory of a store (shared) and a pool (the phase's own)."""

    def __init__(self, source: Source, phase: Phase, store: Store, pool: Pool, threads: int = 1) -> None:
        self.source = source
        self.phase = phase
        self.threads = threads
        self.lowered = source.phase(phase)
        self.signature = self.lowered.signature
        self.interface = self.lowered.interface  # as the code has it that runs
        self.shapes = {name: spec.type.shape for name, spec in self.signature.inputs.items()}
        self.output_grads = self.names("output_grad")
        self.checks = self.lowered.index_checks
        self.executable: Executable | None = None  # the one that ran last
        self._store = store
        self._pool = pool
        self._pool_version = -1
        self._bases: dict[str, Array] = {}
        self._views: dict[str, Array] = {}
        self._groups: dict[str, dict[str, Array]] = {}
        self._executables: dict[tuple[object, ...] | None, Executable] = {}
        self._interfaces: dict[Executable, Interface] = {}
        self._optimizer_bases: dict[Executable, Array] = {}
        self._stamps: list[tuple[str, Array]] | None = None
        self._clock = 0
        self._calls: Calls = {}  # on the memory of now

    @property
    def size_bytes(self) -> dict[str, int]:
        """Bytes of the bases that are this plan's own."""
        sizes = {name: self.interface.bases[name].size_bytes for name in OWN_BASES}
        if self.source.target.runs_plan:
            sizes["arena"] = self.lowered.arena_bytes
        return sizes

    def check_memory(self) -> None:
        """Raise :class:`UsageError` where there is no memory to run it: before it is compiled and anything is taken."""
        at = ", ".join(f"{name}={n}" for name, n in self.source.dims.items())
        shared = sum(base.nbytes for base in self._store.bases.values())
        need = bytes_text(sum(self.size_bytes.values()) + shared)
        what = "training" if self.phase == "train" else "inference"
        self._pool.check_free(
            self.size_bytes,
            f"{what} of net {self.source.name}({at}) needs {need} in all, with parameters, gradients and states",
        )

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
            executable = self._executables[key] = self.source.executable(self.phase, update)
            self._interfaces[executable] = self.source.interface(self.phase, update)
            # Code with an update has a base for it in every phase.
            self._optimizer_bases[executable] = allocate(0) if update is None else update.base
        return self._executables[key]

    def use(self, executable: Executable) -> bool:
        """Have arguments and results where that code reads and writes them; whether these are other places."""
        if self._interfaces[executable] is self.interface:
            return False
        self.interface = self._interfaces[executable]
        self._pool_version = -1  # its bases may be larger, and views of others are of no use
        return True

    def run(self, phase: str, executable: Executable, update: OptimizerState | None = None) -> None:
        """Run launches of a phase of the plan."""
        self._claim()
        self._bases["optimizer"] = self._optimizer_bases[executable] if update is None else update.base
        if self._stamps is None:
            self._bases[THREADS] = self._pool.of_threads(executable.thread_bytes(self.threads))
            executable.run(self._bases, phase, self.threads)
        else:
            self._stamps.append((phase, executable.run_timed(self._bases, phase, self._clock)))
        self.executable = executable

    @property
    def is_timed(self) -> bool:
        """Whether it runs with a clock now."""
        return self._stamps is not None

    @contextmanager
    def timed(self, clock: int) -> Iterator[list[tuple[str, Array]]]:
        """Run with a clock of the system's; the list gets of each run in here its phase, when it began and when each
        launch was done, in nanoseconds.
        """
        self._stamps, self._clock = [], clock
        try:
            yield self._stamps
        finally:
            self._stamps = None

    def native_call(
        self, phases: tuple[str, ...], executable: Executable, update: OptimizerState | None = None
    ) -> NativeCall | None:
        """Inputs, launches of ``phases`` and losses as one native call, as long as the memory is what it is now."""
        self._claim()
        # What runs an update belongs to its state: it holds the state's memory.
        calls: Calls = self._calls if update is None else update.calls.setdefault(self, {})
        key = (phases, executable)
        found = calls.get(key)
        if found is None or found[0] is not self._views:
            base = self._optimizer_bases[executable] if update is None else update.base
            spec = call_spec(self.interface, self.checks, phases)
            own = self._pool.of_threads(executable.thread_bytes(self.threads))
            bases = {**self._bases, "optimizer": base, THREADS: own}
            found = calls[key] = (self._views, executable.native_call(bases, spec, self.threads))
        return found[1]

    def write_inputs(self, arrays: Mapping[str, Given]) -> None:
        """Check labels and indices, then copy the arrays to where the plan reads them."""
        memory = self._pool.memory
        there = {name: a for name, a in arrays.items() if isinstance(a, DeviceArray) and self._may_stay(name)}
        here = {name: self._here(array) for name, array in arrays.items() if name not in there}
        if any(check.kind == "state" for check in self.checks):
            self._store.before_read("states")
        check_indices(self.checks, {"input": here, "state": self._store.states})
        self._claim()
        if self.interface.staged:
            # They lie among outputs: an array that views outputs is taken before they are written.
            own = self._bases["outputs"]
            here = {name: a.copy() if np.may_share_memory(a, own) else a for name, a in here.items()}
        for name, array in here.items():
            self._to_write("input", name)[...] = array
        for name, held in there.items():
            slot = self.interface.slots[interface_key("input", name)]
            memory.put(self._bases[slot.base], slot, held)

    def _may_stay(self, name: str) -> bool:
        """Whether an array of a device need not come here: nothing compares its elements, and its slot is dense."""
        slot = self.interface.slots[interface_key("input", name)]
        checked = any(check.kind == "input" and check.name == name for check in self.checks)
        return not checked and slot.strides == dense_strides(slot.shape)

    def _here(self, array: Given) -> Array:
        return self._pool.memory.fetch(array) if isinstance(array, DeviceArray) else array

    def write(self, kind: str, name: str, value: object) -> None:
        """Set an argument that is no input (weights of losses, random state), where the net has it."""
        if interface_key(kind, name) in self.interface.slots:
            self._claim()
            self._to_write(kind, name)[...] = value

    def read(self, kind: str, name: str) -> Array:
        """A view of a result; lives until the next run of this phase."""
        self._claim()
        self._before_read(kind, name)
        return self._view(kind, name)

    def group(self, kind: str) -> dict[str, Array]:
        """Views of all results of a kind, by name; they live until the next run of this phase."""
        self._claim()
        if kind not in self._groups:
            self._groups[kind] = {name: self._view(kind, name) for name in self.names(kind)}
        if self._pool.memory is not HOST:
            for name in self._groups[kind]:
                self._before_read(kind, name)
        return self._groups[kind]

    def losses(self) -> dict[str, float]:
        """The weighted total as ``"loss"``, each loss unweighted by its name."""
        return {name: float(view) for name, view in {**self.group("total"), **self.group("loss")}.items()}

    def names(self, kind: str) -> list[str]:
        """The arguments and results of a kind."""
        prefix = f"{kind}:"
        return [key.removeprefix(prefix) for key in self.interface.slots if key.startswith(prefix)]

    def _before_read(self, kind: str, name: str) -> None:
        slot = self.interface.slots[interface_key(kind, name)]
        self._pool.memory.before_read(self._bases[slot.base], slot)

    def _to_write(self, kind: str, name: str) -> Array:
        """The view of a slot that is going to be written, all of it."""
        slot = self.interface.slots[interface_key(kind, name)]
        self._pool.memory.before_write(self._bases[slot.base], slot)
        return self._view(kind, name)

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
        self._groups, self._calls = {}, {}
