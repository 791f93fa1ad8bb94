"""Memory as kernels see it: windows of the bases, arrays that the threads of a block share, arrays of one thread.

All three are indexed with one flat index, and know which indices are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from concatc.targets.cuda.emulator.arithmetic import OperandError, Value, cast, either
from concatc.targets.cuda.emulator.races import Accesses

if TYPE_CHECKING:
    from concatc.targets.cuda.emulator.machine import Machine

Array = np.ndarray[Any, Any]


@dataclass
class Shadow:
    """What is noted of a stretch of memory: cell 0 is byte ``begin_bytes``, each has ``cell_bytes``."""

    accesses: Accesses
    begin_bytes: int
    cell_bytes: int


@dataclass
class Memory:
    """``elements[start + index]``, for ``first <= index < end``.

    ``start`` differs by lane where each block or thread has elements of its own.  ``written`` says which elements hold
    something, ``copied`` which are being copied to, ``shadow`` finds races; None where that is not of interest.
    """

    name: str
    elements: Array
    start: Value
    first: int
    end: int
    written: Array | None = None
    shadow: Shadow | None = None
    readonly: bool = False
    copied: Array | None = None
    alignment: int = 64  # in bytes, of element 0 of a base or of an array of its own

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        found: np.dtype[Any] = self.elements.dtype
        return found

    def load(self, machine: Machine, index: Value) -> Value:
        """The elements at an index of each lane."""
        at = self._places(machine, index, "reads")
        if self.copied is not None:
            machine.forbid("copy", f"reads an element of {self.name} that is still being copied", self.copied[at])
        if self.written is not None:
            machine.forbid("uninitialised", f"{self.name} is read where nothing was written", ~self.written[at])
        if self.shadow is not None:
            cells, by, lanes = self._cells(machine, self.shadow, at)
            race = self.shadow.accesses.load(cells, by)
            machine.forbid_in(lanes, "race", f"reads an element of {self.name} that another thread writes", race)
        return self.elements[at]

    def store(self, machine: Machine, index: Value, value: Value) -> None:
        """Store a value of each lane at an index of each lane."""
        if self.readonly:
            machine.fail("bounds", f"{self.name} is stored to")
        if value.dtype != self.dtype:
            if value.dtype.kind == "f" and self.dtype.kind != "f":
                raise OperandError(f"{value.dtype} is stored in {self.name}, of {self.dtype}")
            value = cast(value, self.dtype)
        at = machine.active(self._places(machine, index, "writes"))
        self._forbid_copied(machine, at)
        self._put(machine, at, machine.active(value))

    def begin_copy(self, machine: Machine, index: Value) -> Array:
        """The places that the active lanes begin to copy to; nothing may touch them until the copy ends."""
        at = machine.active(self._places(machine, index, "copies to"))
        self._forbid_copied(machine, at)
        if self.shadow is not None:
            # The copy may be there at once.
            cells, by, lanes = self._cells(machine, self.shadow, at, chosen=True)
            race = self.shadow.accesses.store(cells, by, np.zeros(len(cells), np.bool_))
            machine.forbid_in(lanes, "race", f"copies to an element of {self.name} that another thread uses", race)
        if self.copied is None:
            self.copied = np.zeros(self.elements.shape, np.bool_)
        twice = np.ones(len(at), np.bool_)
        twice[np.unique(at, return_index=True)[1]] = False
        message = f"copies to an element of {self.name} that another thread copies to"
        machine.forbid_in(machine.active_lanes, "race", message, twice)
        self.copied[at] = True
        return np.asarray(at)

    def end_copy(self, machine: Machine, lanes: Array, at: Array, new: Array) -> None:
        """What these lanes copied to these places is there."""
        assert self.copied is not None
        self.copied[at] = False
        before, machine.mask = machine.mask, np.zeros(machine.lanes.count, np.bool_)
        machine.mask[lanes] = True
        self._put(machine, at, new)
        machine.mask = before

    def _forbid_copied(self, machine: Machine, at: Array) -> None:
        if self.copied is not None:
            message = f"writes an element of {self.name} that is still being copied"
            machine.forbid_in(machine.active_lanes, "copy", message, self.copied[at])

    def _put(self, machine: Machine, at: Array, new: Array) -> None:
        bits, new_bits = _bits(self.elements), _bits(np.ascontiguousarray(new))
        message = f"writes an element of {self.name} that another thread reads or writes"
        if self.shadow is not None:
            cells, by, lanes = self._cells(machine, self.shadow, at, chosen=True)
            same = np.repeat(bits[at] == new_bits, len(cells) // max(len(at), 1))
            machine.forbid_in(lanes, "race", message, self.shadow.accesses.store(cells, by, same))
        self.elements[at] = new
        if self.written is not None:
            self.written[at] = True
        lost = bits[at] != new_bits  # several lanes store other values in one place
        machine.forbid_in(machine.active_lanes, "race", message, lost)

    def _places(self, machine: Machine, index: Value, verb: str) -> Value:
        if index.dtype.kind not in "iu":
            raise OperandError(f"{self.name} is indexed by {index.dtype}")
        wrong = (index < self.first) | (index >= self.end)
        if wrong.any():
            message = f"{verb} element %d of {self.name}, which has {self.first} to {self.end - 1}"
            machine.forbid("bounds", message, wrong, index)
            index = either(wrong, self.first, index)  # of threads that do nothing here
        return self.start + index

    def _cells(self, machine: Machine, shadow: Shadow, at: Value, chosen: bool = False) -> tuple[Array, Array, Array]:
        """The cells of each active lane's element, who accesses them, and the lane."""
        at = at if chosen else machine.active(at)
        lanes, by = machine.active_lanes, machine.active(machine.stamps)
        size = self.elements.itemsize
        cells = (at * size - shadow.begin_bytes) // shadow.cell_bytes
        parts = size // shadow.cell_bytes
        if parts == 1:
            return cells, by, lanes
        return (cells[:, None] + np.arange(parts)).reshape(-1), np.repeat(by, parts), np.repeat(lanes, parts)


def _bits(values: Array) -> Array:
    return values.view(np.dtype(f"uint{8 * values.itemsize}")) if values.dtype.kind == "f" else values


def own_array(
    name: str, numel: int, dtype: np.dtype[Any], starts: Array, owners: int, threads: int, alignment: int = 1
) -> Memory:
    """An array of ``numel`` elements for each of the owners, of which lane ``k``'s begins at ``starts[k]``.

    ``threads`` is the size of a block where its threads share the array, 0 where each has its own.
    """
    elements = np.zeros(numel * owners, dtype)
    elements.view(np.uint8)[...] = 0xA5
    written = np.zeros(elements.shape, np.bool_)
    shadow = Shadow(Accesses(elements.size, threads), 0, dtype.itemsize) if threads else None
    return Memory(name, elements, starts, 0, numel, written, shadow, alignment=alignment)
