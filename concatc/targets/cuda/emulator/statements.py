"""Statements of the dialect as functions of a machine: assignments, loops, branches, barriers.

Where threads take several ways, each way runs with a mask of those that take it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from concatc.diagnostics import Loc
from concatc.targets.cuda.emulator.arithmetic import OperandError, Value, cast
from concatc.targets.cuda.emulator.copies import commit_copies, copy_async, copy_four, wait_for_copies
from concatc.targets.cuda.emulator.expressions import Evaluate, Expressions, NotKnownError
from concatc.targets.cuda.emulator.machine import Machine
from concatc.targets.cuda.emulator.memory import Memory

Step = Callable[[Machine], None]
BARRIER = "cuda.syncthreads"
COPIES = {"copy_async": copy_async, "copy_four": copy_four}
GROUPS: dict[str, Step] = {"commit_copies": commit_copies, "wait_for_copies": wait_for_copies}


def run_all(steps: Iterable[Step], machine: Machine) -> None:
    """Run statements one behind the other."""
    for step in steps:
        step(machine)


class Statements:
    """Makes functions of the statements of a file."""

    def __init__(self, file: str, expressions: Expressions) -> None:
        self.file = file
        self.expressions = expressions

    def block(self, nodes: Sequence[ast.stmt]) -> tuple[Step, ...]:
        """What the statements do."""
        return tuple(self._placed(node) for node in nodes if not isinstance(node, ast.Pass) and not _is_text(node))

    def _placed(self, node: ast.stmt) -> Step:
        step = self._statement(node)
        loc = Loc(self.file, node.lineno, node.col_offset + 1, node.end_lineno or 0, (node.end_col_offset or 0) + 1)
        if isinstance(node, ast.For | ast.If):
            loc = Loc(self.file, node.lineno, node.col_offset + 1)

        def placed(m: Machine) -> None:
            m.loc = loc
            try:
                step(m)
            except OperandError as error:
                m.fail("types", str(error))

        return placed

    def _statement(self, node: ast.stmt) -> Step:
        match node:
            case ast.Assign([target], value):
                return self._assign(target, value)
            case ast.AugAssign(target, op, value):
                read = ast.copy_location(_as_read(target), node)
                return self._assign(target, ast.copy_location(ast.BinOp(read, op, value), node))
            case ast.Expr(ast.Call() as call) if ast.unparse(call) == f"{BARRIER}()":
                return Machine.barrier
            case ast.Expr(ast.Call(ast.Name(name), [], [])) if name in GROUPS:
                return GROUPS[name]
            case ast.Expr(
                ast.Call(ast.Name(name), [ast.Name() as shared, place, ast.Name() as memory, index, there], [])
            ):
                return self._copy(node, name, (shared, place), (memory, index), there)
            case ast.For(ast.Name(name), ast.Call(ast.Name("range"), bounds, []), body, []):
                return self._for(node, name, bounds, body)
            case ast.If(test, body, orelse):
                return _branch(self.expressions.expression(test), self.block(body), self.block(orelse))
        raise NotKnownError(node, f"`{ast.unparse(node).splitlines()[0]}` is no statement of the dialect")

    def _copy(
        self,
        node: ast.stmt,
        name: str,
        shared: tuple[ast.expr, ast.expr],
        memory: tuple[ast.expr, ast.expr],
        there: ast.expr,
    ) -> Step:
        if name not in COPIES:
            raise NotKnownError(node, f"the dialect has no function `{name}` of five arguments")
        copy, is_there = COPIES[name], self.expressions.expression(there)
        to, at = self.expressions.memory(shared[0]), self.expressions.expression(shared[1])
        source, of = self.expressions.memory(memory[0]), self.expressions.expression(memory[1])
        return lambda m: copy(m, to(m), at(m), source(m), of(m), is_there(m))

    def _assign(self, target: ast.expr, value: ast.expr) -> Step:
        if isinstance(target, ast.Tuple):
            if not isinstance(value, ast.Tuple) or len(value.elts) != len(target.elts):
                raise NotKnownError(target, "several names are given as many values")
            stores = [self._store(name) for name in target.elts]
            values = [self.expressions.expression(v) for v in value.elts]

            def swap(m: Machine) -> None:
                for store, number in zip(stores, [v(m) for v in values], strict=True):
                    store(m, number)

            return swap
        store, number = self._store(target), self.expressions.expression(value)
        return lambda m: store(m, number(m))

    def _store(self, target: ast.expr) -> Callable[[Machine, Value], None]:
        match target:
            case ast.Name(name):
                return lambda m, value: m.set(name, _named(value, name))
            case ast.Subscript(ast.Name(), index):
                memory, at = self.expressions.memory(target.value), self.expressions.expression(index)
                return lambda m, value: memory(m).store(m, at(m), value)
        raise NotKnownError(target, f"`{ast.unparse(target)}` is given a value")

    def _for(self, node: ast.For, name: str, bounds: Sequence[ast.expr], body: Sequence[ast.stmt]) -> Step:
        if not 1 <= len(bounds) <= 3:
            raise NotKnownError(node, "a range has one to three bounds")
        limits = [self._limit(b) for b in bounds]
        steps = self.block(body)

        def loop(m: Machine) -> None:
            values = [limit(m) for limit in limits]
            start, stop, step = (np.int64(0), *values, np.int64(1)) if len(values) == 1 else (*values, np.int64(1))[:3]
            if any(v.dtype.kind not in "iu" for v in (start, stop, step)):
                raise OperandError("a range of floats")
            m.forbid("overflow", "a loop that does not go up", step <= 0)
            index = np.add(start, np.int64(0))
            entered = m.mask
            while True:
                m.mask, any_left = m.narrowed(index < stop)
                if not any_left:
                    break
                m.set(name, index)
                run_all(steps, m)
                # Lanes that have left count on: their index is not below `stop` again.
                index = np.add(index, step, dtype=np.int64)
            m.mask = entered

        return loop

    def _limit(self, node: ast.expr) -> Evaluate:
        """A bound of a loop; one that is cut down to 32 bits must fit, since no loop is meant to wrap."""
        match node:
            case ast.Call(ast.Name("i32"), [inner], []):
                whole = self.expressions.expression(inner)
            case _:
                return self.expressions.expression(node)
        most = np.iinfo(np.int32).max

        def limit(m: Machine) -> Value:
            value = whole(m)
            m.forbid("overflow", "the bound of a loop has more than 32 bits", (value > most) | (value < -most))
            return cast(value, np.dtype(np.int32))

        return limit


def _named(value: Value, name: str) -> Value:
    """An array is called what the source calls it."""
    if isinstance(value, Memory):
        value.name = name
    return value


def _branch(test: Evaluate, body: Sequence[Step], orelse: Sequence[Step]) -> Step:
    def branch(m: Machine) -> None:
        condition = test(m).astype(np.bool_)
        before = m.mask
        for steps, taken in ((body, condition), (orelse, ~condition)):
            m.mask, any_here = m.narrowed(taken)
            if any_here and steps:
                run_all(steps, m)
            m.mask = before

    return branch


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _as_read(target: ast.expr) -> ast.expr:
    match target:
        case ast.Name(name):
            return ast.Name(name, ast.Load())
        case ast.Subscript(value, index):
            return ast.copy_location(ast.Subscript(value, index, ast.Load()), target)
    raise NotKnownError(target, f"`{ast.unparse(target)}` is added to")
