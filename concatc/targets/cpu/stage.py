"""Code of one stage of a kernel: unrolled, jammed and vectorised as its tile says.

    for i in steps of 4, for o in steps of 4:            the parallel axes, a tile at a time
        acc[4][4] = 0                                    vectors, in registers
        for k in steps of 16:                            the reduce axes
            acc[r][s] += x[i + r, k ..] * w[o + s, k ..]     each load once, for all rows that share it
        y[i + r, o + s] = epilogue(sum of lanes of acc[r][s])

Every value of the loops is evaluated once for each combination of the unrolled axes that it depends on, in the
outermost loop of the stage where all its axes are known.  Rows beyond the end of an axis read the last row and are not
stored; lanes beyond it are masked.  So nothing outside of the windows is touched.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from llvmlite import ir

from concatc.ir.core import Operation, Value
from concatc.ir.types import ELEMENT_BYTES, MemRefType
from concatc.targets.cpu.abi import Memory
from concatc.targets.cpu.frame import Frame
from concatc.targets.cpu.guards import conjuncts, is_zero, jumps
from concatc.targets.cpu.lane_sums import lane_sums
from concatc.targets.cpu.lanes import BIT, I32, I64, LLVM_TYPES, SIGNED, LaneBuilder, Lanes
from concatc.targets.cpu.near import Asked, load_near
from concatc.targets.cpu.nest import Nest, NestAxis, constant_of, enclosing_if, values_of
from concatc.targets.cpu.numba_source import known_strides
from concatc.targets.cpu.tile import Tile
from concatc.targets.cpu.transpose import interleave, transpose

Offsets = dict[NestAxis, int]  # which row (or vector) of each unrolled axis


class Stage:
    """Emits a nest inside of the loops of the frame that are open."""

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

    def emit(self) -> None:
        """Emit the loops of the stage."""
        self._parallel(self.nest.parallel)

    # -- loops -----------------------------------------------------------------------------------------------------
    def _parallel(self, axes: Sequence[NestAxis]) -> None:
        if not axes:
            self._tile()
            return
        axis = axes[0]
        with self._axis(axis):
            lower, upper = self.bound(axis.lower), self.upper[axis]
            rest = self.tile.rest if axis is self.tile.vector else None
            if axis.extent is not None and (rest is not None or self._ends_apart(axis)):
                # Whole tiles need no masks; of what is left, fewer vectors may do.
                whole = self.b.add(lower, I64(axis.extent - axis.extent % self._step_of(axis)))
                self.exact[axis] = True
                self._loop_over(axis, lower, whole, axes[1:])
                self._take(rest or self.tile)
                lower = whole
            self._loop_over(axis, lower, upper, axes[1:])

    def _loop_over(self, axis: NestAxis, lower: Any, upper: Any, inner: Sequence[NestAxis]) -> None:
        self.frame.loop(axis, lower, upper, self._step_of(axis), [], lambda _: self._inner(inner))

    def _ends_apart(self, axis: NestAxis) -> bool:
        """Whether the end of a row has code of its own, so that all other vectors need no mask."""
        written_out = all(a in self.tile.taps for a in self.nest.reduce)
        long = (axis.extent or 0) >= 3 * self._step_of(axis)
        return written_out and axis is self.tile.vector and not self.exact[axis] and long

    def _inner(self, axes: Sequence[NestAxis]) -> list[Any]:
        if axes and self.nest.term is None:
            self._hoist()
        self._parallel(axes)
        return []

    @contextmanager
    def _axis(self, axis: NestAxis) -> Iterator[None]:
        self.upper[axis] = self.bound(axis.upper)
        self.open |= {axis}
        yield
        self.open -= {axis}

    def bound(self, value: Value) -> Any:
        """A bound of a loop: the same in all lanes and rows."""
        return self._value(value, {})

    def _tile(self) -> None:
        offsets = self._combinations([a for a in self.nest.parallel if a in self.unrolled])
        if not self.nest.parallel:
            # What is computed here may be read by the stages behind: it stays in the scope of the loops around.
            self._all_of_it(offsets)
            return
        self.scopes.append({})
        self._all_of_it(offsets)
        self.scopes.pop()

    def _all_of_it(self, offsets: list[Offsets]) -> None:
        self._hoist()
        totals: list[Any] = [None] * len(offsets)
        if self.nest.term is not None:
            totals = [self.lane.zero(self.nest.dtype)] * len(offsets)
            totals = self._reduce(self.nest.term, self.nest.reduce, offsets, totals)
        self._epilogue(offsets, totals)

    def _reduce(self, term: Value, axes: Sequence[NestAxis], offsets: list[Offsets], totals: list[Any]) -> list[Any]:
        if not axes:
            return [self._step(term, at, total) for at, total in zip(offsets, totals, strict=True)]
        axis, b = axes[0], self.b
        if axis in self.tile.taps:
            for tap in range(self._count(axis)):
                totals = self._reduce(term, axes[1:], [{**at, axis: tap} for at in offsets], totals)
            return totals

        def body(carried: list[Any]) -> list[Any]:
            if all(a in self.tile.taps for a in axes[1:]):
                return self._reduce(term, axes[1:], offsets, carried)
            with self._unless_nothing(axis, carried) as totals:
                self._hoist()
                totals += self._reduce(term, axes[1:], offsets, carried)
            return totals

        with self._axis(axis):
            lower, upper = self.bound(axis.lower), self.upper[axis]
            if axis is not self.tile.vector:
                return self.frame.loop(axis, lower, upper, 1, totals, body)
            lanes = self.tile.lanes
            if self.exact[axis]:
                return self.frame.loop(axis, lower, upper, lanes, totals, body)
            whole = b.add(lower, b.and_(b.sub(upper, lower), I64(-lanes)))
            totals = self.frame.loop(axis, lower, whole, lanes, totals, body)
            self.in_tail = True
            totals = self.frame.loop(axis, whole, upper, lanes, totals, body)
            self.in_tail = False
            return totals

    @contextmanager
    def _unless_nothing(self, axis: NestAxis, carried: list[Any]) -> Iterator[list[Any]]:
        """Jump over an iteration of which guards say that all its terms are 0: a row of taps beside the image.

        What the iteration makes of ``carried`` is appended to the list; behind it, the list holds what is made if any.
        """
        guards = jumps(self.nest, axis, self.tile.spread)
        totals: list[Any] = []
        if not guards:
            yield totals
            return
        b = self.b
        inside = functools.reduce(self.lane.both, [self._value(g, {}) for g in guards])
        before = b.block
        with b.if_then(inside):
            # Loads need no guard that holds here.
            self.scopes[-1].update((self._key(g, {}), BIT(1)) for g in guards)
            yield totals
            after = b.block
        for k, (old, new) in enumerate(zip(carried, totals, strict=True)):
            totals[k] = b.phi(old.type)
            totals[k].add_incoming(old, before)
            totals[k].add_incoming(new, after)

    def _count(self, axis: NestAxis) -> int:
        """How many iterations of an unrolled axis are written out."""
        if axis not in self.tile.taps:
            return self.tile.row(axis)
        assert axis.extent is not None
        return axis.extent

    def _combinations(self, axes: Sequence[NestAxis]) -> list[Offsets]:
        choices = itertools.product(*(range(self._count(a)) for a in axes))
        return [dict(zip(axes, choice, strict=True)) for choice in choices]

    def _hoist(self) -> None:
        """Evaluate here what needs no loop further inside."""
        for value in self.term_values:
            axes = self.nest.axes_of(value)
            if axes <= self.open:
                for offsets in self._combinations([a for a in self.unrolled if a in axes]):
                    if not self._is_unread(value, offsets):
                        self._value(value, offsets)

    def _is_unread(self, value: Value, offsets: Offsets) -> bool:
        """Whether a guard that is known to be off stands in front of a value."""
        op = value.op
        outer = enclosing_if(op) if op is not None else None
        return self._is_nothing(value, offsets) or (
            outer is not None and self.nest.known(outer.operands[0], self._written_out(offsets)) == 0
        )

    # -- one step, and the end -------------------------------------------------------------------------------------
    def _step(self, term: Value, offsets: Offsets, total: Any) -> Any:
        op = term.op
        if op is not None and op.name == "arith.mulf" and any(self._is_nothing(v, offsets) for v in op.operands):
            return total
        if op is not None and op.name == "arith.mulf" and len(op.result.uses) == 1:
            a, b = (self._only_lanes_inside(self._value(v, offsets)) for v in op.operands)
            return self.lane.multiply_add(a, b, total)
        return self.lane.add(total, self._only_lanes_inside(self._value(term, offsets)))

    def _is_nothing(self, factor: Value, offsets: Offsets) -> bool:
        """Whether a guarded load is known to read nothing here: a tap that a phase of a stride does not meet."""
        op = factor.op
        if op is None or op.name != "scf.if" or not is_zero(op.regions[1].block.ops[-1].operands[factor.index]):
            return False
        return self.nest.known(op.operands[0], self._written_out(offsets)) == 0

    def _written_out(self, offsets: Offsets) -> Offsets:
        """The iterations of axes that are written out as a whole."""
        whole = (a for a in offsets if a in self.tile.taps or self.tile.row(a) == a.extent)
        return {a: offsets[a] for a in whole if a is not self.tile.vector and constant_of(a.lower) == 0}

    def _only_lanes_inside(self, value: Any) -> Any:
        """0 in the lanes beyond the end of a vectorised sum."""
        if not self.in_tail:
            return value
        return self.b.select(self._tail_mask({}), self.lane.vector(value), self.lane.zero(self.nest.dtype))

    def _epilogue(self, offsets: list[Offsets], totals: list[Any]) -> None:
        if self.tile.across is not None:
            for store in self.nest.stores:
                self._store_across(store, self.tile.across)
            return
        vector, zipped = self.tile.vector, self.tile.zipped
        if vector is not None and vector.reduce and self.nest.total is not None:
            totals = lane_sums(self.b, totals, ELEMENT_BYTES[self.nest.dtype])
        made = list(zip(offsets, totals, strict=True))
        for at, total in made:
            together = [(at, total)]
            if zipped is not None:
                if at[zipped]:
                    continue
                together = [(other, t) for other, t in made if {**other, zipped: 0} == at]
            guards = [self._inside(axis, r) for axis, r in at.items() if axis is not vector]
            valid = [g for g in guards if g is not None]
            if not valid:
                self._store_together(together)
                continue
            self.scopes.append({})
            condition = valid[0]
            for guard in valid[1:]:
                condition = self.b.and_(condition, guard)
            with self.b.if_then(condition):
                self._store_together(together)
            self.scopes.pop()

    def _inside(self, axis: NestAxis, row: int) -> Any:
        if row == 0 or self.exact[axis]:
            return None
        return self.b.icmp_signed("<", self.b.add(self.base[axis], I64(row)), self.upper[axis])

    def _store_together(self, made: Sequence[tuple[Offsets, Any]]) -> None:
        if self.tile.zipped is None:
            ((offsets, total),) = made
            self._store_all(offsets, total)
            return
        assert self.nest.total is not None
        for offsets, total in made:
            self.scopes[-1][self._key(self.nest.total, offsets)] = total
        for store in self.nest.stores:
            self._store_zipped(store, [offsets for offsets, _ in made])

    def _store_all(self, offsets: Offsets, total: Any) -> None:
        if self.nest.total is not None:
            self.scopes[-1][self._key(self.nest.total, offsets)] = total
        for store in self.nest.stores:
            self._store(store, offsets)

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
        return index if stride == 1 and isinstance(self._value(index, offsets), Lanes) else None

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
            return self._load_one(pointer, dtype, self.lane.both(asked.same, asked.each))
        if isinstance(spread, tuple):
            asked = replace(asked, inside=self._lanes_inside(offsets))
            return load_near(self.lane, pointer, spread, dtype, asked)
        mask = self.lane.every(asked.same, asked.each, self._tail_mask(offsets))
        return self.lane.gather(self.lane.pointers(pointer, spread, dtype), dtype, mask)

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

    def _store(self, op: Operation, offsets: Offsets) -> None:
        value, memory, *at = op.operands
        assert isinstance(memory.type, MemRefType)
        dtype = memory.type.dtype
        stored = self._value(value, offsets)
        pointer, spread = self._address(memory, at, offsets)
        if self.tile.vector is None or self.tile.vector.reduce:
            self.b.store(stored, pointer)
            return
        stored, mask = self.lane.vector(stored), self._tail_mask(offsets)
        if spread == tuple(range(self.tile.lanes)):
            self.lane.store(stored, pointer, dtype, mask)
            return
        spread = self.lane.numbers(spread) if isinstance(spread, tuple) else spread
        self.lane.scatter(stored, self.lane.pointers(pointer, spread, dtype), dtype, mask)

    def _store_zipped(self, op: Operation, rows: Sequence[Offsets]) -> None:
        """Store vectors element by element in turn: they lie in each other's gaps."""
        value, memory, *at = op.operands
        assert isinstance(memory.type, MemRefType) and self.tile.vector is not None
        b, lanes, vector, first = self.b, self.tile.lanes, self.tile.vector, rows[0]
        made = interleave(b, [self.lane.vector(self._value(value, offsets)) for offsets in rows])
        pointer, _ = self._address(memory, at, first)
        count = None
        if not self.exact[vector]:
            start = b.add(self.base[vector], I64(first.get(vector, 0) * lanes))
            count = b.mul(b.sub(self.upper[vector], start), I64(len(rows)))
        for k, part in enumerate(made):
            mask = self.lane.below(b.sub(count, I64(k * lanes))) if count is not None else None
            place = b.gep(pointer, [I64(k * lanes)], source_etype=part.type.element)
            self.lane.store(part, place, memory.type.dtype, mask)

    def _store_across(self, op: Operation, rows: NestAxis) -> None:
        """Store a square of vectors, transposed: the rows become lanes, which lie side by side."""
        value, memory, *at = op.operands
        assert isinstance(memory.type, MemRefType) and self.tile.vector is not None
        b, lanes, vector = self.b, self.tile.lanes, self.tile.vector
        square = transpose(b, [self.lane.vector(self._value(value, {rows: r, vector: 0})) for r in range(lanes)])
        pointer, spread = self._address(memory, at, {rows: 0, vector: 0})
        stride = I64(spread[1]) if isinstance(spread, tuple) else b.extract_element(spread, I32(1))
        inside = None if self.exact[rows] else self.lane.below(b.sub(self.upper[rows], self.base[rows]))
        count = None if self.exact[vector] else b.sub(self.upper[vector], self.base[vector])
        for k, column in enumerate(square):
            there = b.icmp_signed("<", I64(k), count) if count is not None else None
            place = b.gep(pointer, [b.mul(I64(k), stride)], source_etype=column.type.element)
            self.lane.store(column, place, memory.type.dtype, self.lane.both(inside, there))
