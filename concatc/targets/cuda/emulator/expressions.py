"""Expressions of the dialect as functions of a machine: what a line computes, in all lanes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from concatc.targets.cuda.emulator import arithmetic
from concatc.targets.cuda.emulator.arithmetic import BINARY, COMPARE, FORBIDDEN, FUNCTIONS, TYPES, Value
from concatc.targets.cuda.emulator.machine import Machine
from concatc.targets.cuda.emulator.memory import Memory, own_array
from concatc.targets.cuda.emulator.tensor_cores import mma, tf32, tf32_rest, vector, vector_sum
from concatc.targets.cuda.emulator.warps import SHUFFLES, shuffle

Evaluate = Callable[[Machine], Any]

NUMBERS: dict[str, Value] = {"np.inf": np.float64(np.inf), "np.nan": np.float64(np.nan)}
PLACES: dict[str, Evaluate] = {
    "cuda.threadIdx.x": lambda m: m.lanes.thread,
    "cuda.blockIdx.x": lambda m: m.lanes.block,
    "cuda.blockDim.x": lambda m: np.int32(m.lanes.threads),
    "cuda.gridDim.x": lambda m: np.int32(m.grid),
}
VECTORS: dict[str, Callable[..., Value]] = {"tf32": tf32, "tf32_rest": tf32_rest, "vector_sum": vector_sum}


class NotKnownError(Exception):
    """Something that the dialect has not, at a node of the source."""

    def __init__(self, node: ast.stmt | ast.expr, what: str) -> None:
        super().__init__(what)
        self.node = node


class Expressions:
    """Makes functions of expressions; ``constants`` are the module's."""

    def __init__(self, constants: Mapping[str, Value]) -> None:
        self.constants = constants

    def expression(self, node: ast.expr) -> Evaluate:
        """What the node is worth in each lane."""
        match node:
            case ast.Constant(literal):
                if not isinstance(literal, bool | int | float):
                    raise NotKnownError(node, f"a constant {literal!r}")
                number = arithmetic.constant(literal)
                return lambda m: number
            case ast.Name(name):
                return self._name(name)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Subscript(ast.Name(name), index):
                return self._element(name, index)
            case ast.Tuple(parts):
                values = [self.expression(part) for part in parts]
                return lambda m: vector(m, [value(m) for value in values])
            case ast.BinOp(left, op, right):
                return self._binary(type(op).__name__, BINARY, [left, right], node)
            case ast.Compare(left, [op], [right]):
                return self._binary(type(op).__name__, COMPARE, [left, right], node)
            case ast.UnaryOp(ast.USub(), inner):
                value = self.expression(inner)
                return lambda m: arithmetic.negative(value(m))
            case ast.UnaryOp(ast.Not(), inner):
                value = self.expression(inner)
                return lambda m: ~value(m).astype(np.bool_)
            case ast.BoolOp(op, values):
                return self._short(isinstance(op, ast.And), [self.expression(v) for v in values])
            case ast.Call(function, arguments, []):
                return self._call(node, _dotted(function), arguments)
        raise NotKnownError(node, f"`{ast.unparse(node)}` is no expression of the dialect")

    def memory(self, node: ast.expr) -> Callable[[Machine], Memory]:
        """The memory that a name stands for."""
        assert isinstance(node, ast.Name)
        name = node.id

        def of(m: Machine) -> Memory:
            found = m.get(name)
            if not isinstance(found, Memory):
                m.fail("types", f"`{name}` is a number, and indexed")
            return found

        return of

    def _element(self, name: str, index: ast.expr) -> Evaluate:
        """``x[i]`` of memory, or ``acc[2]`` of what a thread holds."""
        at = self.expression(index)

        def of(m: Machine) -> Value:
            found = m.get(name)
            if isinstance(found, Memory):
                return found.load(m, at(m))
            if np.ndim(found) != 2 or not isinstance(index, ast.Constant):
                m.fail("types", f"`{name}` is a number, and indexed")
            return found[int(at(m))]

        return of

    def _name(self, name: str) -> Evaluate:
        if name in self.constants:
            number = self.constants[name]
            return lambda m: number

        def of(m: Machine) -> Value:
            found = m.get(name)
            if isinstance(found, Memory):
                m.fail("types", f"`{name}` is memory, and used as a number")
            return found

        return of

    def _attribute(self, node: ast.Attribute) -> Evaluate:
        name = _dotted(node)
        if name in NUMBERS:
            number = NUMBERS[name]
            return lambda m: number
        if name in PLACES:
            return PLACES[name]
        raise NotKnownError(node, f"`{name}` is no name of the dialect")

    def _binary(
        self, op: str, table: Mapping[str, Callable[..., Value]], sides: list[ast.expr], node: ast.expr
    ) -> Evaluate:
        if op not in table:
            raise NotKnownError(node, f"the dialect has no operator {op}")
        left, right = (self.expression(side) for side in sides)
        return _function(op, table[op], [left, right])

    def _short(self, is_and: bool, values: list[Evaluate]) -> Evaluate:
        """``and`` and ``or``: what stands right runs where it decides only."""

        def of(m: Machine) -> Value:
            before, result = m.mask, values[0](m)
            for value in values[1:]:
                m.mask, any_left = m.narrowed(result if is_and else ~result)
                if any_left:
                    result = result & value(m) if is_and else result | value(m)
                m.mask = before
            return result

        return of

    def _call(self, node: ast.Call, name: str, arguments: list[ast.expr]) -> Evaluate:
        kind, _, last = name.rpartition(".")
        if name in ("cuda.shared.array", "cuda.local.array"):
            return _array(node, shared=name == "cuda.shared.array")
        values = [self.expression(a) for a in arguments]
        if name in TYPES and len(values) == 1:
            return _cast(TYPES[name], values[0])
        if name in FUNCTIONS:
            return _function(name, FUNCTIONS[name], values)
        if name in VECTORS:
            return _function(name, VECTORS[name], values)
        if name == "mma" and len(values) == 3:
            a, b, total = values
            return lambda m: mma(m, a(m), b(m), total(m))
        if kind == "cuda" and last in SHUFFLES and len(values) == 3:
            members, value, by = values
            return lambda m: shuffle(m, last, members(m), value(m), by(m))
        raise NotKnownError(node, f"the dialect has no function `{name}` of {len(arguments)} arguments")


def _function(name: str, function: Callable[..., Value], values: list[Evaluate]) -> Evaluate:
    if name in FORBIDDEN and len(values) == 2:
        forbidden = FORBIDDEN[name]
        left, right = values

        def checked(m: Machine) -> Value:
            a, b = left(m), right(m)
            message, wrong = forbidden(a, b)
            m.forbid("overflow", message, wrong)
            return function(a, b)

        return checked
    if len(values) == 2:
        left, right = values
        return lambda m: function(left(m), right(m))
    return lambda m: function(*(value(m) for value in values))


def _cast(dtype: np.dtype[Any], value: Evaluate) -> Evaluate:
    def of(m: Machine) -> Value:
        number = value(m)
        if number.dtype.kind == "f" and dtype.kind in "iu":
            m.forbid("overflow", f"a float that no {dtype} holds", arithmetic.not_held(number, dtype))
        return arithmetic.cast(number, dtype)

    return of


def _array(node: ast.Call, shared: bool) -> Evaluate:
    """``cuda.shared.array(512, f32, 16)``, of a block, or ``cuda.local.array(16, f32)``, of a thread."""
    match node.args:
        case [ast.Constant(int(numel)), ast.Name(type), *rest] if type in TYPES and numel > 0 and len(rest) < 2:
            dtype, text = TYPES[type], ast.unparse(node)
            alignment = rest[0].value if rest and isinstance(rest[0], ast.Constant) else dtype.itemsize
        case _:
            raise NotKnownError(node, "an array has a constant number of elements, and a type")

    def of(m: Machine) -> Memory:
        if m.mask is not None:
            m.fail("syntax", f"`{text}` stands where only some threads are")
        if shared:
            starts = m.lanes.local_block * numel
            return own_array(text, numel, dtype, starts, m.lanes.blocks, m.lanes.threads, int(str(alignment)))
        return own_array(text, numel, dtype, np.arange(m.lanes.count) * numel, m.lanes.count, 0)

    return of


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{_dotted(value)}.{name}"
    raise NotKnownError(node, f"`{ast.unparse(node)}` is no name")
