"""The values of a tile: what each value of the loops is for some rows and lanes, computed once where it is known.

    %3 = memref.load %x[%i, %k], rows i, i + 1       two loads of one element, each the same in all lanes
    %4 = memref.load %w[%k, %o], vector o            one load of a vector; behind the end of o its mask is off

A value belongs to the rows of the unrolled axes that it depends on, and to the scope of the loop in which all its axes
are known; who asks again there or further inside gets what has been computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llvmlite import ir

from concatc.ir.core import Operation, Value
from concatc.ir.types import MemRefType
from concatc.loops.python_source import known_strides
from concatc.targets.cpu.abi import Memory
from concatc.targets.cpu.frame import Frame
from concatc.targets.cpu.guards import conjuncts, is_zero
from concatc.targets.cpu.lanes import BIT, I32, I64, LLVM_TYPES, SIGNED, LaneBuilder, Lanes
from concatc.targets.cpu.near import Asked, load_near
from concatc.targets.cpu.nest import Nest, NestAxis, constant_of, enclosing_if, values_of
from concatc.targets.cpu.tile import Tile

Offsets = dict[NestAxis, int]  # which row (or vector) of each unrolled axis


class TileValues:
    """Evaluates the values of a nest inside of the loops of the frame that are open."""

    def __init__(self, frame: Frame, nest: Nest, tile: Tile) -> None:
        self.frame, self.nest = frame, nest
        self.b, self.scopes, self.base = frame.b, frame.scopes, frame.base
        self.lane = LaneBuilder(frame.module, self.b, tile.lanes, frame.host)
        self.upper: dict[NestAxis, Any] = {}
        self.open = frozenset((*tile.taps, *nest.outer))
        self.in_tail = False
        self.term_values = values_of(nest)
        self._take(tile)

    def _take(self, tile: Tile) -> None:
        self.tile = tile
        self.exact: dict[NestAxis, bool] = {a: self._is_exact(a) for a in self.nest.axes}
        self.unrolled = [a for a in self.nest.axes if tile.row(a) > 1 or a in tile.taps]

    def _step_of(self, axis: NestAxis) -> int:
        return self.tile.row(axis) * (self.tile.lanes if axis is self.tile.vector else 1)

    def _is_exact(self, axis: NestAxis) -> bool:
        step = self._step_of(axis)
        return step == 1 or (axis.extent is not None and axis.extent % step == 0)

    def bound(self, value: Value) -> Any:
        """A bound of a loop: the same in all lanes and rows."""
        return self._value(value, {})

    def _count(self, axis: NestAxis) -> int:
        """How many iterations of an unrolled axis are written out."""
        if axis not in self.tile.taps:
            return self.tile.row(axis)
        assert axis.extent is not None
        return axis.extent

    def _combinations(self, axes: Sequence[NestAxis]) -> list[Offsets]:
        choices = itertools.product(*(range(self._count(a)) for a in axes))
        return [dict(zip(axes, choice, strict=True)) for choice in choices]

    def _written_out(self, offsets: Offsets) -> Offsets:
        """The iterations of axes that are written out as a whole."""
        whole = (a for a in offsets if a in self.tile.taps or self.tile.row(a) == a.extent)
        return {a: offsets[a] for a in whole if a is not self.tile.vector and constant_of(a.lower) == 0}

    # -- values ----------------------------------------------------------------------------------------------------
    def _key(self, value: Value, offsets: Offsets) -> tuple[Value, tuple[int, ...]]:
        axes = self.nest.axes_of(value)
        return value, tuple(offsets[a] for a in self.unrolled if a in axes)

    def _value(self, value: Value, offsets: Offsets) -> Any:
        """The value in this tile: an LLVM scalar, a vector, or :class:`Lanes`."""
        key = self._key(value, offsets)
        for scope in reversed(self.scopes):
            if key in scope:
                return scope[key]
        made = self._new_value(value, offsets)
        self.scopes[-1][key] = made
        return made

    def _new_value(self, value: Value, offsets: Offsets) -> Any:
        if value in self.frame.arguments:
            return self.frame.arguments[value]
        op = value.op
        if op is None:
            axis = next(a for a in (*self.nest.outer, *self.nest.axes) if a.index is value)
            return self._index(axis, offsets.get(axis, 0))
        if op.name == "arith.constant":
            return ir.Constant(LLVM_TYPES[str(value.type)], op.attributes["value"])
        if op.name == "memref.load":
            return self._load(op, offsets)
        if op.name == "scf.if":
            return self._choice(op, value.index, offsets)
        if op.name == "scf.for":
            return self._window(op, offsets)[value.index]
        return self.lane.apply(op, [self._value(v, offsets) for v in op.operands])

    def _window(self, loop: Operation, offsets: Offsets) -> list[Any]:
        """The results of a small fold, written out.

        What is computed inside is known in one iteration, for one row.
        """
        low, high = (constant_of(v) for v in loop.operands[:2])
        assert low is not None and high is not None
        carried = [self._value(v, offsets) for v in loop.operands[3:]]
        index, *arguments = loop.regions[0].block.args
        scope = self.scopes[-1]
        for k in range(low, high):
            bound = {
                self._key(v, offsets): made for v, made in zip((index, *arguments), (I64(k), *carried), strict=True)
            }
            self.scopes.append(bound)
            carried = [self._value(v, offsets) for v in loop.regions[0].block.ops[-1].operands]
            self.scopes.pop()
        scope.update({self._key(v, offsets): made for v, made in zip(loop.results, carried, strict=True)})
        return carried

    def _index(self, axis: NestAxis, row: int) -> Any:
        low = constant_of(axis.lower)
        if axis in self.tile.taps:
            return I64(low + row) if low is not None else self.b.add(self.bound(axis.lower), I64(row))
        base = self.base[axis]
        if axis is self.tile.vector:
            lanes = self.tile.lanes
            base = self.b.add(base, I64(row * lanes)) if row else base
            return Lanes(base, tuple(range(lanes)), lanes if low == 0 else 1)
        if row == 0:
            return base
        index = self.b.add(base, I64(row))
        if self.exact[axis]:
            return index
        last = self.b.sub(self.upper[axis], I64(1))
        return self.b.select(self.b.icmp_signed("<", index, last), index, last)

    def _choice(self, op: Operation, number: int, offsets: Offsets) -> Any:
        yes, no = (region.block.ops[-1].operands[number] for region in op.regions)
        known = self.nest.known(op.operands[0], self._written_out(offsets))
        if known is not None:
            return self._value(yes if known else no, offsets)
        condition = self._value(op.operands[0], offsets)
        chosen = self._value(yes, offsets)
        if yes.op is not None and yes.op.name == "memref.load" and is_zero(no) and enclosing_if(yes.op) is op:
            return chosen  # a masked load is 0 where its mask is off
        return self.b.select(*self.lane.together(condition, chosen, self._value(no, offsets)))

    def _lanes_inside(self, offsets: Offsets) -> Any:
        """How many lanes of a vector lie inside of the axis, as an i64 that may be any number; None for all."""
        axis = self.tile.vector
        if axis is None or (not self.in_tail if axis.reduce else self.exact[axis]):
            return None
        start = self.b.add(self.base[axis], I64(offsets.get(axis, 0) * self.tile.lanes))
        return self.b.sub(self.upper[axis], start)

    def _tail_mask(self, offsets: Offsets) -> Any:
        """The lanes of a vector that lie inside of the axis; None for all."""
        axis = self.tile.vector
        if axis is None or (not self.in_tail if axis.reduce else self.exact[axis]):
            return None
        marked = (axis.upper, (-1, *self._key(axis.index, offsets)[1]))
        for scope in reversed(self.scopes):
            if marked in scope:
                return scope[marked]
        self.scopes[-1][marked] = mask = self.lane.below(self._lanes_inside(offsets))
        return mask

    def _asked(self, load: Operation, offsets: Offsets) -> Asked:
        """The conditions around a load."""
        same: Any = None
        each: Any = None
        elements: list[tuple[str, Any]] = []
        index = self._moving_index(load, offsets)
        op, outer = load, enclosing_if(load)
        while outer is not None:
            if self.nest.known(outer.operands[0], self._written_out(offsets)) is not None:
                # Known to hold: nothing is read where it does not.
                op, outer = outer, enclosing_if(outer)
                continue
            holds = op.block is outer.regions[0].block
            for value in conjuncts(outer.operands[0]) if holds else [outer.operands[0]]:
                if holds and self.nest.known(value, self._written_out(offsets)):
                    continue
                bound = self._element_bound(value, index, offsets) if holds and index is not None else None
                if bound is not None:
                    elements.append(bound)
                    continue
                condition = self._value(value, offsets)
                if holds and isinstance(condition, ir.Constant) and condition.constant == 1:
                    continue
                is_vector = self.lane.is_vector(condition)
                if not holds:
                    condition = self.b.xor(condition, self.lane.vector(BIT(1)) if is_vector else BIT(1))
                if is_vector:
                    each = self.lane.both(each, condition)
                else:
                    same = self.lane.both(same, condition)
            op, outer = outer, enclosing_if(outer)
        return Asked(same, each, elements=tuple(elements))

    def _moving_index(self, load: Operation, offsets: Offsets) -> Value | None:
        """The index of a load that alone differs by lane, along neighbouring elements; None if there is none."""
        memory, *at = load.operands
        assert isinstance(memory.type, MemRefType)
        moving = [
            (index, stride)
            for index, stride in zip(at, known_strides(memory.type), strict=True)
            if isinstance(value := self._value(index, offsets), Lanes) or self.lane.is_vector(value)
        ]
        if len(moving) != 1:
            return None
        ((index, stride),) = moving
        lanes = self._value(index, offsets)
        # Lanes that all read one element have no elements between them: `x[j // 16]`.
        return index if stride == 1 and isinstance(lanes, Lanes) and len(set(lanes.offsets)) > 1 else None

    def _element_bound(self, condition: Value, index: Value, offsets: Offsets) -> tuple[str, Any] | None:
        """A bound of the index of a load as one of the number of its elements; None where it is no such condition."""
        op, lanes = condition.op, self._value(index, offsets)
        if op is None or op.name != "arith.cmpi" or op.operands[0] is not index:
            return None
        sign, bound = SIGNED.get(str(op.attributes["predicate"])), self._value(op.operands[1], offsets)
        if sign is None or isinstance(bound, Lanes) or self.lane.is_vector(bound):
            return None
        first = self.b.add(lanes.base, I64(min(lanes.offsets)))
        return sign, self.b.trunc(self.b.sub(bound, first), I32)

    # -- memory ----------------------------------------------------------------------------------------------------
    def _address(self, memory: Value, at: Sequence[Value], offsets: Offsets) -> tuple[Any, Any]:
        """A pointer, and how many elements behind it each lane's element is: numbers, none negative, or a vector."""
        assert isinstance(memory.type, MemRefType)
        where: Memory = self.frame.arguments[memory]
        b = self.b
        start: Any = I64(0)
        near = [0] * self.tile.lanes
        spread: Any = None
        for d, (index, known) in enumerate(zip(at, known_strides(memory.type), strict=True)):
            stride = I64(known) if known is not None else where.strides[d]
            value = self._value(index, offsets)
            part = value if self.lane.is_vector(value) else None
            if isinstance(value, Lanes):
                start = b.add(start, b.mul(value.base, stride))
                if known is not None:
                    near = [n + x * known for n, x in zip(near, value.offsets, strict=True)]
                elif any(value.offsets):
                    part = self.lane.numbers(value.offsets)
            elif part is None:
                start = b.add(start, b.mul(value, stride))
            if part is not None:
                part = b.mul(part, self.lane.splat(stride))
                spread = part if spread is None else b.add(spread, part)
        low = min(near)
        near = [n - low for n in near]
        pointer = b.gep(
            where.pointer, [b.add(start, I64(low)) if low else start], source_etype=LLVM_TYPES[memory.type.dtype]
        )
        if spread is None:
            return pointer, tuple(near)
        return pointer, b.add(spread, self.lane.numbers(near)) if any(near) else spread

    def _load(self, op: Operation, offsets: Offsets) -> Any:
        memory, *at = op.operands
        assert isinstance(memory.type, MemRefType)
        dtype = memory.type.dtype
        pointer, spread = self._address(memory, at, offsets)
        asked = self._asked(op, offsets)
        if isinstance(spread, tuple) and not any(spread):
            begun = self._is_begun(op, offsets)
            return self._load_one(pointer, dtype, self.lane.every(asked.same, asked.each, begun))
        if isinstance(spread, tuple):
            asked = replace(asked, inside=self._lanes_inside(offsets))
            flag = self._flag_of(op)
            if flag is None:
                return load_near(self.lane, pointer, spread, dtype, asked)
            return self._where(flag, lambda: load_near(self.lane, pointer, spread, dtype, asked))
        mask = self.lane.every(asked.same, asked.each, self._tail_mask(offsets))
        return self.lane.gather(self.lane.pointers(pointer, spread, dtype), dtype, mask)

    def _flag_of(self, load: Operation) -> Any:
        """The argument of the kernel that alone says whether anything is loaded; None where there is none."""
        choice = enclosing_if(load)
        if choice is None or choice.operands[0].op is not None or load.block is not choice.regions[0].block:
            return None
        return self.frame.arguments.get(choice.operands[0])

    def _where(self, flag: Any, load: Callable[[], Any]) -> Any:
        """What is loaded, or zeros, by a jump.

        A load whose mask is off waits all the same for what was stored beside it: the last row's end, where rows do
        not fill vectors.
        """
        b, before = self.b, self.b.block
        with b.if_then(flag):
            loaded, inside = load(), b.block
        found = b.phi(loaded.type)
        found.add_incoming(ir.Constant(loaded.type, None), before)
        found.add_incoming(loaded, inside)
        return found

    def _is_begun(self, load: Operation, offsets: Offsets) -> Any:
        """Whether a vector has lanes inside of the axis, where what all of them read depends on it: `x[j // 16]`.

        None where it does, or where it does not matter.
        """
        vector = self.tile.vector
        if vector is None or not offsets.get(vector) or vector not in self.nest.axes_of(load.result):
            return None
        inside = self._lanes_inside(offsets)
        return self.b.icmp_signed(">", inside, I64(0)) if inside is not None else None

    def _load_one(self, pointer: Any, dtype: str, guard: Any) -> Any:
        type = LLVM_TYPES[dtype]
        if guard is None:
            return self.b.load(pointer, typ=type)
        # Where the guard is off the address may lie anywhere: a zero is read instead.
        if not self.lane.is_vector(guard):
            return self.b.load(self.b.select(guard, pointer, self.frame.dummy), typ=type)
        bits = self.b.bitcast(guard, ir.IntType(self.tile.lanes))
        some = self.b.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))
        element = self.b.load(self.b.select(some, pointer, self.frame.dummy), typ=type)
        # One element for all lanes, but not all lanes are to have it.
        return self.b.select(guard, self.lane.splat(element), self.lane.zero(dtype))
