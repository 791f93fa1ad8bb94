"""The integers of functions apart from everything else, so that two can be seen as one function at two sizes.

    %y = "cnet.relu"(%x) : (tensor<64x3xf32>) -> tensor<64x3xf32>     ->     64, 3, 64, 3     and the rest

Integers are extents of types and integers in attributes; floats, texts, names and what reads what are the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from concatc.ir.core import Attr, Block, FuncOp, Operation, Region, Value
from concatc.ir.types import TensorType, Type


def numbers_of(functions: Iterable[FuncOp]) -> tuple[list[int], list[object]]:
    """The integers of functions, in order, and the rest; functions of an equal rest differ in integers only."""
    numbers: list[int] = []
    rest: list[object] = []

    def take(n: int) -> int:
        numbers.append(n)
        return n

    walk = _Walk(take, rest)
    for function in functions:
        walk.function(function)
    return numbers, rest


@dataclass(frozen=True)
class Numbered:
    """The integers of functions, in order, and a digest of the rest."""

    numbers: list[int]
    rest: str

    @staticmethod
    def of(functions: Iterable[FuncOp]) -> Numbered:
        """Those of some functions."""
        numbers, rest = numbers_of(functions)
        return Numbered(numbers, digest_of(rest))


def digest_of(rest: object) -> str:
    """A digest of plain data, equal where the data is: of another process's, too."""
    return hashlib.sha256(repr(rest).encode()).hexdigest()


def with_numbers(functions: Iterable[FuncOp], numbers: Iterable[int]) -> list[FuncOp]:
    """Copies of functions with other integers, in the order of :func:`numbers_of`."""
    given = iter(numbers)
    walk = _Walk(lambda _: next(given), None)
    return [walk.function(function) for function in functions]


class _Walk:
    """Copies IR, each integer as ``take`` gives it back; ``rest`` gets what is no integer."""

    def __init__(self, take: Callable[[int], int], rest: list[object] | None) -> None:
        self._take = take
        self._rest = rest
        self._values: dict[Value, Value] = {}
        self._number: dict[Value, int] = {}

    def function(self, old: FuncOp) -> FuncOp:
        self._note((old.sym_name, old.private, len(old.args), [a.name for a in old.args], old.declared is None))
        made = FuncOp(
            old.sym_name,
            [self._type(a.type) for a in old.args],
            [a.name for a in old.args],
            self.attributes(old.attributes),
            old.loc,
            old.private,
            None if old.declared is None else [self._type(t) for t in old.declared],
        )
        self._match(old.body, made.body)
        self._ops(old.body, made.body)
        made.result_attrs = [self.attributes(attrs) for attrs in old.result_attrs]
        return made

    def attributes(self, attrs: Mapping[str, Attr]) -> dict[str, Attr]:
        self._note(len(attrs))
        found: dict[str, Attr] = {}
        for name, value in attrs.items():
            self._note(name)
            found[name] = self._attr(value)
        return found

    def _note(self, thing: object) -> None:
        if self._rest is not None:
            self._rest.append(thing)

    def _attr(self, value: Attr) -> Attr:
        if isinstance(value, int) and not isinstance(value, bool):
            return self._take(value)
        if isinstance(value, tuple):
            self._note(("tuple", len(value)))
            return tuple(self._attr(item) for item in value)
        if isinstance(value, Mapping):
            return self.attributes(value)
        if isinstance(value, Type):
            return self._type(value)
        self._note((type(value).__name__, repr(value)))
        return value

    def _type(self, type: Type) -> Type:
        if not isinstance(type, TensorType):
            self._note(str(type))
            return type
        self._note((type.rank, type.dtype))
        return TensorType(tuple(map(self._take, type.shape)), type.dtype)

    def _match(self, old: Block, new: Block) -> None:
        for a, b in zip(old.args, new.args, strict=True):
            b.attrs = self.attributes(a.attrs)
            self._know(a, b)

    def _know(self, old: Value, new: Value) -> None:
        self._number[old] = len(self._number)
        self._values[old] = new

    def _ops(self, old: Block, new: Block) -> None:
        for op in old.ops:
            self._note((op.name, [self._number[v] for v in op.operands], len(op.results), len(op.regions)))
            made = Operation(
                op.name,
                [self._values[v] for v in op.operands],
                [self._type(r.type) for r in op.results],
                self.attributes(op.attributes),
                [self._region(region) for region in op.regions],
                op.loc,
                [r.name for r in op.results],
            )
            for a, b in zip(op.results, made.results, strict=True):
                self._know(a, b)
            new.append(made)

    def _region(self, old: Region) -> Region:
        made = Region()
        for block in old.blocks:
            self._note(len(block.args))
            copied = made.add_block(Block([self._type(a.type) for a in block.args], [a.name for a in block.args]))
            self._match(block, copied)
            self._ops(block, copied)
        return made
