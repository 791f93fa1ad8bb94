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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from concatc.ir.core import Operation, Value
from concatc.ir.types import ELEMENT_BYTES, MemRefType
from concatc.targets.cpu.ahead import Ahead
from concatc.targets.cpu.guards import is_zero, jumps
from concatc.targets.cpu.lane_sums import lane_sums, neighbours_of, sum_rows
from concatc.targets.cpu.lanes import BIT, I32, I64, LaneBuilder
from concatc.targets.cpu.nest import NestAxis, enclosing_if
from concatc.targets.cpu.sum_blocks import SHORT, TERMS, Block, SumBlocks, sum_blocks_of
from concatc.targets.cpu.tile_values import Offsets
from concatc.targets.cpu.transpose import interleave, transpose


class Stage(Ahead):
    """Emits a nest inside of the loops of the frame that are open."""

    blocks: SumBlocks | None = None
    stores_partial = False  # what is stored are sums, to which the next block adds

    def emit(self) -> None:
        """Emit the loops of the stage."""
        self.blocks = sum_blocks_of(self.nest, self.tile)
        if self.blocks is None:
            self._parallel(self.nest.parallel)
        else:
            self._in_blocks(self.blocks)

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

    def _in_blocks(self, blocks: SumBlocks) -> None:
        """The loops, once for each block of the sum."""
        b, axis = self.b, blocks.axis
        lower, upper = self.bound(axis.lower), self.bound(axis.upper)
        whole = b.icmp_signed("<=", upper, I64(SHORT))
        if blocks.flag is not None:
            whole = b.or_(whole, self.bound(blocks.flag))
        step = b.select(whole, upper, I64(TERMS))

        def block(_: list[Any]) -> list[Any]:
            start = self.base[axis]
            end = b.add(start, step)
            is_last = b.icmp_signed(">=", end, upper)
            is_begun = b.icmp_signed(">", start, lower)
            self.block = Block(start, b.select(is_last, upper, end), is_begun, is_last, b.select(whole, I64(0), step))
            self._parallel(self.nest.parallel)
            return []

        self.frame.loop(axis, lower, upper, step, [], block)

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
        self._prefetch_further_on()
        totals: list[Any] = [None] * len(offsets)
        if self.nest.term is not None:
            totals = [self.lane.zero(self.nest.dtype)] * len(offsets)
            self._prefetch_behind()
            if self.blocks is not None and self.block is not None:
                self._sum_of_block(self.blocks, self.block, offsets, totals)
                return
            totals = self._reduce(self.nest.term, self.nest.reduce, offsets, totals)
        self._epilogue(offsets, totals)

    def _sum_of_block(self, blocks: SumBlocks, block: Block, offsets: list[Offsets], totals: list[Any]) -> None:
        """Add a block of terms to what the blocks before have stored; what a sum becomes is stored in the last one."""
        assert self.nest.term is not None
        b, before = self.b, self.b.block
        with self._only_here(), b.if_then(block.is_begun):
            old, inside = [self._partial(blocks.store, at) for at in offsets], b.block
        begun = []
        for zero, partial in zip(totals, old, strict=True):
            begun.append(b.phi(partial.type))
            begun[-1].add_incoming(zero, before)
            begun[-1].add_incoming(partial, inside)
        totals = self._reduce(self.nest.term, self.nest.reduce, offsets, begun)
        with b.if_else(block.is_last) as (last, others):
            with last, self._only_here():
                self._epilogue(offsets, totals)
            with others, self._only_here():
                self.stores_partial = True
                self._store_sums(offsets, totals)
                self.stores_partial = False

    def _partial(self, store: Operation, offsets: Offsets) -> Any:
        """The sums that lie where the result will."""
        _, memory, *at = store.operands
        assert isinstance(memory.type, MemRefType)
        pointer, _ = self._address(memory, at, offsets)
        return self.lane.load(pointer, memory.type.dtype, self._tail_mask(offsets))

    @contextmanager
    def _only_here(self) -> Iterator[None]:
        """Keep what is computed behind a jump from what stands behind it."""
        self.scopes.append({})
        yield
        self.scopes.pop()

    def _reduce(self, term: Value, axes: Sequence[NestAxis], offsets: list[Offsets], totals: list[Any]) -> list[Any]:
        if not axes:
            return [self._step(term, at, total) for at, total in zip(offsets, totals, strict=True)]
        axis, b = axes[0], self.b
        if axis in self.tile.taps:
            for tap in self._taps_upwards(axis):
                totals = self._reduce(term, axes[1:], [{**at, axis: tap} for at in offsets], totals)
            return totals

        def body(carried: list[Any]) -> list[Any]:
            if all(a in self.tile.taps for a in axes[1:]):
                self._prefetch_rows()
                self._prefetch_block(axis)
                return self._reduce(term, axes[1:], offsets, carried)
            with self._unless_nothing(axis, carried) as totals:
                self._hoist()
                totals += self._reduce(term, axes[1:], offsets, carried)
            return totals

        with self._axis(axis):
            lower, upper = self.bound(axis.lower), self.upper[axis]
            if self.block is not None:
                lower, upper = self.block.start, self.block.end
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
        vector = self.tile.vector
        if vector is None or not vector.reduce or self.nest.total is None:
            self._store_sums(offsets, totals)
            return
        element_bytes, along = ELEMENT_BYTES[self.nest.dtype], neighbours_of(self.nest, self.tile)
        if along is None:
            self._store_sums(offsets, lane_sums(self.b, totals, element_bytes))
            return
        starts = [at for at in offsets if not at[along]]
        rows = [[k for k, at in enumerate(offsets) if {**at, along: 0} == start] for start in starts]
        totals = sum_rows(self.b, totals, element_bytes, rows)
        with self._in_lanes(along):
            self._store_sums(starts, totals)

    @contextmanager
    def _in_lanes(self, axis: NestAxis) -> Iterator[None]:
        """Let the rows of an axis, which are side by side, be the lanes of what is computed."""
        tile, exact, lane = self.tile, self.exact, self.lane
        lanes = tile.row(axis)
        self._take(replace(tile, vector=axis, lanes=lanes, rows={**tile.rows, axis: 1}))
        self.exact = exact
        self.lane = LaneBuilder(self.frame.module, self.b, lanes, self.frame.host)
        yield
        self._take(tile)
        self.exact, self.lane = exact, lane

    def _store_sums(self, offsets: list[Offsets], totals: list[Any]) -> None:
        vector, zipped = self.tile.vector, self.tile.zipped
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

    def _store(self, op: Operation, offsets: Offsets) -> None:
        value, memory, *at = op.operands
        assert isinstance(memory.type, MemRefType)
        dtype = memory.type.dtype
        if self.stores_partial and self.nest.total is not None:
            value = self.nest.total
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
