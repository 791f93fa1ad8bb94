"""Reads generated source and makes of each kernel what the emulator runs: one function a statement and expression.

    for i in range(a, b):      ->      a loop as long as any lane is in it; the mask holds those that are
        y[i] = x[i]            ->      Memory.store(machine, i(machine), Memory.load(machine, i(machine)))

The text is parsed, never executed.  What is not in the dialect of docs/TARGET_CUDA.md is a fault of rule ``syntax``.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from concatc.diagnostics import Loc
from concatc.targets.cuda.emulator.arithmetic import TYPES
from concatc.targets.cuda.emulator.copies import require_none
from concatc.targets.cuda.emulator.expressions import Expressions, NotKnownError
from concatc.targets.cuda.emulator.fault import KernelFault
from concatc.targets.cuda.emulator.lanes import Lanes
from concatc.targets.cuda.emulator.machine import Machine
from concatc.targets.cuda.emulator.statements import Statements, Step, run_all

FILE = "kernels.py"  # how the source is called in messages


@dataclass(frozen=True)
class Kernel:
    """A kernel of a program: ``stored`` are the parameters and arrays that it stores to."""

    name: str
    loc: Loc
    parameters: tuple[str, ...]
    stored: frozenset[str]
    steps: tuple[Step, ...]

    def run(self, machine: Machine) -> None:
        """Run some blocks; their arguments are in the machine."""
        run_all(self.steps, machine)
        require_none(machine)


class Program:
    """Generated source, read.  Raises :class:`KernelFault` of rule ``syntax`` for what is not in the dialect."""

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            raise self._fault("the module", str(error), error.lineno or 1, error.offset or 1) from error
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self.constants = self._constants(tree)
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name.  Raises ``KeyError`` where the source has none."""
        if name not in self._kernels:
            self._kernels[name] = self._read(self.functions[name])
        return self._kernels[name]

    def machine(self, kernel: str, lanes: Lanes, grid: int) -> Machine:
        """Blocks of a kernel, before they run."""
        return Machine(kernel, self.source, FILE, lanes, grid)

    def _read(self, node: ast.FunctionDef) -> Kernel:
        parameters = tuple(arg.arg for arg in node.args.args)
        try:
            steps = Statements(FILE, Expressions(self.constants)).block(node.body)
        except NotKnownError as error:
            raise self._fault(node.name, str(error), error.node.lineno, error.node.col_offset + 1) from error
        return Kernel(node.name, Loc(FILE, node.lineno, 1), parameters, frozenset(_stored(node.body)), steps)

    def _constants(self, tree: ast.Module) -> Mapping[str, Any]:
        """The typed constants of the module, ``f32_0 = f32(0.0)``; what else it says is for Numba."""
        found: dict[str, Any] = {}
        probe = self.machine("the module", Lanes(0, 1, 1), 1)
        for node in tree.body:
            match node:
                case ast.Assign([ast.Name(name)], ast.Call(ast.Name(type))) if type in TYPES:
                    found[name] = Expressions({}).expression(node.value)(probe)
        return found

    def _fault(self, kernel: str, message: str, line: int, column: int) -> KernelFault:
        return KernelFault("syntax", message, kernel, Loc(FILE, line, column), self.source)


def _stored(body: Sequence[ast.stmt]) -> list[str]:
    """The names whose elements are stored to."""
    return [
        node.value.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    ]
