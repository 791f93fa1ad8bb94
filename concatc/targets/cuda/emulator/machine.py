"""The state of the threads that run together: values of names, which threads are active, barriers passed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from concatc.diagnostics import Loc
from concatc.targets.cuda.emulator.arithmetic import Value
from concatc.targets.cuda.emulator.fault import KernelFault
from concatc.targets.cuda.emulator.lanes import Lanes
from concatc.targets.cuda.emulator.races import stamps

if TYPE_CHECKING:
    from concatc.targets.cuda.emulator.copies import Copy

Array = np.ndarray[Any, Any]


class Machine:
    """Some blocks of one launch of a kernel.

    ``mask`` says which lanes are active, None where all are.  A name that was given a value in some lanes only is in
    ``partial``.  ``copies`` are those that run behind the threads' backs.  ``loc`` is the line that runs.
    """

    def __init__(self, kernel: str, source: str, file: str, lanes: Lanes, grid: int) -> None:
        self.kernel = kernel
        self.source = source
        self.loc = Loc(file, 1, 1)
        self.lanes = lanes
        self.grid = grid
        self.mask: Array | None = None
        self.values: dict[str, Any] = {}
        self.partial: dict[str, Array] = {}
        self.copies: list[Copy] = []
        self.barriers = np.zeros(lanes.blocks, np.int64)
        self.stamps = stamps(lanes.number, self.barriers[:1])

    # -- lanes -----------------------------------------------------------------------------------------------------
    @property
    def active_lanes(self) -> Array:
        """The active lanes."""
        return np.arange(self.lanes.count) if self.mask is None else np.flatnonzero(self.mask)

    def everywhere(self, value: Value) -> Array:
        """A value as a vector over all lanes."""
        return value if np.ndim(value) else np.full(self.lanes.count, value)

    def active(self, value: Value) -> Array:
        """A value as a vector over the active lanes."""
        full = self.everywhere(value)
        return full if self.mask is None else full[self.mask]

    def narrowed(self, condition: Value) -> tuple[Array | None, bool]:
        """The mask of the active lanes where a condition holds, and whether there are any."""
        if np.ndim(condition) == 0:
            return self.mask, bool(condition)
        mask: Array = condition if self.mask is None else self.mask & condition
        if mask.all():
            return None, True
        return mask, bool(mask.any())

    # -- names -----------------------------------------------------------------------------------------------------
    def get(self, name: str) -> Any:
        """The value of a name."""
        if name not in self.values:
            self.fail("uninitialised", f"`{name}` has no value")
        if name in self.partial:
            self.forbid("uninitialised", f"`{name}` was given no value in this thread", ~self.partial[name])
        return self.values[name]

    def set(self, name: str, value: Any) -> None:
        """Give a name a value in the active lanes."""
        if self.mask is None or not isinstance(value, np.generic | np.ndarray):
            self.values[name] = value
            self.partial.pop(name, None)
            return
        old = self.values.get(name)
        if old is None or old.dtype != value.dtype:
            # Of another type, it is another variable of that name: the other threads have none.
            self.values[name] = value
            self.partial[name] = self.mask
            return
        self.values[name] = np.where(self.mask, value, old)
        if name in self.partial:
            self.partial[name] = self.partial[name] | self.mask

    # -- barriers --------------------------------------------------------------------------------------------------
    def barrier(self) -> None:
        """All threads of each block that is here meet."""
        here: Array = np.ones(self.lanes.blocks, np.bool_)
        if self.mask is not None:
            rows = self.mask.reshape(self.lanes.blocks, self.lanes.threads)
            here = np.asarray(rows.any(axis=1))
            missing = (here[:, None] & ~rows).reshape(-1)
            if missing.any():
                self._fail_at(int(np.argmax(missing)), "barrier", "does not reach the barrier that others wait at")
        self.barriers += here
        self.stamps = stamps(self.lanes.number, np.repeat(self.barriers, self.lanes.threads))

    # -- faults ----------------------------------------------------------------------------------------------------
    def forbid(self, rule: str, message: str, wrong: Value, number: Value | None = None) -> None:
        """Raise where ``wrong`` holds in an active lane; ``number`` is its value for a ``%d`` in the message."""
        if not wrong.any():
            return
        bad = self.everywhere(wrong) if self.mask is None else self.everywhere(wrong) & self.mask
        if not bad.any():
            return
        lane = int(np.argmax(bad))
        self._fail_at(lane, rule, message if number is None else message % int(self.everywhere(number)[lane]))

    def forbid_in(self, lanes: Array, rule: str, message: str, wrong: Array) -> None:
        """Raise where ``wrong``, which holds for these lanes, is true."""
        if wrong.any():
            self._fail_at(int(lanes[np.argmax(wrong)]), rule, message)

    def fail(self, rule: str, message: str) -> NoReturn:
        """Raise for all active lanes."""
        self._fail_at(int(self.active_lanes[0]), rule, message)

    def _fail_at(self, lane: int, rule: str, message: str) -> NoReturn:
        block, thread = self.lanes.where(lane)
        raise KernelFault(rule, message, self.kernel, self.loc, self.source, block, thread)
