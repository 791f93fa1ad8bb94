"""What a step spends its time on, kernel by kernel, beside what the machine could do.

    stamps of every launch, in rounds   +   work of every kernel   +   peaks of the machine   ->   a row a kernel

The least time of a kernel is that of its flops at the peak of arithmetic, or of its bytes at the bandwidth of the
smallest memory that holds them, whichever is longer (the roofline of S. Williams, A. Waterman, D. Patterson 2009, with
a roof for each level of memory).  Its share of the roofline is that time over the one that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from concatc.diagnostics import Loc
from concatc.inspect.work import Work, work_of
from concatc.loops.plan import Launch, Plan
from concatc.op import DIALECT
from concatc.targets import Peaks

if TYPE_CHECKING:
    from concatc.ir.core import FuncOp

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bound = Literal["compute", "memory"]


@dataclass(frozen=True)
class Launched:
    """One launch: its kernel, the ops that it holds, its line, its work; None where no plan says."""

    kernel: str
    phase: str
    ops: tuple[str, ...] = ()
    loc: Loc | None = None
    work: Work | None = None


@dataclass(frozen=True)
class Rates:
    """What some launches took and did: nanoseconds of one step, and the least that they could take.

    ``arithmetic_ns`` is the part of the least time of launches that arithmetic bounds.
    """

    launches: int
    elapsed_ns: float
    least_ns: float | None
    arithmetic_ns: float
    flops: int
    arithmetic: int
    read_bytes: int
    written_bytes: int

    @property
    def gflops(self) -> float:
        """Flops of contractions a nanosecond."""
        return self.flops / self.elapsed_ns

    @property
    def gigabytes(self) -> float:
        """GB/s: bytes a nanosecond."""
        return (self.read_bytes + self.written_bytes) / self.elapsed_ns

    @property
    def roofline(self) -> float | None:
        """The least time over the time."""
        return None if self.least_ns is None else self.least_ns / self.elapsed_ns

    @property
    def bound(self) -> Bound | None:
        """What most of the least time is of."""
        if self.least_ns is None:
            return None
        return "compute" if 2 * self.arithmetic_ns >= self.least_ns > 0 else "memory"


@dataclass(frozen=True)
class KernelRow:
    """All launches of a kernel in a phase."""

    kernel: str
    phase: str
    ops: tuple[str, ...]
    locs: tuple[Loc, ...]
    rates: Rates


@dataclass(frozen=True)
class Profile:
    """The profile of a net; prints as a table, ``data()`` is for tools, ``trace()`` for trace viewers.

    ``stamps[r, k]`` is when launch ``k - 1`` of round ``r`` was done, ``stamps[r, 0]`` when the round began, in
    nanoseconds of a clock that never steps back.  ``calls_ns`` are calls of ``train_step`` or ``eval`` between these
    rounds, without a clock inside.  ``measured_ns`` is how long all of that took.
    With ``cpu_time`` stamps and calls are of the time that the processor gave to the thread.
    Calls ran on up to ``threads`` threads, stamps are of one; ``shared`` says of each launch which part the threads
    share, of what is estimated to be done.
    """

    net: str
    dims: Mapping[str, int | float | str | bool]
    phase: str
    launched: tuple[Launched, ...]
    stamps: Ints
    calls_ns: Ints
    peaks: Peaks
    memory_bytes: int
    arena_bytes: int
    measured_ns: int
    cpu_time: bool = False
    threads: int = 1
    shared: tuple[float, ...] = ()

    @property
    def shared_part(self) -> float:
        """Which part of the time of all launches is in what the threads of calls share."""
        parts = self.shared or (0.0,) * len(self.launched)
        return float(sum(self.launch_ns * parts)) / self.total.elapsed_ns

    @cached_property
    def launch_ns(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The time of each launch: the median of the rounds."""
        return np.asarray(np.median(np.diff(self.stamps, axis=1), axis=0))

    @property
    def step_ns(self) -> float:
        """The time of a step, clocks inside: the median of the rounds."""
        return float(np.median(self.stamps[:, -1] - self.stamps[:, 0]))

    @property
    def call_ns(self) -> float:
        """The time of a call: the median."""
        return float(np.median(self.calls_ns))

    @cached_property
    def rows(self) -> tuple[KernelRow, ...]:
        """A row for each kernel and phase, what takes longest first."""
        groups: dict[tuple[str, str], list[int]] = {}
        for k, launch in enumerate(self.launched):
            groups.setdefault((launch.kernel, launch.phase), []).append(k)
        rows = [
            KernelRow(
                kernel,
                phase,
                self.launched[ks[0]].ops,
                tuple(dict.fromkeys(loc for k in ks if (loc := self.launched[k].loc) is not None)),
                self.rates(ks),
            )
            for (kernel, phase), ks in groups.items()
        ]
        return tuple(sorted(rows, key=lambda row: -row.rates.elapsed_ns))

    @property
    def total(self) -> Rates:
        """All launches together."""
        return self.rates(range(len(self.launched)))

    @cached_property
    def phases(self) -> dict[str, Rates]:
        """The launches of each phase of the plan, in order."""
        names = dict.fromkeys(launch.phase for launch in self.launched)
        return {n: self.rates([k for k, launch in enumerate(self.launched) if launch.phase == n]) for n in names}

    def rates(self, chosen: Sequence[int]) -> Rates:
        """What some of the launches took and did."""
        works = [(k, work) for k in chosen if (work := self.launched[k].work) is not None]
        least = [max(self._arithmetic_ns(w), self.peaks.memory_ns(w.read_bytes, w.written_bytes)) for _, w in works]
        return Rates(
            len(chosen),
            # A clock that ticks in steps may see no time at all go by.
            max(float(sum(self.launch_ns[k] for k in chosen)), 1.0),
            sum(least) if len(works) == len(chosen) else None,
            sum(ns for (_, w), ns in zip(works, least, strict=True) if self._arithmetic_ns(w) >= ns),
            sum(w.flops for _, w in works),
            sum(w.arithmetic for _, w in works),
            sum(w.read_bytes for _, w in works),
            sum(w.written_bytes for _, w in works),
        )

    def _arithmetic_ns(self, work: Work) -> float:
        return self.peaks.arithmetic_ns(work.flops, work.dtype)

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int = 20) -> str:
        """The profile as a table of the ``most`` kernels that take longest; 0 shows all."""
        from concatc.inspect.profile_text import text_of

        return text_of(self, most)

    def data(self) -> dict[str, Any]:
        """Everything as plain data."""
        from concatc.inspect.profile_text import data_of

        return data_of(self)

    def trace(self) -> dict[str, Any]:
        """Every launch of every round as the JSON that Perfetto and ``chrome://tracing`` open."""
        from concatc.inspect.trace import trace_of

        return trace_of(self)


def launched_of(launches: Sequence[tuple[str, str]], plan: Plan | None) -> tuple[Launched, ...]:
    """What is known of the launches of a table: all of it where they are those of ``plan``, else kernels and phases."""
    if plan is None or [p for _, p in launches] != [launch.phase for launch in plan.launches]:
        return tuple(Launched(kernel, phase) for kernel, phase in launches)
    works = {name: work_of(kernel) for name, kernel in plan.kernels.items()}
    return tuple(_launched(launch, plan.kernels[launch.kernel], works[launch.kernel]) for launch in plan.launches)


def _launched(launch: Launch, kernel: FuncOp, work: Work) -> Launched:
    results = kernel.ret.operands
    added_bytes = sum(v.tensor.size_bytes for v, is_added in zip(results, launch.add, strict=True) if is_added)
    ops = tuple(op.name.removeprefix(DIALECT) for op in kernel.ops[:-1])
    return Launched(launch.kernel, launch.phase, ops, launch.loc, work.adding(added_bytes))
