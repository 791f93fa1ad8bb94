"""The ``cpu`` target: from loops to native code that runs a step.

    loops -> Numba source (fused kernels), LLVM IR (contractions, the step) -> object code, cached -> one call a phase

It reads nothing but the loops module: what is edited there is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from concatc.diagnostics import UsageError
from concatc.ir.core import FuncOp, Module
from concatc.loops.structure import structure_of
from concatc.targets import Lowered
from concatc.targets.cpu.abi import adapters, kernel_symbol
from concatc.targets.cpu.cache import Cache, default_directory, digest
from concatc.targets.cpu.contraction import contraction_ir
from concatc.targets.cpu.native import Library, assembly, build_id, collector_paused, host, link, object_code, optimize
from concatc.targets.cpu.nest import Nest, recognize
from concatc.targets.cpu.numba_source import numba_module
from concatc.targets.cpu.step import RUNNER, RUNNER_IR, NativeStep, step_table
from concatc.targets.cpu.tile import Tile, choose_tile


@dataclass(frozen=True)
class ObjectCode:
    """What a loops module compiles to: object files, and the symbol of each kernel in them."""

    objects: list[bytes]
    symbols: dict[str, str]


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
        with collector_paused():
            units, symbols = _units(loops.functions[1:], self.cache or Cache(default_directory()))
            code = ObjectCode([_object_of(unit) for unit in units], symbols)
        return self.load(loops, code, units)

    def load(self, loops: Module, code: ObjectCode, units: Sequence[Unit] = ()) -> CpuExecutable:
        """Load object code that was made of the same loops module."""
        library = Library(code.objects)
        addresses = {kernel: library.address(kernel_symbol(symbol)) for kernel, symbol in code.symbols.items()}
        step = NativeStep(step_table(loops.main), library.address(RUNNER), addresses)
        return CpuExecutable(step, library, code, units)


def _units(kernels: Sequence[FuncOp], cache: Cache) -> tuple[list[Unit], dict[str, str]]:
    """What is compiled, and the symbol of each kernel."""
    units: list[Unit] = [StepUnit(cache)]
    symbols: dict[str, str] = {}
    rest: list[FuncOp] = []
    for kernel in kernels:
        nest = recognize(kernel)
        tile = choose_tile(nest, host()) if nest is not None else None
        if nest is None or tile is None:
            symbols[kernel.sym_name] = kernel.sym_name
            rest.append(kernel)
            continue
        unit = ContractionUnit(cache, nest, tile)
        if unit.symbol not in symbols.values():
            units.append(unit)
        symbols[kernel.sym_name] = unit.symbol
    if rest:
        units.append(NumbaUnit(cache, rest))
    return units, symbols


class Unit(Protocol):
    """What is compiled together, and its place in the cache: ``key``."""

    cache: Cache
    key: str

    def llvm_ir(self) -> str:
        """Generate LLVM IR."""
        ...


def _object_of(unit: Unit) -> bytes:
    """From the cache, or compiled now."""
    found = unit.cache.load(unit.key)
    if found is None:
        found = object_code(unit.llvm_ir())
        unit.cache.store(unit.key, found)
    return found


def _signature(kernel: FuncOp) -> str:
    return " ".join([kernel.sym_name, *(f"{arg.type}{sorted(arg.attrs)}" for arg in kernel.args)])


@dataclass
class StepUnit:
    """The function that runs tables."""

    cache: Cache
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = digest("step", build_id())

    def llvm_ir(self) -> str:
        return RUNNER_IR


@dataclass
class ContractionUnit:
    """One kernel that is a sum in a nest."""

    cache: Cache
    nest: Nest
    tile: Tile
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = digest("contraction", build_id(), structure_of(self.nest.kernel))

    @property
    def symbol(self) -> str:
        """The kernel's name in the object code: not the net's, since nets share it."""
        return f"sum.{self.key[:24]}"

    @property
    def description(self) -> str:
        """How it is vectorised, as a comment for readers of generated source."""
        tile = self.tile
        rows = [f"{n} rows of {axis.index.name}" for axis, n in tile.rows.items() if axis is not tile.vector]
        vectors = f"{tile.row(tile.vector)} vectors of {tile.lanes} along {tile.vector.index.name}"
        return f"# {self.nest.kernel.sym_name}: LLVM IR, a tile is {', '.join([vectors, *rows])}"

    def llvm_ir(self) -> str:
        return contraction_ir(self.nest, self.tile, host(), self.symbol)


@dataclass
class NumbaUnit:
    """All kernels that are Numba source."""

    cache: Cache
    kernels: list[FuncOp]
    source: str = field(init=False)
    functions: dict[str, str] = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.source, self.functions = numba_module(self.kernels)
        self.key = digest("numba", build_id(), self.source, *(_signature(k) for k in self.kernels))

    def llvm_ir(self) -> str:
        from concatc.targets.cpu.numba_compile import numba_ir

        path = self.cache.source(self.key, self.source)
        return link(numba_ir(self.source, path, self.kernels, self.functions), adapters(self.kernels))


class CpuExecutable:
    """A net's native code, loaded."""

    def __init__(self, step: NativeStep, library: Library, code: ObjectCode, units: Sequence[Unit]) -> None:
        self.code = code
        self._step = step
        self._library = library
        self._units = units

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run a phase; see :class:`concatc.targets.Executable`."""
        self._step.run(bases, phase)

    def text(self, what: str) -> str:
        """``kernels``, ``llvm`` or ``asm``."""
        match what:
            case "kernels":
                sums = [unit.description for unit in self._units if isinstance(unit, ContractionUnit)]
                return "\n".join(sums + [unit.source for unit in self._units if isinstance(unit, NumbaUnit)])
            case "llvm":
                return "\n".join(str(optimize(unit.llvm_ir())) for unit in self._units)
            case "asm":
                return "\n".join(assembly(unit.llvm_ir()) for unit in self._units)
        raise UsageError(f"the cpu target emits kernels, llvm and asm, not `{what}`")
