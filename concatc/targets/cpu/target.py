"""The ``cpu`` target: from loops to native code that runs a step.

    loops -> Numba source (fused kernels), LLVM IR (sums in nests, the step) -> object code, cached -> one call a phase

It reads nothing but the loops module: what is edited there is what runs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from concatc.collector import collector_paused
from concatc.diagnostics import UsageError
from concatc.ir.core import Module
from concatc.stages import stage
from concatc.targets import NOTHING, Beside, Lowered, Peaks
from concatc.targets.cache import Cache, default_directory
from concatc.targets.cpu.executable import CodeNames, CpuExecutable, LoadedCode
from concatc.targets.cpu.native import Host, assembly, host, optimize
from concatc.targets.cpu.objects import objects_of
from concatc.targets.cpu.peaks import machine_peaks
from concatc.targets.cpu.step import StepNumbers
from concatc.targets.cpu.step_table import step_table
from concatc.targets.cpu.units import NumbaUnit, SumUnit, Unit, grains_of, units_of
from concatc.targets.cpu.workers import Workers
from concatc.targets.memory import HOST, HostMemory


@dataclass(frozen=True)
class ObjectCode:
    """What loops compile to: object files, the symbol of each kernel in them, and how many iterations of the loop that
    is cut a kernel does together.
    """

    objects: list[bytes]
    symbols: dict[str, str]
    grains: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Generated:
    """What was generated for a loops module, as text; what is not at hand is generated again."""

    units: Sequence[Unit]
    cache: Cache

    def text(self, what: str) -> str:
        """``kernels``, ``llvm`` or ``asm``."""
        match what:
            case "kernels":
                sums = [unit.description for unit in self.units if isinstance(unit, SumUnit)]
                return "\n".join(sums + [unit.source for unit in self.units if isinstance(unit, NumbaUnit)])
            case "llvm":
                return "\n".join(str(optimize(unit.llvm_ir(self.cache), unit.host)) for unit in self.units)
            case "asm":
                return "\n".join(assembly(unit.llvm_ir(self.cache), unit.host) for unit in self.units)
        raise UsageError(f"the cpu target emits kernels, llvm and asm, not `{what}`")


@dataclass(frozen=True)
class CpuTarget:
    """Native code for a CPU: this machine's unless ``host`` names another one whose code it can run.

    ``cache`` defaults to :func:`default_directory`.
    """

    cache: Cache | None = None
    host: Host | None = None

    name: str = "cpu"
    runs_plan: bool = True
    serves_sizes: bool = True

    def build(self, lowered: Lowered, beside: Beside = NOTHING) -> CpuExecutable:
        """Compile what the cache does not hold, and load it; see :class:`concatc.targets.Target`."""
        with Workers(self.host or host()) as workers:
            if "numba" not in sys.modules:
                workers.begin()  # the first net of a process
                beside.first(workers.aside)
            return self.build_loops(lowered.loops, beside.meanwhile, workers)

    def build_loops(
        self, loops: Module, meanwhile: Callable[[], object] = lambda: None, workers: Workers | None = None
    ) -> CpuExecutable:
        """Compile and load a loops module."""
        code, generated = self.compile_loops(loops, meanwhile, workers)
        with stage("load"):
            loaded = LoadedCode.of(code.objects, code.symbols)
            names = CodeNames(tuple(unit.key for unit in generated.units), code.symbols)
            table = StepNumbers.of(step_table(loops)).with_grains(code.grains)
            return CpuExecutable(table, loaded, generated.text, names)

    def memory(self) -> HostMemory:
        """See :class:`concatc.targets.Target`."""
        return HOST

    def peaks(self, again: bool = False) -> Peaks:
        """See :class:`concatc.targets.Target`."""
        return machine_peaks(again)

    def compile_loops(
        self, loops: Module, meanwhile: Callable[[], object] = lambda: None, workers: Workers | None = None
    ) -> tuple[ObjectCode, Generated]:
        """The object code of a loops module, compiled where the cache does not hold it, and what it was made of."""
        cache = self.cache or Cache(default_directory())
        kernels = [function for function in loops.functions[1:] if function.declared is None]
        with collector_paused():
            with stage("emit"):
                units, symbols = units_of(kernels, self.host or host())
            cold = sum(unit.kernel_count for unit in units if not cache.holds(unit.key))
            with stage("emit", f"compiling {cold} kernel{'s' if cold > 1 else ''} .." if cold else ""):
                with contextlib.nullcontext(workers) if workers else Workers(self.host or host()) as ready:
                    objects = objects_of(units, cache, meanwhile, ready)
                return ObjectCode(objects, symbols, grains_of(units, symbols)), Generated(units, cache)
