"""Where the bases of a net lie: in the host's memory, or on a device with an array here that stands for each.

a run      reads and writes bases where they lie
a caller   reads and writes arrays; it says so before, so that both hold the same bytes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from concatc.loops import memory
from concatc.loops.memory import Array
from concatc.loops.plan import Window


@dataclass(frozen=True)
class DeviceArray:
    """A caller's array on a device, its elements in order; ``owner`` keeps it there."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Memory(Protocol):
    """Makes bases, and keeps the arrays that stand for them here in step with them."""

    def allocate_all(self, size_bytes: Mapping[str, int], what: str) -> dict[str, Array]:
        """Zeroed bases by name, as ``uint8`` arrays; raises :class:`UsageError` where there is no memory for all."""
        ...

    def check_free(self, size_bytes: Mapping[str, int], what: str, notes: tuple[str, ...] = ()) -> None:
        """Raise :class:`UsageError` where :meth:`allocate_all` would find no memory; ``notes`` go with the message."""
        ...

    def before_read(self, base: Array, window: Window | None = None) -> None:
        """A window of a base, or all of it, is going to be read here."""
        ...

    def before_write(self, base: Array, window: Window | None = None) -> None:
        """All of a window of a base, or of the base, is going to be written here."""
        ...

    def lend(self, base: Array, window: Window, view: Array) -> Array:
        """A view of a dense window for a user, who may read and write it as long as it lives; ``view`` is ours."""
        ...

    def device_array(self, given: object) -> DeviceArray | None:
        """What a caller gives as an array on this memory's device; None where it is none, or lies on the host.

        Raises TypeError for an array of a device that cannot be read.
        """
        ...

    def put(self, base: Array, window: Window, array: DeviceArray) -> None:
        """Copy an array to a dense window of its shape and type; the array must stay until the next wait."""
        ...

    def fetch(self, array: DeviceArray) -> Array:
        """A copy here."""
        ...


class HostMemory:
    """Memory of the host: runs and callers share it."""

    def allocate_all(self, size_bytes: Mapping[str, int], what: str) -> dict[str, Array]:
        """See :class:`Memory`."""
        return memory.allocate_all(size_bytes, what)

    def check_free(self, size_bytes: Mapping[str, int], what: str, notes: tuple[str, ...] = ()) -> None:
        """See :class:`Memory`."""
        memory.check_free(size_bytes, what, notes)

    def before_read(self, base: Array, window: Window | None = None) -> None:
        """Nothing is to be done."""

    def before_write(self, base: Array, window: Window | None = None) -> None:
        """Nothing is to be done."""

    def lend(self, base: Array, window: Window, view: Array) -> Array:
        """The view itself."""
        return view

    def device_array(self, given: object) -> None:
        """What lies on a device is not read."""
        return

    def put(self, base: Array, window: Window, array: DeviceArray) -> None:
        """There is no such array."""
        raise AssertionError("an array of a device in memory of the host")

    def fetch(self, array: DeviceArray) -> Array:
        """There is no such array."""
        raise AssertionError("an array of a device in memory of the host")


HOST = HostMemory()
