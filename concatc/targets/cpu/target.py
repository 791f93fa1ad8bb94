"""The ``cpu`` target: from loops to native code that runs a step.

    loops -> Numba source (fused kernels), LLVM IR (sums in nests, the step) -> object code, cached -> one call a phase

It reads nothing but the loops module: what is edited there is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from concatc.collector import collector_paused
from concatc.diagnostics import UsageError
from concatc.ir.core import Module
from concatc.stages import stage
from concatc.targets import Lowered
from concatc.targets.cpu.abi import kernel_symbol
from concatc.targets.cpu.cache import Cache, default_directory
from concatc.targets.cpu.native import Host, Library, assembly, host, optimize
from concatc.targets.cpu.step import RUNNER, NativeStep, StepNumbers, step_table
from concatc.targets.cpu.units import NumbaUnit, SumUnit, Unit, object_of, units_of


@dataclass(frozen=True)
class ObjectCode:
    """What a loops module compiles to: object files, and the symbol of each kernel in them."""

    objects: list[bytes]
    symbols: dict[str, str]


@dataclass(frozen=True)
class CpuTarget:
    """Native code for a CPU: this machine's unless ``host`` names another one whose code it can run.

    ``cache`` defaults to :func:`default_directory`.
    """

    cache: Cache | None = None
    host: Host | None = None

    name: str = "cpu"
    runs_plan: bool = True

    def build(self, lowered: Lowered) -> CpuExecutable:
        """Compile what the cache does not hold, and load it."""
        return self.build_loops(lowered.loops)

    def build_loops(self, loops: Module) -> CpuExecutable:
        """Compile and load a loops module."""
        cache = self.cache or Cache(default_directory())
        kernels = [function for function in loops.functions[1:] if function.declared is None]
        with collector_paused():
            with stage("emit"):
                units, symbols = units_of(kernels, self.host or host())
            cold = sum(unit.kernel_count for unit in units if not cache.holds(unit.key))
            with stage("emit", f"compiling {cold} kernel{'s' if cold > 1 else ''} .." if cold else ""):
                code = ObjectCode([object_of(unit, cache) for unit in units], symbols)
        with stage("load"):
            return self.load(loops, code, units, cache)

    def load(
        self, loops: Module, code: ObjectCode, units: Sequence[Unit] = (), cache: Cache | None = None
    ) -> CpuExecutable:
        """Load object code that was made of the same loops module."""
        library = Library(code.objects)
        addresses = {kernel: library.address(kernel_symbol(symbol)) for kernel, symbol in code.symbols.items()}
        table = StepNumbers.of(step_table(loops.main))
        return CpuExecutable(table, addresses, library, code, units, cache or Cache(default_directory()))


class CpuExecutable:
    """A net's native code, loaded."""

    def __init__(
        self,
        table: StepNumbers,
        addresses: Mapping[str, int],
        library: Library,
        code: ObjectCode,
        units: Sequence[Unit],
        cache: Cache,
    ) -> None:
        self.table = table
        self.code = code
        self._addresses = addresses
        self._step = NativeStep(table, library.address(RUNNER), addresses)
        self._library = library  # the code in memory, which the step calls
        self._units = units
        self._cache = cache

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run a phase; see :class:`concatc.targets.Executable`."""
        self._step.run(bases, phase)

    def with_table(self, table: StepNumbers) -> CpuExecutable:
        """The same code with another table, of the same kernels."""
        return CpuExecutable(table, self._addresses, self._library, self.code, self._units, self._cache)

    def text(self, what: str) -> str:
        """``kernels``, ``llvm`` or ``asm``."""
        match what:
            case "kernels":
                sums = [unit.description for unit in self._units if isinstance(unit, SumUnit)]
                return "\n".join(sums + [unit.source for unit in self._units if isinstance(unit, NumbaUnit)])
            case "llvm":
                return "\n".join(str(optimize(unit.llvm_ir(self._cache), unit.host)) for unit in self._units)
            case "asm":
                return "\n".join(assembly(unit.llvm_ir(self._cache), unit.host) for unit in self._units)
        raise UsageError(f"the cpu target emits kernels, llvm and asm, not `{what}`")
