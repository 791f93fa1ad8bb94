"""Parameters, gradients and states: the memory that all phases and batch sizes of a net share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from concatc.loops.bases import Interface
from concatc.loops.memory import Array, view
from concatc.loops.plan import Window, interface_key
from concatc.runtime.init import initialise
from concatc.runtime.signature import Signature
from concatc.targets.memory import Memory

SHARED_BASES = ("params", "grads", "states")


class Store:
    """One block each for parameters, gradients and states, in language layout, allocated once."""

    def __init__(self, signature: Signature, interface: Interface, memory: Memory) -> None:
        self.memory = memory
        self.signature = signature
        self.interface = interface
        sizes = {name: interface.bases[name].size_bytes for name in SHARED_BASES}
        self.bases = memory.allocate_all(sizes, "parameters, gradients and states")
        self.params = self._views("param", signature.params)
        self.grads = self._views("grad", signature.params)
        self.states = self._views("state", signature.states)

    def window(self, kind: str, name: str) -> Window:
        """Where an argument lies."""
        return self.interface.slots[interface_key(kind, name)]

    def initialise(self, seed: int) -> None:
        """Give every parameter and state its first value; gradients become 0."""
        self.before_write()
        for name, parameter in self.signature.params.items():
            initialise(self.params[name], parameter.init, name, seed, parameter.fan_in)
        for name, state in self.signature.states.items():
            initialise(self.states[name], state.init, name, seed)
        self.bases["grads"][...] = 0

    def before_read(self, *names: str) -> None:
        """Bases, or all of them, are going to be read."""
        for name in names or SHARED_BASES:
            self.memory.before_read(self.bases[name])

    def before_write(self, *names: str) -> None:
        """All of these bases are going to be written, or hold what was read."""
        for name in names or SHARED_BASES:
            self.memory.before_write(self.bases[name])

    def lent(self, kind: str) -> Mapping[str, Array]:
        """Views for a user of all parameters (``param``), gradients (``grad``) or states (``state``)."""
        return _Lent(self, kind)

    def views(self, kind: str) -> Mapping[str, Array]:
        """The arrays of a kind, which hold what was fetched."""
        return {"param": self.params, "grad": self.grads, "state": self.states}[kind]

    def fetch(self, kind: str, name: str) -> None:
        """Have the array of a name hold what is there now."""
        window = self.window(kind, name)
        self.memory.before_read(self.bases[window.base], window)

    def _views(self, kind: str, names: Mapping[str, object]) -> dict[str, Array]:
        slots = {name: self.interface.slots.get(interface_key(kind, name)) for name in names}
        return {name: view(self.bases[slot.base], slot) for name, slot in slots.items() if slot is not None}


class _Lent(Mapping[str, Array]):
    """Views of a store by name, each lent when it is asked for."""

    def __init__(self, store: Store, kind: str) -> None:
        self._store, self._kind, self._views = store, kind, store.views(kind)

    def __getitem__(self, name: str) -> Array:
        window = self._store.window(self._kind, name)
        return self._store.memory.lend(self._store.bases[window.base], window, self._views[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)
