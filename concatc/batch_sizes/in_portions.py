"""Runs inference some rows at a time, where the arena of all rows is larger than what caches hold.

    128 images, an arena of 25 MiB    ->    8 portions of 16 images, an arena of 3 MiB, which stays in the cache

A net at another batch size is another table over the same code, so a portion is that; results have the bits that they
have without portions.  How many rows a portion has follows from sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar, cast, runtime_checkable

from concatc.loops.bases import Interface
from concatc.runtime.source import Phase
from concatc.targets.cpu.portions import Portion, table_of
from concatc.targets.cpu.step import StepNumbers

if TYPE_CHECKING:
    # What is read off the cache runs without these, as long as all rows are one portion.
    from concatc.loops.scaled_layout import Layout
    from concatc.loops.scaled_slots import ScaledSlots
    from concatc.targets.cpu.scaled_step import ScaledStep

# What the arena of a portion may take for each thread.
NEAR_BYTES = 4 << 20
# Parameters are read again for each portion: its arena is no smaller than such a part of them.
OF_PARAMS = 2


class Scaled(Protocol):
    """A phase at any sizes (`rescale.ScaledPhase`)."""

    @property
    def by_rows(self) -> bool:
        """Whether each row of its results is made of the same row of its inputs alone."""
        ...

    @property
    def here(self) -> Mapping[str, int]:
        """The dims that may vary, as they are."""
        ...

    @property
    def layout(self) -> Layout:
        """Where blocks lie."""
        ...

    @property
    def slots(self) -> ScaledSlots:
        """Where arguments and results lie."""
        ...

    @property
    def step(self) -> ScaledStep:
        """The table of launches."""
        ...

    def knows(self, dims: Mapping[str, int]) -> bool:
        """Whether nobody has to look at the graph at these dims."""
        ...


@runtime_checkable
class Portionable(Protocol):
    """Code that can run another table."""

    table: StepNumbers

    def in_portions(self, made: Callable[[int], StepNumbers | None]) -> Portionable:
        """The same code, run by the table that is made for a number of threads, where there is one."""
        ...


E = TypeVar("E")


def in_portions(code: E, phase: Phase, scaled: Callable[[], Scaled | None], interface: Callable[[], Interface]) -> E:
    """The code of a phase, run in portions where that pays; what says how is asked for when the code first runs."""
    if phase != "infer" or not isinstance(code, Portionable):
        return code
    table = code.table

    def made(threads: int) -> StepNumbers | None:
        near = _near(table, threads)
        if dict(table.bases).get("arena", 0) <= near:
            return None
        found = scaled()
        return None if found is None else _portions(found, table, interface(), threads, near)

    return cast(E, code.in_portions(made))


def _near(table: StepNumbers, threads: int) -> int:
    return max(NEAR_BYTES * threads, dict(table.bases).get("params", 0) // OF_PARAMS)


def _portions(scaled: Scaled, table: StepNumbers, home: Interface, threads: int, near: int) -> StepNumbers | None:
    """The table of all portions; None where the net is not run row by row, or a portion would be all of it."""
    if not scaled.by_rows or home.staged or len(scaled.here) != 1:
        return None
    rows = _rows_of(home)
    most = _most(scaled, rows, threads, near)
    if most >= rows:
        return None
    made: dict[int, tuple[StepNumbers, Interface]] = {}
    portions: list[Portion] = []
    for first in range(0, rows, most):
        count = min(most, rows - first)
        if count not in made:
            if not scaled.knows(dict.fromkeys(scaled.here, count)):
                return None
            at = scaled.layout.at([count])
            made[count] = scaled.step.at([count], at), scaled.slots.at([count], at)
        numbers, interface = made[count]
        portions.append(Portion(numbers, interface.slots, first, count))
    return table_of(table, home.slots, rows, portions, scaled.step.offsets)


def _rows_of(home: Interface) -> int:
    """How many rows a net has: those of its outputs."""
    return next(slot.shape[0] for key, slot in home.slots.items() if key.startswith("output:"))


def _most(scaled: Scaled, rows: int, threads: int, near: int) -> int:
    """How many rows a portion has: as many as the arena has room for nearby, in portions of about one size."""
    most = threads
    while most < rows and scaled.layout.at([2 * most]).size_bytes["arena"] <= near:
        most *= 2
    even = -(-rows // -(-rows // most))
    return min(most, -(-even // threads) * threads)
