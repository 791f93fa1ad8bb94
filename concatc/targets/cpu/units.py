"""What is compiled together: the native step, each sum in a nest, all Numba kernels of a net.

A unit knows its LLVM IR, and its key in the cache, which is known before anything is generated.  As a recipe, which is
data, it goes to the processes that compile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from concatc.ir.clone import declaration
from concatc.ir.core import FuncOp, Value
from concatc.ir.parser import parse_module
from concatc.ir.printer import print_functions
from concatc.loops.slices import slices_of
from concatc.loops.stretches import stretches_of
from concatc.loops.structure import structure_of
from concatc.stages import stage
from concatc.targets.cache import Cache, digest
from concatc.targets.cpu.abi import adapters
from concatc.targets.cpu.contraction import contraction_ir
from concatc.targets.cpu.entry_ir import entry_ir
from concatc.targets.cpu.functions import definitions
from concatc.targets.cpu.native import Host, build_id, link, triple
from concatc.targets.cpu.nest import Item, Nest, nests_in, recognize
from concatc.targets.cpu.numba_source import numba_module
from concatc.targets.cpu.runner_ir import runner_ir
from concatc.targets.cpu.tile import Tile, choose_tiles


class Unit(Protocol):
    """``key`` says all that the unit's object code depends on."""

    host: Host
    key: str

    @property
    def kernel_count(self) -> int:
        """How many kernels of the net it holds."""
        ...

    def llvm_ir(self, cache: Cache) -> str:
        """Generate LLVM IR; sources that are generated on the way are kept in the cache."""
        ...

    def recipe(self, cache: Cache) -> dict[str, Any]:
        """The unit as data, which :func:`unit_from` reads."""
        ...


def units_of(kernels: Sequence[FuncOp], host: Host) -> tuple[list[Unit], dict[str, str]]:
    """The units of a loops module, and the symbol of each kernel."""
    units: list[Unit] = [StepUnit(host)]
    symbols: dict[str, str] = {}
    rest: list[FuncOp] = []
    for kernel in kernels:
        items = recognize(kernel)
        tiles = choose_tiles(nests_in(items), host) if items is not None else None
        if items is None or tiles is None:
            symbols[kernel.sym_name] = kernel.sym_name
            rest.append(kernel)
            continue
        unit = SumUnit(host, kernel, items, tiles)
        if unit.symbol not in symbols.values():
            units.append(unit)
        symbols[kernel.sym_name] = unit.symbol
    if rest:
        units.append(NumbaUnit.of(host, rest))
    return units, symbols


def grains_of(units: Sequence[Unit], symbols: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """How many iterations of the loops over each stretch of its chunk a sum in a nest does together."""
    known = {unit.symbol: unit.grains for unit in units if isinstance(unit, SumUnit)}
    return {kernel: known[symbol] for kernel, symbol in symbols.items() if symbol in known}


@dataclass
class StepUnit:
    """The function that runs tables, and the one that Python calls."""

    host: Host
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = digest("step", build_id(self.host))

    @property
    def kernel_count(self) -> int:
        return 0

    def llvm_ir(self, cache: Cache) -> str:
        return f"{runner_ir(triple())}\n{entry_ir()}"

    def recipe(self, cache: Cache) -> dict[str, Any]:
        return {"kind": "step"}


@dataclass
class SumUnit:
    """One kernel that is a sum in a nest, with the stages that share its outer loops."""

    host: Host
    kernel: FuncOp
    items: list[Item]
    tiles: dict[Nest, Tile]
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = digest("sum", build_id(self.host), structure_of(self.kernel))

    @property
    def kernel_count(self) -> int:
        return 1

    @property
    def symbol(self) -> str:
        """The kernel's name in the object code: not the net's, since nets share it."""
        return f"sum.{self.key[:24]}"

    @property
    def grains(self) -> tuple[int, ...]:
        """How many iterations of the loops over each stretch are done together where the most is to be done.

        Then the same of the loops that are run in slices, by stretch.
        """
        stretches = stretches_of(self.kernel)
        sliced = [slices_of(self.kernel, s.ops if len(stretches) > 1 else self.kernel.body.ops) for s in stretches]
        loops = [*(s.ops for s in stretches), *(s.loops if s is not None else () for s in sliced)]
        return tuple(self._grain({loop.regions[0].block.args[0] for loop in ops}) for ops in loops)

    def _grain(self, cut: Collection[Value]) -> int:
        tiles = {nest: tile for nest, tile in self.tiles.items() if any(axis.index in cut for axis in nest.axes)}
        sums = [nest for nest in tiles if nest.term is not None]
        products = [
            nest for nest in sums if nest.term is not None and nest.term.op and nest.term.op.name == "arith.mulf"
        ]
        steps = [
            tile.row(axis) * (tile.lanes if axis is tile.vector else 1)
            for nest, tile in tiles.items()
            for axis in nest.axes
            if axis.index in cut and nest in (products or sums or tiles)
        ]
        return max(steps, default=1)

    @property
    def description(self) -> str:
        """How it is vectorised, as a comment for readers of generated source."""
        tiles = [_described(tile) for nest, tile in self.tiles.items() if nest.axes]
        return f"# {self.kernel.sym_name}: LLVM IR, a tile is {'; then '.join(tiles)}"

    def llvm_ir(self, cache: Cache) -> str:
        return contraction_ir(self.kernel, self.items, self.tiles, self.host, self.symbol)

    def recipe(self, cache: Cache) -> dict[str, Any]:
        return {"kind": "sum", "loops": print_functions([self.kernel])}


def unit_from(recipe: Mapping[str, Any], host: Host) -> tuple[Unit, Cache]:
    """The unit of a recipe, and the cache that holds its sources."""
    cache = Cache(Path(recipe.get("cache", "")))
    if recipe["kind"] == "step":
        return StepUnit(host), cache
    kernels = parse_module(recipe["loops"]).functions
    if recipe["kind"] == "numba":
        return NumbaUnit(host, kernels, recipe["source"], recipe["functions"]), cache
    units, _ = units_of(kernels, host)
    return units[1], cache  # behind the step


def _described(tile: Tile) -> str:
    rows = [f"{n} rows of {axis.index.name}" for axis, n in tile.rows.items() if axis is not tile.vector]
    if tile.vector is None:
        return ", ".join(rows)
    return ", ".join([f"{tile.row(tile.vector)} vectors of {tile.lanes} along {tile.vector.index.name}", *rows])


@dataclass
class NumbaUnit:
    """All kernels that are Numba source; of the kernels themselves only names and arguments are looked at."""

    host: Host
    kernels: Sequence[FuncOp]
    source: str
    functions: Mapping[str, str]
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = digest("numba", build_id(self.host), self.source, *map(_signature, self.kernels))

    @staticmethod
    def of(host: Host, kernels: Sequence[FuncOp]) -> NumbaUnit:
        """The unit of some kernels."""
        return NumbaUnit(host, kernels, *numba_module(kernels))

    @property
    def kernel_count(self) -> int:
        return len(self.kernels)

    def path(self, cache: Cache) -> Path:
        """The file that holds the source."""
        return cache.source(self.key, self.source)

    def llvm_ir(self, cache: Cache) -> str:
        with stage("Numba"):
            from concatc.targets.cpu.numba_compile import numba_ir  # imports Numba

            text = numba_ir(self.source, self.path(cache), self.kernels, self.functions)
        with stage("LLVM"):
            return link(text, adapters(self.kernels), definitions(text, self.host.fma))

    def recipe(self, cache: Cache) -> dict[str, Any]:
        self.path(cache)  # who follows the recipe reads it there
        declared = print_functions(map(declaration, self.kernels))
        told = {"source": self.source, "functions": dict(self.functions), "cache": str(cache.directory)}
        return {"kind": "numba", "loops": declared, **told}


def _signature(kernel: FuncOp) -> str:
    return " ".join([kernel.sym_name, *(f"{arg.type}{sorted(arg.attrs)}" for arg in kernel.args)])
