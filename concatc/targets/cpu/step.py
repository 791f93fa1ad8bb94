"""The native step: one call that runs a table of launches, without the interpreter lock.

    Row("k0_relu", windows, sizes, ..)   ->   {kernel, windows, sizes, add, begin, end, scratch, chunk, slices, step}

The table is read off ``@step`` of the loops module (`step_table.py`).  Another batch size is another table over the
same code, and so is another number of threads: rows that may be cut say how many iterations are a chunk, and what each
thread has of its own is in a base of that thread.  A row of several slices has windows and sizes for each, ``step``
bytes apart.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from concatc.diagnostics import ConcatcError
from concatc.loops.cuts import Cut
from concatc.loops.plan import ALIGN_BYTES
from concatc.targets.cpu.chunks import share

Ints = np.ndarray[Any, np.dtype[np.int64]]
ROW = 10  # kernel, windows, sizes, add, begin, end, scratch, chunk, slices, step
RUNNER = "run"  # `i32 run(i8** bases, row* table, i64 rows)`: 0, or the number of the row that failed, from 1
THREADS = "threads"  # the base that holds what each of several threads has of its own
PHASES = ("forward", "backward", "update")


def kernel_symbol(name: str) -> str:
    """The name of a kernel with the signature that all share (`abi.py`)."""
    return f"kernel.{name}"


@dataclass(frozen=True)
class Row:
    """One launch.

    ``starts`` are where each window begins in ``windows``: its base, its offset, its strides; ``ends`` one past the
    last byte of each window in its base.
    """

    kernel: str
    phase: str
    windows: tuple[int, ...]
    sizes: tuple[int, ...]
    add: int
    begin: int
    end: int
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def own_bytes(self, cut: Cut | None) -> int:
        """The bytes of the last window of which each thread has a copy; 0 where there is none."""
        if cut is None or not cut.private:
            return 0
        last = cut.private[-1]
        return self.ends[self.starts.index(last)] - self.windows[last + 1]

    def is_in_order(self, cut: Cut) -> bool:
        """Whether the windows of which each thread has a copy lie one behind the other, in one base."""
        at = [(self.windows[k], self.windows[k + 1], self.ends[self.starts.index(k)]) for k in cut.private]
        return all(base == after and end <= begin for (base, _, end), (after, begin, _) in itertools.pairwise(at))


@dataclass
class StepTable:
    """The launches of ``@step``, its bases in order with their sizes, and how kernels may be cut that may."""

    bases: list[tuple[str, int]]
    rows: list[Row] = field(default_factory=list)
    cuts: dict[str, Cut] = field(default_factory=dict)


@dataclass(frozen=True)
class StepNumbers:
    """A table as arrays: the numbers of all rows one behind the other, and where those of each row begin.

    Of row ``k`` the windows begin at ``windows_at[k]`` and the sizes at ``sizes_at[k]``; ``rest[k]`` is ``add``, begin,
    end, and the bytes of the last window of which each thread has a copy where the row is cut.
    """

    bases: list[tuple[str, int]]
    kernels: tuple[str, ...]
    phases: tuple[str, ...]
    numbers: Ints
    windows_at: Ints
    sizes_at: Ints
    rest: Ints
    cuts: Mapping[str, Cut]

    @staticmethod
    def of(table: StepTable) -> StepNumbers:
        """The numbers of a table."""
        rows = table.rows
        numbers = [n for row in rows for n in (*row.windows, *row.sizes)]
        counts = np.array([(len(row.windows), len(row.sizes)) for row in rows], np.int64).reshape(len(rows), 2)
        ends = np.cumsum(counts.ravel()).reshape(len(rows), 2)
        return StepNumbers(
            table.bases,
            tuple(row.kernel for row in rows),
            tuple(row.phase for row in rows),
            np.array(numbers, np.int64),
            ends[:, 0] - counts[:, 0],
            ends[:, 0],
            np.array([_rest(row, table.cuts.get(row.kernel)) for row in rows], np.int64).reshape(len(rows), 4),
            dict(table.cuts),
        )

    def with_grains(self, grains: Mapping[str, Sequence[int]]) -> StepNumbers:
        """The same table; chunks of a kernel are of whole grains."""
        cuts = {name: cut.with_grains(grains.get(name, ())) for name, cut in self.cuts.items()}
        return replace(self, cuts=cuts)

    def followed_by(self, other: StepNumbers, phase: str) -> StepNumbers:
        """The rows of this table, then those of a phase of ``other``, whose bases are these and maybe more."""
        rows = np.array([k for k, of in enumerate(other.phases) if of == phase], np.int64)
        shift = len(self.numbers)
        known = dict(self.bases)
        return StepNumbers(
            [(name, known.get(name, n)) for name, n in other.bases],
            (*self.kernels, *(other.kernels[k] for k in rows)),
            (*self.phases, *(other.phases[k] for k in rows)),
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.windows_at, other.windows_at[rows] + shift]),
            np.concatenate([self.sizes_at, other.sizes_at[rows] + shift]),
            np.concatenate([self.rest, other.rest[rows]]),
            {**other.cuts, **self.cuts},
        )


def _rest(row: Row, cut: Cut | None) -> tuple[int, int, int, int]:
    return row.add, row.begin, row.end, row.own_bytes(cut)


@dataclass(frozen=True)
class Launches:
    """Arguments of the function that runs tables, which lies at ``runner``; ``kernels`` are the rows' by name.

    ``alone`` is another table that the table refers to.
    """

    runner: int
    bases: Ints
    table: Ints
    kernels: list[str]
    alone: Ints


_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class NativeStep:
    """The table in memory for a number of threads, ready to run by phase.

    Each of several threads has a base of its own behind the others: ``thread_bytes`` of the base ``threads``.
    """

    def __init__(self, table: StepNumbers, runner: int, addresses: Mapping[str, int], threads: int = 1) -> None:
        self._runner = runner
        self._run = _RUN(runner)
        shared = share(table, threads)
        self._threads = threads if shared.chunks.any() else 1
        self.thread_bytes = shared.own_bytes + -shared.own_bytes % ALIGN_BYTES
        self.table = shared.table if self._threads > 1 else table
        self._alone = self._together = _Cells.of(self.table, addresses)
        if self._threads > 1:
            together = replace(
                shared.table, numbers=shared.numbers, windows_at=shared.windows_at, sizes_at=shared.sizes_at
            )
            self._together = _Cells.of(together, addresses)
            self._together.cells[:, 7] = shared.chunks
            self._together.cells[:, 8:] = shared.slices * (1, shared.slices.itemsize)
        # A base for each thread behind those of the table.
        self._bases = np.zeros((self._threads, len(table.bases) + 1), np.int64)
        self._phases = {phase: self._launches(PHASES if phase == "step" else (phase,)) for phase in ("step", *PHASES)}

    @property
    def cut_rows(self) -> int:
        """How many rows are cut."""
        return int(np.count_nonzero(self._together.cells[:, 7]))

    @property
    def own_bytes(self) -> int:
        """The bytes that the base ``threads`` must have: what is each thread's own, for all of them."""
        return self._threads * self.thread_bytes

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run the launches of a phase, or all of them (``step``)."""
        what = self._phases[phase]
        self._take(bases, self._bases)
        _check(self._run(self._bases.ctypes.data, what.table.ctypes.data, len(what.table)), what.kernels)

    def run_timed(self, bases: Mapping[str, np.ndarray], phase: str, clock: int) -> Ints:
        """The same by one thread; returns the time of a clock before the first launch, then behind each (ns)."""
        from concatc.targets.cpu.timed_step import timed_rows

        assert self._threads == 1, "a clock is read between rows"
        what = self._phases[phase]
        self._take(bases, self._bases)
        status, stamps = timed_rows(self._runner, self._bases.ctypes.data, what.table, clock)
        _check(status, what.kernels)
        return stamps

    def launches(self, bases: Mapping[str, np.ndarray], phases: Sequence[str]) -> Launches:
        """The launches of some phases on these bases, as data for a native call.  The bases must outlive it."""
        found = self._launches(phases)
        self._take(bases, found.bases)
        return found

    def _launches(self, phases: Sequence[str]) -> Launches:
        """The launches of some phases, on bases that are not known yet."""
        rows = [k for k, of in enumerate(self.table.phases) if of in phases]
        kernels = [self.table.kernels[k] for k in rows]
        bases, together = np.zeros_like(self._bases), self._together.cells[rows]
        alone = np.ascontiguousarray(self._alone.cells[rows])
        if not together[:, 7].any():
            return Launches(self._runner, bases, alone, kernels, alone)
        # A row without a kernel says by how many threads the others are run; the other table has one to skip, too.
        header = np.zeros((1, ROW), np.int64)
        alone = np.concatenate([header, alone])
        header[0, [1, 3, 4]] = alone.ctypes.data, self._threads, self._bases.strides[0]
        return Launches(self._runner, bases, np.concatenate([header, together]), ["", *kernels], alone)

    def _take(self, bases: Mapping[str, np.ndarray], into: Ints) -> None:
        """Write where the bases of each thread begin; raises :class:`ConcatcError` where one is too small."""
        into[:, :-1] = [_address(bases, name, size_bytes) for name, size_bytes in self.table.bases]
        if self.own_bytes:
            own = _address(bases, THREADS, self.own_bytes)
            into[:, -1] = own + self.thread_bytes * np.arange(self._threads)


def _address(bases: Mapping[str, np.ndarray], name: str, size_bytes: int) -> int:
    memory = bases.get(name)
    found = 0 if memory is None else memory.nbytes
    if found < size_bytes:
        raise ConcatcError(f"the base {name} has {found} bytes where the step needs {size_bytes}")
    return int(memory.__array_interface__["data"][0]) if memory is not None else 0


def _check(status: int, kernels: list[str]) -> None:
    if status:
        raise ConcatcError(f"the kernel {kernels[status - 1]} failed")


@dataclass(frozen=True)
class _Cells:
    """The rows of a table as the runner reads them, and the numbers that they point to."""

    cells: Ints
    numbers: Ints

    @staticmethod
    def of(table: StepNumbers, addresses: Mapping[str, int]) -> _Cells:
        held = np.ascontiguousarray(table.numbers, np.int64)
        start, step = held.ctypes.data, held.itemsize
        cells = np.zeros((len(table.kernels), ROW), np.int64)
        cells[:, 0] = [addresses[kernel] for kernel in table.kernels]
        cells[:, 1] = start + step * table.windows_at
        cells[:, 2] = start + step * table.sizes_at
        cells[:, 3:6] = table.rest[:, :3]
        return _Cells(cells, held)
