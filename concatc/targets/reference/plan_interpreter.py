"""The plan interpreter: runs any plan with NumPy, launch by launch, each kernel by the reference rules of its ops.

The arena starts as NaN, each launch leaves NaN in its scratch memory, every byte that belongs to no argument or result
(gaps, and a guard behind each base) holds a canary, and the highest byte touched is kept.  What is right here and wrong
on a target is the target's fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from concatc.diagnostics import UsageError
from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.bases import ARGUMENT_BASES, is_staged
from concatc.loops.memory import allocate, gather, scatter, view
from concatc.loops.plan import Launch, Plan, Segment, Window
from concatc.targets.reference.interpreter import run_function

Array = np.ndarray[Any, Any]

GUARD_BYTES = 256
CANARY = 0xA5
# All bits set is NaN in f32 and f64, and -1 (an invalid label or index) in i32 and i64.
POISON = 0xFF


@dataclass
class BaseMemory:
    """The bases of a plan as aligned ``uint8`` arrays, each with a guard behind it."""

    plan: Plan
    guarded: dict[str, Array] = field(default_factory=dict)
    touched_end_bytes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for base in self.plan.bases.values():
            block = allocate(base.size_bytes + GUARD_BYTES)
            block[:] = CANARY
            if base.name == "arena":
                block[: base.size_bytes] = POISON
            self.guarded[base.name] = block
            self.touched_end_bytes[base.name] = 0
        for name, segments in self.plan.values.items():
            if ":" in name:
                for segment in segments:
                    _bytes_of(self.bases[segment.window.base], segment.window)[...] = POISON

    @property
    def bases(self) -> dict[str, Array]:
        """The bases without their guards, as a target's ``run`` takes them."""
        return {base.name: self.guarded[base.name][: base.size_bytes] for base in self.plan.bases.values()}

    def view(self, window: Window) -> Array:
        """A window as a strided array (elements in its dtype) over the base."""
        return view(self.bases[window.base], window)

    def set(self, key: str, array: Array) -> None:
        """Put a value (``input:a``) into its segments.  Raises :class:`UsageError` for an unknown key or shape."""
        segments = self.segments(key)
        shape = value_shape(segments)
        if np.shape(array) != shape:
            raise UsageError(f"{key} is of shape {shape}, not {np.shape(array)}")
        scatter(self.bases, segments, array)

    def get(self, key: str) -> Array:
        """A dense copy of a value."""
        return gather(self.bases, self.segments(key))

    def segments(self, key: str) -> tuple[Segment, ...]:
        if key not in self.plan.values or not self.plan.values[key]:
            raise UsageError(f"the plan of {self.plan.name} has no value {key}")
        return self.plan.values[key]

    def touch(self, window: Window) -> None:
        self.touched_end_bytes[window.base] = max(self.touched_end_bytes[window.base], window.end_bytes)

    def spoiled(self) -> list[str]:
        """Canaries that changed: ``outputs+196``.  The gaps of all bases but the arena, and every guard."""
        found: list[str] = []
        for base in self.plan.bases.values():
            block = self.guarded[base.name]
            free = np.ones(block.size, bool)
            if base.name == "arena":
                free[: base.size_bytes] = False
            for window in self._interface(base.name):
                _bytes_of(free[: base.size_bytes], window)[...] = False
            found += [f"{base.name}+{at}" for at in np.flatnonzero(free & (block != CANARY))[:4]]
        return found

    def _interface(self, base: str) -> list[Window]:
        segments = [s for name, value in self.plan.values.items() if ":" in name for s in value]
        return [s.window for s in segments if s.window.base == base]


@dataclass
class PlanRun:
    """What a run of a plan left behind."""

    memory: BaseMemory

    @property
    def arena_bytes(self) -> int:
        """One past the highest byte of the arena that a launch touched."""
        return self.memory.touched_end_bytes.get("arena", 0)

    def __getitem__(self, key: str) -> Array:
        return self.memory.get(key)

    def results(self) -> dict[str, Array]:
        """All values in outputs, grads and states, by their key."""
        keys = [k for k, s in self.memory.plan.values.items() if ":" in k and s and s[0].window.base != "inputs"]
        return {k: self.memory.get(k) for k in keys if k.partition(":")[0] not in ("input", "param")}


def run_plan(
    plan: Plan,
    values: Mapping[str, Array],
    phases: Sequence[str] = ("forward", "backward", "update"),
    memory: BaseMemory | None = None,
) -> PlanRun:
    """Run the launches of ``phases`` in order on NumPy arrays.

    ``values`` holds every argument of the net by its key (``input:a``, ``param:ha.weight``, ``state:..``).  ``memory``
    continues an earlier run; inputs that lie elsewhere than in ``inputs`` are put there before the forward phase only,
    since launches store over them.  Raises :class:`UsageError` where an argument is missing or of another shape, and
    ``AssertionError`` where a launch wrote outside all values (canaries).
    """
    memory = memory if memory is not None else BaseMemory(plan)
    known = [k for k in plan.values if k.partition(":")[0] in ARGUMENT_BASES]
    missing = [k for k in known if k not in values]
    if missing:
        raise UsageError(f"the plan of {plan.name} needs {', '.join(missing)}")
    for key, array in values.items():
        if "forward" in phases or not is_staged(key, memory.segments(key)[0].window):
            memory.set(key, array)
    for launch in plan.phase(*phases):
        run_launch(memory, launch)
    spoiled = memory.spoiled()
    assert not spoiled, f"bytes outside all values were written: {', '.join(spoiled)}"
    return PlanRun(memory)


def run_launch(memory: BaseMemory, launch: Launch) -> None:
    """Run one launch: all reads, then the kernel, then all writes; its scratch holds poison afterwards."""
    reads = [memory.view(w).copy() for w in launch.reads]
    results = run_function(memory.plan.kernels[launch.kernel], reads)
    if launch.scratch is not None:
        _bytes_of(memory.bases[launch.scratch.base], launch.scratch)[...] = POISON
    for window, result, add in zip(launch.writes, results, launch.add, strict=True):
        target = memory.view(window)
        target[...] = target + result if add else result
    for window in (*launch.reads, *launch.writes, *([launch.scratch] if launch.scratch is not None else [])):
        memory.touch(window)


def value_shape(segments: Sequence[Segment]) -> tuple[int, ...]:
    """The shape of a value that lies in these segments."""
    ends = [[a + n for a, n in zip(s.start, s.window.shape, strict=True)] for s in segments]
    return tuple(max(axis) for axis in zip(*ends, strict=True))


def _bytes_of(base: Array, window: Window) -> Array:
    """The bytes of a window's elements, ``[.., itemsize]``, in an array of one item a byte."""
    step = ELEMENT_BYTES[window.dtype]
    strides = tuple(s * step for s in window.strides)
    offset = window.offset_bytes if 0 not in window.shape else 0
    return np.lib.stride_tricks.as_strided(base[offset:], (*window.shape, step), (*strides, 1))
