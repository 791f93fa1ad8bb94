"""What a target is: it turns a lowered net into something that runs on bases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from concatc.ir.core import Module
from concatc.loops.bases import Interface
from concatc.loops.plan import Plan
from concatc.targets.call import CallSpec, NativeCall
from concatc.targets.memory import Memory


class Lowered(Protocol):
    """One phase of a net (training or inference) at every level; a level is made when it is first asked for.

    In the inference phase ``joint`` has no backward and ``plan`` has no launches of the phase ``backward``.
    """

    @property
    def joint(self) -> Module:
        """Level 02."""
        ...

    @property
    def kernels(self) -> Module:
        """Level 04."""
        ...

    @property
    def plan(self) -> Plan:
        """Level 05."""
        ...

    @property
    def loops(self) -> Module:
        """Level 06: one function a kernel of the plan, of the same name."""
        ...

    @property
    def interface(self) -> Interface:
        """Where the net's arguments and results live; parameters and states where all phases have them."""
        ...

    @property
    def update(self) -> Plan | None:
        """The optimizer's launches, of phase ``update``, alone; ``plan`` and ``loops`` hold them as well."""
        ...


@dataclass(frozen=True)
class Bandwidth:
    """What memory of some size gives, in GB/s (10^9 bytes a second): read only, and read and written alike."""

    size_bytes: int
    read: float
    copy: float


@dataclass(frozen=True)
class Peaks:
    """What a machine can do at most, as measured, on one thread.

    ``gflops`` is by element type; ``bandwidths`` are those of working sets of rising size, none faster than a smaller.
    """

    machine: str
    gflops: Mapping[str, float]
    bandwidths: tuple[Bandwidth, ...]

    def arithmetic_ns(self, flops: int, dtype: str) -> float:
        """The least time that so many flops take."""
        return flops / self.gflops[dtype]

    def memory_ns(self, read_bytes: int, written_bytes: int) -> float:
        """The least time that so many bytes take, in the smallest memory that was measured and holds them."""
        total = read_bytes + written_bytes
        at = next((b for b in self.bandwidths if b.size_bytes >= total), self.bandwidths[-1])
        both = 2 * min(read_bytes, written_bytes)
        if written_bytes > read_bytes:
            return total / at.copy
        return (total - both) / at.read + both / at.copy


class Aside(Protocol):
    """Has another process do something beside."""

    def __call__(self, module: str, recipe: Mapping[str, Any]) -> Callable[[], bytes | None] | None:
        """What ``answer(recipe)`` of a module gives, when it is called; None where no process does it."""
        ...


class Executable(Protocol):
    """A compiled net.  ``bases[name]`` is a contiguous ``uint8`` array aligned to 64 bytes (see ``loops/plan.py``)."""

    def run(self, bases: Mapping[str, np.ndarray], phase: str, threads: int = 1) -> None:
        """Run the launches of a phase: ``forward``, ``backward``, ``update``, or ``step`` (all of them, in order).

        Reads and writes the bases only, with up to ``threads`` threads; of these results do not depend.  ``backward``
        follows a ``forward`` on the same bases.
        """
        ...

    def thread_bytes(self, threads: int) -> int:
        """How many bytes the base ``threads`` must have for so many threads."""
        ...

    def run_timed(self, bases: Mapping[str, np.ndarray], phase: str, clock: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Run the launches of a phase and say when: the time before the first one, then behind each, in nanoseconds.

        ``clock`` is one of the system's (``time.CLOCK_MONOTONIC``); native code reads it.  Raises
        :class:`concatc.diagnostics.UsageError` where the target runs no launches.
        """
        ...

    @property
    def launches(self) -> tuple[tuple[str, str], ...]:
        """The kernel and the phase of each launch, in order."""
        ...

    def shared(self, threads: int) -> tuple[float, ...]:
        """Which part of each launch so many threads share, of what is estimated to be done: 0 where one does it all."""
        ...

    def native_call(self, bases: Mapping[str, np.ndarray], spec: CallSpec, threads: int = 1) -> NativeCall | None:
        """A function that does all of ``spec`` in one native call; None where the target or the machine has none.

        It is for these bases, which it keeps.
        """
        ...

    def text(self, what: str) -> str:
        """The generated code as text: ``kernels`` (what a user reads first), ``llvm``, ``asm``, ``ptx`` ..

        Raises :class:`concatc.diagnostics.UsageError` where the target makes no such thing.
        """
        ...


@dataclass(frozen=True)
class Beside:
    """What is done while a net is compiled: ``first`` before levels are made, where other processes can do something
    else, ``meanwhile`` once, while other processes compile if there are any.
    """

    first: Callable[[Aside], object] = lambda ask: None
    meanwhile: Callable[[], object] = lambda: None


NOTHING = Beside()


class Target(Protocol):
    """A code generator plus runtime."""

    @property
    def name(self) -> str:
        """``reference``, ``cpu``, ``cuda``."""
        ...

    @property
    def serves_sizes(self) -> bool:
        """Whether its code of one batch size runs others, with the numbers of another plan."""
        ...

    @property
    def runs_plan(self) -> bool:
        """Whether it runs the plan and needs an arena; the reference runs the joint graph and needs none."""
        ...

    def build(self, lowered: Lowered, beside: Beside = NOTHING) -> Executable:
        """Generate, compile and load the code of a net, and do what is to be done ``beside``."""
        ...

    def memory(self) -> Memory:
        """Where the bases of one net are to lie."""
        ...

    def peaks(self, again: bool = False) -> Peaks:
        """What the machine can do, measured once and kept; ``again`` measures it anew.

        Raises :class:`concatc.diagnostics.UsageError` for a target that is not measured.
        """
        ...
