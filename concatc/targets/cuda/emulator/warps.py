"""Functions of warps: what 32 threads tell each other without memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from concatc.targets.cuda.emulator.arithmetic import OperandError, Value
from concatc.targets.cuda.emulator.lanes import WARP
from concatc.targets.cuda.emulator.machine import Machine

Array = np.ndarray[Any, Any]
EVERYONE = 0xFFFFFFFF


def _down(thread: Array, delta: Array) -> Array:
    return thread + delta


def _up(thread: Array, delta: Array) -> Array:
    return thread - delta


def _across(thread: Array, bits: Array) -> Array:
    return thread ^ bits


def _of(thread: Array, source: Array) -> Array:
    return source % WARP


# name -> which thread of the warp a thread reads, and whether one beyond the warp means its own.
SHUFFLES: dict[str, tuple[Callable[[Array, Array], Array], bool]] = {
    "shfl_down_sync": (_down, True),
    "shfl_up_sync": (_up, True),
    "shfl_xor_sync": (_across, True),
    "shfl_sync": (_of, False),
}


def shuffle(machine: Machine, name: str, members: Value, value: Value, by: Value) -> Value:
    """The value of another thread of the warp; ``members`` has a bit for each thread that takes part."""
    if members.dtype.kind not in "iu" or by.dtype.kind not in "iu":
        raise OperandError(f"`{name}` is given a mask of {members.dtype} and threads of {by.dtype}")
    lanes = machine.lanes
    thread = lanes.thread.astype(np.int64) % WARP
    bits = machine.everywhere(members.astype(np.int64)) & EVERYONE
    active = machine.everywhere(np.bool_(True)) if machine.mask is None else machine.mask
    named = (bits >> thread) & 1 == 1
    machine.forbid("shuffle", f"takes part in `{name}`, whose mask does not name it", ~named)
    counted = np.zeros(lanes.count, np.int64)
    np.bitwise_or.at(counted, lanes.warp_start, np.where(active, np.int64(1) << thread, 0))
    missing = bits & ~counted[lanes.warp_start]
    machine.forbid("shuffle", f"the mask of `{name}` names threads that do not take part", missing != 0)
    move, own_beyond = SHUFFLES[name]
    source = move(thread, machine.everywhere(by.astype(np.int64)))
    if own_beyond:
        source = np.where((source < 0) | (source >= WARP), thread, source)
    lane = lanes.warp_start + source
    there = (source < lanes.threads - (lanes.warp_start - lanes.local_block * lanes.threads)) & (lane < lanes.count)
    lane = np.where(there, lane, 0)
    machine.forbid("shuffle", f"`{name}` reads a thread that does not take part", ~(there & active[lane]))
    return machine.everywhere(value)[lane]
