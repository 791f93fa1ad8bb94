"""Builds loop IR: ops of ``arith``, ``math``, ``scf`` and ``memref``, each value once and as far out as it can stand.

    with b.loop(zero, n, "i") as loop:                scf.for %i = %c0 to %n step %c1 {
        v = b.load(x, [loop.index])                     %x_ = memref.load %x[%i] : memref<?xf32>
        b.store(v, y, [loop.index])                     memref.store %x_, %y[%i] : memref<?xf32>
                                                      }

Arithmetic goes to the block of its innermost operand, so what does not depend on a loop stands before the loop; an op
with the same operands is made once.  Constants stand at the head of the function.  Loads stay in their block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from concatc.ir.core import Attr, Block, Operation, Region, SymbolRef, Value
from concatc.ir.types import I1, INDEX, MemRefType, ScalarType, Type


@dataclass(eq=False)
class _Scope:
    """An open block, its depth, and the values made in it by what made them."""

    block: Block
    depth: int
    is_branch: bool = False
    made: dict[object, Value] = field(default_factory=dict)


@dataclass(eq=False)
class Loop:
    """An open ``scf.for``: ``yielded`` takes the next values of ``carried``; ``results`` are there once closed."""

    index: Value
    carried: list[Value]
    yielded: list[Value] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)


class LoopBuilder:
    """Appends to ``block``, the body of a function whose arguments are there already."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._constants: list[Operation] = []
        self._scopes = [_Scope(block, 0)]
        self._home: dict[Value, _Scope] = {}

    # -- scopes ----------------------------------------------------------------------------------------------------
    @property
    def depth(self) -> int:
        """How many blocks are open around the current place."""
        return len(self._scopes) - 1

    def visible(self, value: Value) -> bool:
        """Whether the value may be used here."""
        home = self._home.get(value, self._scopes[0])
        return home.depth < len(self._scopes) and self._scopes[home.depth] is home

    def remember(self, key: object, value: Value) -> None:
        """Let :meth:`recall` find ``value`` by ``key`` while the current block is open."""
        self._scopes[-1].made[key] = value

    def recall(self, key: object) -> Value | None:
        """What was remembered under ``key`` in an open block."""
        for scope in reversed(self._scopes):
            if key in scope.made:
                return scope.made[key]
        return None

    def finish(self) -> None:
        """End the function with ``func.return``."""
        assert self.depth == 0
        self._block.append(Operation("func.return"))
        for op in self._constants:
            op.block = self._block
        self._block.ops[:0] = self._constants

    # -- values ----------------------------------------------------------------------------------------------------
    def constant(self, value: int | float | bool, type: Type) -> Value:
        """``arith.constant``."""
        key = ("constant", repr(value), type)
        found = self._scopes[0].made.get(key)
        if found is None:
            name = f"c{value}" if type == INDEX and value >= 0 else ""
            op = Operation("arith.constant", (), [type], {"value": value}, result_names=[name])
            self._constants.append(op)
            found = self._scopes[0].made[key] = op.result
            self._home[found] = self._scopes[0]
        return found

    def index(self, value: int) -> Value:
        """A constant of type ``index``."""
        return self.constant(value, INDEX)

    def pure(
        self,
        name: str,
        operands: Sequence[Value],
        type: Type,
        hint: str = "",
        attributes: Mapping[str, Attr] | None = None,
    ) -> Value:
        """An op without effect."""
        depth = max((self._home[v].depth if v in self._home else 0 for v in operands), default=0)
        scope = self._scopes[depth]
        key = (name, tuple(map(id, operands)), type, tuple((attributes or {}).items()))
        found = scope.made.get(key)
        if found is None:
            op = scope.block.append(Operation(name, operands, [type], attributes, result_names=[hint]))
            found = scope.made[key] = op.result
            self._home[found] = scope
        return found

    def load(self, memory: Value, at: Sequence[Value], hint: str = "", anyway: bool = False) -> Value:
        """``memref.load``; the same element once a block, until something is stored.

        ``anyway``: the element is there whatever the branches around say, so that the load may stand in front of them.
        """
        key = ("load", id(memory), tuple(map(id, at)))
        found = self.recall(key)
        if found is not None:
            return found
        assert isinstance(memory.type, MemRefType)
        scope = self._scopes[-1]
        if anyway:
            depth = max((self._home[v].depth for v in at if v in self._home), default=0)
            scope = next(s for s in reversed(self._scopes) if not s.is_branch or s.depth == depth)
        op = Operation("memref.load", [memory, *at], [ScalarType(memory.type.dtype)], result_names=[hint])
        value = scope.block.append(op).result
        self._home[value] = scope
        scope.made[key] = value
        return value

    def store(self, value: Value, memory: Value, at: Sequence[Value]) -> None:
        """``memref.store``."""
        self._append(Operation("memref.store", [value, memory, *at]))
        for scope in self._scopes:
            for key in [k for k in scope.made if isinstance(k, tuple) and k[:2] == ("load", id(memory))]:
                del scope.made[key]

    def call(self, callee: str, operands: Sequence[Value], attributes: Mapping[str, Attr]) -> Operation:
        """``func.call``, without results."""
        return self._append(Operation("func.call", operands, (), {"callee": SymbolRef(callee), **attributes}))

    def _append(self, op: Operation) -> Operation:
        scope = self._scopes[-1]
        scope.block.append(op)
        for result in op.results:
            self._home[result] = scope
        return op

    # -- regions ---------------------------------------------------------------------------------------------------
    @contextmanager
    def loop(
        self,
        lower: Value,
        upper: Value,
        name: str,
        carried: Sequence[Value] = (),
        hint: str = "acc",
        step: Value | None = None,
    ) -> Iterator[Loop]:
        """``scf.for``, with step 1 unless another one is given."""
        block = Block([INDEX, *(v.type for v in carried)], [name, *(hint for _ in carried)])
        scope = _Scope(block, self.depth + 1)
        for arg in block.args:
            self._home[arg] = scope
        self._scopes.append(scope)
        loop = Loop(block.args[0], block.args[1:])
        yield loop
        self._scopes.pop()
        block.append(Operation("scf.yield", loop.yielded))
        types = [v.type for v in carried]
        operands = [lower, upper, step or self.index(1), *carried]
        names = [hint for _ in carried]
        op = Operation("scf.for", operands, types, regions=[Region([block])], result_names=names)
        loop.results = self._append(op).results

    def branch(
        self,
        condition: Value,
        then: Callable[[], Value | None],
        otherwise: Callable[[], Value] | None = None,
        hint: str = "",
    ) -> Value | None:
        """``scf.if``; its value is that of ``then`` or ``otherwise``, if they have one."""
        blocks: list[Block] = []
        value: Value | None = None
        for make in (then, otherwise):
            block = Block()
            if make is not None:
                self._scopes.append(_Scope(block, self.depth + 1, is_branch=True))
                value = make()
                self._scopes.pop()
                block.append(Operation("scf.yield", [] if value is None else [value]))
                blocks.append(block)
        types = [] if value is None else [value.type]
        op = Operation(
            "scf.if", [condition], types, regions=[Region([b]) for b in blocks], result_names=[hint][: len(types)]
        )
        self._append(op)
        return op.results[0] if types else None

    def not_(self, condition: Value) -> Value:
        """The negation of an ``i1``."""
        return self.pure("arith.xori", [condition, self.constant(True, I1)], I1)
