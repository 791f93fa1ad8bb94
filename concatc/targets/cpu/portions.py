"""A table that runs one portion of the rows after the other: what a launch stores the next one finds in the cache.

    64 images, 30 launches    ->    30 launches on images 0 .. 4, 30 on images 4 .. 8, .., all in the same arena

Where each row of the results is made of the same row of the inputs alone, a plan of a few rows may run many times.  Its
arguments and results lie at other rows of the same inputs and outputs each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.plan import Window
from concatc.targets.cpu.step import Ints, StepNumbers

OWN = ("inputs", "outputs")  # bases whose slots hold all rows
Slots = Mapping[str, Window]


@dataclass(frozen=True)
class Portion:
    """The launches on some of the rows, as a net of so many rows has them, and where its arguments and results lie."""

    table: StepNumbers
    slots: Slots
    first: int
    rows: int


def table_of(
    home: StepNumbers, slots: Slots, rows: int, portions: Sequence[Portion], offsets: Ints
) -> StepNumbers | None:
    """The launches of all portions, on the bases of ``home``, which has ``rows`` rows in its ``slots``.

    ``offsets`` are where offsets of windows that move with the rows stand among the numbers of a table.  None where a
    slot has no rows of its own, or where there is no room for a portion.
    """
    moved = [_moved(home, slots, rows, portion, offsets) for portion in portions]
    tables = [table for table in moved if table is not None]
    if len(tables) < len(portions):
        return None
    starts = np.cumsum([0, *(len(table.numbers) for table in tables)])[:-1]
    return replace(
        home,
        kernels=tuple(kernel for table in tables for kernel in table.kernels),
        phases=tuple(phase for table in tables for phase in table.phases),
        numbers=np.concatenate([table.numbers for table in tables]),
        windows_at=np.concatenate([table.windows_at + at for table, at in zip(tables, starts, strict=True)]),
        sizes_at=np.concatenate([table.sizes_at + at for table, at in zip(tables, starts, strict=True)]),
        rest=np.concatenate([table.rest for table in tables]),
    )


def _moved(home: StepNumbers, slots: Slots, rows: int, portion: Portion, offsets: Ints) -> StepNumbers | None:
    """The table of a portion, its windows of arguments and results where those of all rows lie."""
    table = portion.table
    room, needed = dict(home.bases), dict(table.bases)
    fits = all(name in OWN or size_bytes <= room.get(name, -1) for name, size_bytes in table.bases)
    if table.kernels != home.kernels or list(needed) != list(room) or not fits:
        return None
    numbers = table.numbers.copy()
    bases = numbers[offsets - 1]
    for number, (base, _) in enumerate(table.bases):
        if base not in OWN:
            continue
        mine = offsets[bases == number]
        at = numbers[mine]
        found = np.zeros(len(mine), bool)
        for key, slot in portion.slots.items():
            if slot.base != base:
                continue
            inside = (at >= slot.offset_bytes) & (at < max(slot.end_bytes, slot.offset_bytes + 1))
            by = _distance(slot, slots[key], rows, portion)
            if by is None and inside.any():
                return None
            numbers[mine[inside]] += by or 0
            found |= inside
        if not found.all():
            return None
    return replace(table, numbers=numbers)


def _distance(slot: Window, whole: Window, rows: int, portion: Portion) -> int | None:
    """How far the first row of a portion lies from the slot that it has alone; None where a slot has no rows."""
    if not slot.shape or (slot.shape[0], whole.shape[0]) != (portion.rows, rows):
        return None
    if slot.shape[1:] != whole.shape[1:] or slot.strides != whole.strides:
        return None
    step = whole.strides[0] * ELEMENT_BYTES[whole.dtype]
    return whole.offset_bytes - slot.offset_bytes + portion.first * step
