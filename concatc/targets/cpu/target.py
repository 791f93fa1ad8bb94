"""The ``cpu`` target: from loops to native code that runs a step.

    loops -> Numba source (fused kernels), LLVM IR (contractions, the step) -> object code, cached -> one call a phase

It reads nothing but the loops module: what is edited there is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from concatc.diagnostics import UsageError
from concatc.ir.core import FuncOp, Module
from concatc.targets import Lowered
from concatc.targets.cpu.abi import adapters, kernel_symbol
from concatc.targets.cpu.cache import Cache, default_directory, digest
from concatc.targets.cpu.native import Library, assembly, build_id, link, object_code, optimize
from concatc.targets.cpu.numba_source import numba_module
from concatc.targets.cpu.step import RUNNER, RUNNER_IR, NativeStep, step_table


@dataclass(frozen=True)
class CpuTarget:
    """Native code for the CPU of this machine.  ``cache`` defaults to :func:`default_directory`."""

    cache: Cache | None = None

    name: str = "cpu"
    runs_plan: bool = True

    def build(self, lowered: Lowered) -> CpuExecutable:
        """Compile what the cache does not hold, and load it."""
        return self.build_loops(lowered.loops)

    def build_loops(self, loops: Module) -> CpuExecutable:
        """Compile and load a loops module."""
        units = _units(loops.functions[1:], self.cache or Cache(default_directory()))
        return self.load(loops, [unit.object_code() for unit in units], units)

    def load(self, loops: Module, objects: Sequence[bytes], units: Sequence[Unit] = ()) -> CpuExecutable:
        """Load object code that :attr:`CpuExecutable.objects` of the same loops module gave."""
        library = Library(objects)
        addresses = {k.sym_name: library.address(kernel_symbol(k.sym_name)) for k in loops.functions[1:]}
        step = NativeStep(step_table(loops.main), library.address(RUNNER), addresses)
        return CpuExecutable(step, library, units)


def _units(kernels: Sequence[FuncOp], cache: Cache) -> list[Unit]:
    units: list[Unit] = [StepUnit(cache)]
    if kernels:
        units.append(NumbaUnit(cache, list(kernels)))
    return units


@dataclass
class Unit:
    """What is compiled together, and its place in the cache."""

    cache: Cache

    @property
    def key(self) -> str:
        """The cache's key."""
        raise NotImplementedError

    def llvm_ir(self) -> str:
        """Generate LLVM IR."""
        raise NotImplementedError

    def object_code(self) -> bytes:
        """From the cache, or compiled now."""
        found = self.cache.load(self.key)
        if found is None:
            found = object_code(self.llvm_ir())
            self.cache.store(self.key, found)
        return found


@dataclass
class StepUnit(Unit):
    """The function that runs tables."""

    @property
    def key(self) -> str:
        return digest("step", build_id())

    def llvm_ir(self) -> str:
        return RUNNER_IR


@dataclass
class NumbaUnit(Unit):
    """All kernels that are Numba source."""

    kernels: list[FuncOp]
    source: str = field(init=False)

    def __post_init__(self) -> None:
        self.source = numba_module(self.kernels)

    @property
    def key(self) -> str:
        signatures = [str(k.type) for k in self.kernels]
        return digest("numba", build_id(), self.source, *signatures)

    def llvm_ir(self) -> str:
        from concatc.targets.cpu.numba_compile import numba_ir

        path = self.cache.source(self.key, self.source)
        return link(numba_ir(self.source, path, self.kernels), adapters(self.kernels))


class CpuExecutable:
    """A net's native code, loaded."""

    def __init__(self, step: NativeStep, library: Library, units: Sequence[Unit]) -> None:
        self._step = step
        self._library = library
        self._units = units

    @property
    def objects(self) -> list[bytes]:
        """The object code, for :meth:`CpuTarget.load` on this kind of machine."""
        return [unit.object_code() for unit in self._units]

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run a phase; see :class:`concatc.targets.Executable`."""
        self._step.run(bases, phase)

    def text(self, what: str) -> str:
        """``kernels``, ``llvm`` or ``asm``."""
        match what:
            case "kernels":
                return "\n".join(unit.source for unit in self._units if isinstance(unit, NumbaUnit))
            case "llvm":
                return "\n".join(str(optimize(unit.llvm_ir())) for unit in self._units)
            case "asm":
                return "\n".join(assembly(unit.llvm_ir()) for unit in self._units)
        raise UsageError(f"the cpu target emits kernels, llvm and asm, not `{what}`")
