"""Parameters, gradients and states: the memory that all phases and batch sizes of a net share."""

from __future__ import annotations

from collections.abc import Mapping

from concatc.loops.bases import Interface
from concatc.loops.memory import Array, allocate_all, view
from concatc.loops.plan import Window, interface_key
from concatc.runtime.init import initialise
from concatc.runtime.signature import Signature

SHARED_BASES = ("params", "grads", "states")


class Store:
    """One block each for parameters, gradients and states, in language layout, allocated once."""

    def __init__(self, signature: Signature, interface: Interface) -> None:
        self.signature = signature
        self.interface = interface
        sizes = {name: interface.bases[name].size_bytes for name in SHARED_BASES}
        self.bases = allocate_all(sizes, "parameters, gradients and states")
        self.params = self._views("param", signature.params)
        self.grads = self._views("grad", signature.params)
        self.states = self._views("state", signature.states)

    def window(self, kind: str, name: str) -> Window:
        """Where an argument lies."""
        return self.interface.slots[interface_key(kind, name)]

    def initialise(self, seed: int) -> None:
        """Give every parameter and state its first value; gradients become 0."""
        for name, parameter in self.signature.params.items():
            initialise(self.params[name], parameter.init, name, seed, parameter.fan_in)
        for name, state in self.signature.states.items():
            initialise(self.states[name], state.init, name, seed)
        self.bases["grads"][...] = 0

    def _views(self, kind: str, names: Mapping[str, object]) -> dict[str, Array]:
        slots = {name: self.interface.slots.get(interface_key(kind, name)) for name in names}
        return {name: view(self.bases[slot.base], slot) for name, slot in slots.items() if slot is not None}
