"""Copies that run behind a thread's back: from global to shared memory, in groups that the thread waits for.

copy_async(shared, place, x, i, there)     begins; nothing may touch shared[place] now
commit_copies()                            those begun so far are a group
wait_for_copies()                          all groups of this thread are there; others see them behind a barrier
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from concatc.targets.cuda.emulator.arithmetic import OperandError, Value
from concatc.targets.cuda.emulator.machine import Machine
from concatc.targets.cuda.emulator.memory import Memory

Array = np.ndarray[Any, Any]
FOUR = 4


@dataclass
class Copy:
    """What some lanes copy: elements, and where to; ``committed`` says which of them made a group of it."""

    memory: Memory
    lanes: Array
    place: Array
    elements: Array
    committed: Array


def copy_async(machine: Machine, shared: Memory, place: Value, memory: Memory, index: Value, there: Value) -> None:
    """Begin to copy in the active lanes."""
    if shared.written is None or memory.written is not None or shared.dtype != memory.dtype:
        raise OperandError(f"a copy from {memory.name} to {shared.name}: from global to shared memory, of one type")
    before = machine.mask
    machine.mask, any_there = machine.narrowed(there.astype(np.bool_))
    elements = np.zeros(machine.lanes.count, shared.dtype)
    if any_there:
        taken = machine.active_lanes
        elements[taken] = machine.everywhere(memory.load(machine, index))[taken]
    machine.mask = before
    lanes = machine.active_lanes
    machine.copies.append(
        Copy(shared, lanes, shared.begin_copy(machine, place), elements[lanes], np.zeros(len(lanes), np.bool_))
    )


def copy_four(machine: Machine, shared: Memory, place: Value, memory: Memory, index: Value, there: Value) -> None:
    """Begin to copy four elements in the active lanes."""
    for side, at in ((shared, place), (memory, memory.start + index)):
        size = FOUR * side.dtype.itemsize
        wrong = (at % FOUR != 0) | (side.alignment % size != 0)
        machine.forbid("alignment", f"copies {size} bytes of {side.name} at no multiple of as many", np.asarray(wrong))
    for k in range(FOUR):
        copy_async(machine, shared, place + np.int64(k), memory, index + np.int64(k), there)


def commit_copies(machine: Machine) -> None:
    """What the active lanes have begun is a group."""
    here = machine.everywhere(np.bool_(True)) if machine.mask is None else machine.mask
    for copy in machine.copies:
        copy.committed |= here[copy.lanes]


def wait_for_copies(machine: Machine) -> None:
    """The groups of the active lanes end."""
    before = machine.mask
    here = machine.everywhere(np.bool_(True)) if before is None else before
    waiting = []
    for copy in machine.copies:
        done = copy.committed & here[copy.lanes]
        copy.memory.end_copy(machine, copy.lanes[done], copy.place[done], copy.elements[done])
        if not done.all():
            rest = ~done
            waiting.append(
                Copy(copy.memory, *(v[rest] for v in (copy.lanes, copy.place, copy.elements, copy.committed)))
            )
    machine.copies = waiting


def require_none(machine: Machine) -> None:
    """A kernel ends when all that it copies is there."""
    if machine.copies:
        lanes = machine.copies[0].lanes
        machine.forbid_in(lanes, "copy", "ends before what it copies is there", np.ones(len(lanes), np.bool_))
