"""Object code in memory, and the table of launches that runs it: all that a net needs when it is compiled.

    code0.o, code1.o, ..  +  table of launches    ->    one native call a phase

Nothing here generates code, reads IR or imports what does: written modules are loaded by this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from concatc.targets.call import CallSpec, NativeCall
from concatc.targets.cpu.chunks import shared_part
from concatc.targets.cpu.entry import Entry, can_enter
from concatc.targets.cpu.native import Library
from concatc.targets.cpu.record import ENTRY
from concatc.targets.cpu.step import RUNNER, Ints, NativeStep, StepNumbers, kernel_symbol

_RUNNERS: dict[bytes, Library] = {}


def runner_of(code: bytes) -> Library:
    """The function that runs tables, loaded once and for ever, since its threads are in it.

    Nets of one process share it, but for a module that another release wrote: it runs its tables by its own.
    """
    if code not in _RUNNERS:
        _RUNNERS.setdefault(code, Library([code], [RUNNER, ENTRY]))  # one for all, whichever thread is first
    return _RUNNERS[code]


@dataclass(frozen=True)
class LoadedCode:
    """Object code in memory: what runs tables and enters from Python, each kernel's address, what keeps them there."""

    runner: int
    entry: int
    addresses: Mapping[str, int]
    libraries: tuple[Library, ...]

    @staticmethod
    def of(objects: Iterable[bytes], symbols: Mapping[str, str]) -> LoadedCode:
        """Load object files, which hold each kernel under its symbol; the first is the function that runs tables.

        Raises :class:`ConcatcError` where one lacks.
        """
        code = iter(objects)
        runner = runner_of(next(code))
        names = {kernel: kernel_symbol(symbol) for kernel, symbol in symbols.items()}
        library = Library(code, names.values())
        addresses = {kernel: library.address(name) for kernel, name in names.items()}
        return LoadedCode(runner.address(RUNNER), runner.address(ENTRY), addresses, (library,))

    def with_kernels_of(self, other: LoadedCode) -> LoadedCode:
        """This code, and the kernels of ``other`` besides."""
        addresses = {**other.addresses, **self.addresses}
        return LoadedCode(self.runner, self.entry, addresses, (*self.libraries, *other.libraries))


@dataclass(frozen=True)
class CodeNames:
    """Where code is found again: the keys of its units in the cache, and the symbol of each kernel."""

    units: tuple[str, ...]
    symbols: Mapping[str, str]


class CpuExecutable:
    """A net's native code, loaded.

    ``generated`` gives the text of what was generated, by its kind; ``names`` says where the code came from, if the
    cache holds it.
    """

    def __init__(
        self, table: StepNumbers, code: LoadedCode, generated: Callable[[str], str], names: CodeNames | None = None
    ) -> None:
        self.table = table
        self.names = names
        self._code = code
        self._generated = generated
        self._steps: dict[int, NativeStep] = {}
        self._portions: Callable[[int], StepNumbers | None] = lambda threads: None
        self._tables: dict[int, StepNumbers] = {}

    def run(self, bases: Mapping[str, np.ndarray], phase: str, threads: int = 1) -> None:
        """Run a phase; see :class:`concatc.targets.Executable`."""
        self._step(threads).run(bases, phase)

    def thread_bytes(self, threads: int) -> int:
        """How much memory so many threads need besides; see :class:`concatc.targets.Executable`."""
        return self._step(threads).own_bytes

    def _step(self, threads: int) -> NativeStep:
        if threads not in self._steps:
            table = self._table(threads)
            self._steps[threads] = NativeStep(table, self._code.runner, self._code.addresses, threads)
        return self._steps[threads]

    def _table(self, threads: int) -> StepNumbers:
        """What so many threads run: the table, or its launches portion by portion."""
        if threads not in self._tables:
            self._tables[threads] = self._portions(threads) or self.table
        return self._tables[threads]

    def in_portions(self, made: Callable[[int], StepNumbers | None]) -> CpuExecutable:
        """The same code, run by the table that is made for a number of threads, where there is one.

        Such a table has the launches of this one, once for each portion of the rows (`portions.py`).
        """
        other = CpuExecutable(self.table, self._code, self._generated, self.names)
        other._portions = made
        return other

    def run_timed(self, bases: Mapping[str, np.ndarray], phase: str, clock: int) -> Ints:
        """Run a phase and say when each launch was done; see :class:`concatc.targets.Executable`.

        Of a launch that runs once for each portion the times are added, as if its portions came one after the other.
        """
        stamps = self._step(1).run_timed(bases, phase, clock)
        launches = len(self.table.kernels) if phase == "step" else self.table.phases.count(phase)
        times = np.diff(stamps).reshape(-1, launches).sum(axis=0) if launches else stamps[1:]
        added: Ints = stamps[0] + np.cumsum(np.concatenate([[0], times]))
        return added

    @property
    def launches(self) -> tuple[tuple[str, str], ...]:
        """The kernel and the phase of each launch."""
        return tuple(zip(self.table.kernels, self.table.phases, strict=True))

    def shared(self, threads: int) -> tuple[float, ...]:
        """See :class:`concatc.targets.Executable`."""
        return tuple(shared_part(self._table(threads), row, threads) for row in range(len(self.table.kernels)))

    def native_call(self, bases: Mapping[str, np.ndarray], spec: CallSpec, threads: int = 1) -> NativeCall | None:
        """See :class:`concatc.targets.Executable`."""
        if not can_enter(spec):
            return None
        return Entry(spec, bases, self._step(threads).launches(bases, spec.phases), (self._code.entry, self._code))

    def with_table(self, table: StepNumbers) -> CpuExecutable:
        """The same code with another table, of the same kernels."""
        return CpuExecutable(replace(table, cuts=self.table.cuts), self._code, self._generated)

    def followed_by(self, update: CpuExecutable) -> CpuExecutable:
        """This net, then an optimizer's update that was compiled apart: its bases are these and maybe more."""
        return CpuExecutable(
            self.table.followed_by(update.table, "update"),
            self._code.with_kernels_of(update._code),
            lambda what: f"{self.text(what)}\n{update.text(what)}",
        )

    def text(self, what: str) -> str:
        """``kernels``, ``llvm`` or ``asm``."""
        return self._generated(what)
