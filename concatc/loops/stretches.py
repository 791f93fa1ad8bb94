"""Reads off a kernel which loops run over ``begin .. end``, by stretches of it.

    scf.for %c = %begin to min(%end, %n_c)                          stretch 0: %n_c iterations
    scf.for %n = max(%begin - %n_c, 0) to %end - %n_c               stretch 1: what is left

A kernel without stretches has one, ``%begin to %end``, perhaps inside of other loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import INDEX

# A number of iterations: a number, times sizes of the kernel by their number.
Extent = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Loops:
    """The loops over one stretch; its extent, or None for what is left."""

    ops: tuple[Operation, ...]
    extent: Extent | None


def stretches_of(kernel: FuncOp) -> list[Loops]:
    """The loops over each stretch, in order; none where ``begin`` and ``end`` are used for anything else."""
    args = kernel.args
    if len(args) < 2 or args[0].type != INDEX or args[1].type != INDEX:
        return []
    begin, end = args[:2]
    reader = _Reader(begin, end, [arg for arg in args[2:] if arg.type == INDEX])
    loops = [op for op in kernel.walk() if op.name == "scf.for" and reader.is_over_chunk(op)]
    if not loops or not reader.is_all(loops):
        return []
    return reader.stretches(kernel, loops)


@dataclass
class _Reader:
    begin: Value
    end: Value
    sizes: list[Value]

    def is_over_chunk(self, loop: Operation) -> bool:
        """Whether a loop begins where the chunk does."""
        return self._offset(loop.operands[0], self.begin) is not None

    def _offset(self, value: Value, edge: Value) -> tuple[Value, ...] | None:
        """Nothing where a bound is ``begin`` or ``end``, ``n`` where it is that less ``n``; None for another value."""
        op = value.op
        if value is edge:
            return ()
        if op is None:
            return None
        if op.name == "arith.subi" and op.operands[0] is edge:
            return (op.operands[1],)
        if edge is self.begin and op.name == "arith.maxsi" and constant_of(op.operands[1]) == 0:
            return self._offset(op.operands[0], edge) or None
        if edge is self.end and op.name == "arith.minsi":
            return self._offset(op.operands[0], edge)
        return None

    def is_all(self, loops: list[Operation]) -> bool:
        """Whether begin and end, and what is computed from them, are bounds of these loops and nothing else."""
        waiting: list[tuple[Value, int]] = [(self.begin, 0), (self.end, 1)]
        while waiting:
            value, bound = waiting.pop()
            for use in value.uses:
                if use.op in loops:
                    if use.index != bound:
                        return False
                elif use.index == 0 and use.op.name in ("arith.subi", ("arith.maxsi", "arith.minsi")[bound]):
                    waiting.append((use.op.result, bound))
                else:
                    return False
        return True

    def stretches(self, kernel: FuncOp, loops: list[Operation]) -> list[Loops]:
        """These loops by stretches; none where stretches do not lie one behind the other."""
        groups: list[tuple[tuple[Value, ...], list[Operation]]] = []
        for loop in loops:
            lower, upper = loop.operands[:2]
            offset = self._offset(lower, self.begin)
            if offset is None or self._offset(upper, self.end) != offset:
                return []
            if loop.results or constant_of(loop.operands[2]) != 1:
                return []
            if not groups or groups[-1][0] != offset:
                groups.append((offset, []))
            groups[-1][1].append(loop)
        if len(groups) > 1 and any(loop.block is not kernel.body for loop in loops):
            return []
        found: list[Loops] = []
        total: tuple[Value | int, ...] = ()
        for k, (offset, ops) in enumerate(groups):
            if tuple(_terms(offset)) != total:
                return []
            extents = [self._extent(loop.operands[1]) for loop in ops]
            is_last = k + 1 == len(groups)
            if any(e is not extents[0] for e in extents) or (extents[0] is None) != is_last:
                return []
            extent = self._number(extents[0]) if extents[0] is not None else None
            if extents[0] is not None:
                if extent is None:
                    return []
                total = (*total, *_terms(extents[:1]))
            found.append(Loops(tuple(ops), extent))
        return found

    def _extent(self, upper: Value) -> Value | None:
        """``n`` of ``min(.., n)``."""
        return upper.op.operands[1] if upper.op is not None and upper.op.name == "arith.minsi" else None

    def _number(self, value: Value) -> Extent | None:
        literal = constant_of(value)
        if literal is not None:
            return (literal, ()) if literal >= 0 else None
        return (1, (self.sizes.index(value),)) if value in self.sizes else None


def _terms(values: list[Value | None] | tuple[Value, ...]) -> Iterator[Value | int]:
    """The terms of sums, numbers as such."""
    for value in values:
        assert value is not None
        literal = constant_of(value)
        if literal is not None:
            yield literal
        elif value.op is not None and value.op.name == "arith.addi":
            yield from _terms(tuple(value.op.operands))
        else:
            yield value


def constant_of(value: Value) -> int | None:
    """The integer that a value is, if it is a literal."""
    literal = value.op.attributes["value"] if value.op is not None and value.op.name == "arith.constant" else None
    return literal if isinstance(literal, int) else None


def part_of(lower: Value, upper: Value) -> tuple[Value, Value, int] | None:
    """``(part, n, parts)`` of a loop over one of several parts of ``n`` iterations.

    Its bounds are ``part * n // parts`` and ``(part + 1) * n // parts``.
    """
    ends = [_part_start(bound) for bound in (lower, upper)]
    first, second = ends
    if first is None or second is None or first[1] is not second[1] or first[2] != second[2]:
        return None
    following = second[0].op
    if following is None or following.name != "arith.addi" or following.operands[0] is not first[0]:
        return None
    return first if constant_of(following.operands[1]) == 1 else None


def _part_start(bound: Value) -> tuple[Value, Value, int] | None:
    if bound.op is None or bound.op.name != "arith.divsi":
        return None
    scaled, parts = bound.op.operands[0].op, constant_of(bound.op.operands[1])
    if scaled is None or scaled.name != "arith.muli" or parts is None or parts < 1:
        return None
    part, n = scaled.operands
    # An argument: it is the same for all parts.
    return (part, n, parts) if n.op is None and loop_of(n) is None else None


def loop_of(value: Value) -> Operation | None:
    """The loop of which a value is the variable, or one that it carries."""
    block = value.owner if isinstance(value.owner, Block) else None
    parent = block.region.parent if block is not None and block.region is not None else None
    return parent if parent is not None and parent.name == "scf.for" else None
