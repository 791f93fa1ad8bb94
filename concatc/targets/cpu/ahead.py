"""Code that asks for memory ahead: what `prefetch.py` and `sum_blocks.py` say that a tile will read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concatc.ir.core import Operation, Value
from concatc.ir.types import ELEMENT_BYTES, MemRefType
from concatc.loops.python_source import known_strides
from concatc.targets.cpu.abi import Memory
from concatc.targets.cpu.lanes import I64
from concatc.targets.cpu.nest import NestAxis
from concatc.targets.cpu.prefetch import (
    FURTHER_ON,
    LINE,
    next_rows,
    read_behind,
    rows_of_image,
    waits_for_memory,
)
from concatc.targets.cpu.sum_blocks import Block
from concatc.targets.cpu.tile_values import Offsets, TileValues


class Ahead(TileValues):
    """The values of a tile, and those that will be read soon."""

    block: Block | None = None

    def _taps_upwards(self, axis: NestAxis) -> Sequence[int]:
        """The iterations of an axis that is written out, in the order in which vectors that they read lie in memory.

        A processor fetches ahead what lies behind the last reads, not what lies in front of them; so the gradient of
        an image, which reads ``g[i + 1 - a]``, begins with its last tap.
        """
        taps, nest = range(self._count(axis)), self.nest
        read = [load for load in nest.loads() if self.tile.vector in nest.axes_of(load.result)]
        steps = [nest.step(index, axis) for load in read for index in load.operands[1:]]
        return taps[::-1] if any(step is not None and step < 0 for step in steps) else taps

    def _prefetch_behind(self) -> None:
        """Ask for what stands behind the sum reads."""
        if waits_for_memory(self.nest, self.tile):
            for load in read_behind(self.nest, self.tile):
                self._prefetch(load, {})

    def _prefetch_rows(self) -> None:
        """Ask for the rows that the next tile reads first."""
        if not waits_for_memory(self.nest, self.tile):
            return
        last = {tap: self._taps_upwards(tap)[-1] for tap in self.tile.taps}
        for load, steps in next_rows(self.nest, self.tile):
            self._prefetch(load, last, self._elements(load.operands[0], steps))

    def _prefetch_further_on(self) -> None:
        """Ask for what is transposed of an image a little later."""
        for load in rows_of_image(self.nest, self.tile):
            self._prefetch(load, {}, I64(FURTHER_ON))

    def _prefetch_block(self, axis: NestAxis) -> None:
        """Ask for the terms that the next tile reads of this block, and for what vectors read of the next block."""
        if self.block is None or self.nest.term is None:
            return
        for load in self.nest.loads_of([self.nest.term]):
            memory, *index = load.operands
            assert isinstance(memory.type, MemRefType)
            if self.tile.vector in self.nest.axes_of(load.result):
                row = self._elements(memory, [int(self.nest.step(at, axis) or 0) for at in index])
                self._prefetch(load, {}, self.b.mul(self.block.ahead, row))
                continue
            (along,) = (a for a in self.nest.parallel if self.nest.lane_step(a, memory, index) == 1)
            # The line of its last element; where the first one lies in another line, this tile reads that.
            pointer, _ = self._address(memory, index, {along: 0})
            self.lane.prefetch(pointer, memory.type.dtype, I64(2 * self.tile.row(along) - 1))

    def _elements(self, memory: Value, steps: Sequence[int]) -> Any:
        """How many elements behind a place one lies whose indices are so much larger."""
        assert isinstance(memory.type, MemRefType)
        where: Memory = self.frame.arguments[memory]
        found: Any = I64(0)
        for step, known, stride in zip(steps, known_strides(memory.type), where.strides, strict=True):
            if step:
                found = self.b.add(found, self.b.mul(I64(step), stride if known is None else I64(known)))
        return found

    def _prefetch(self, load: Operation, taps: Offsets, ahead: Any = None) -> None:
        """Ask for the vectors of a load, one of each line of memory, or for those ``ahead`` elements behind them."""
        memory, *index = load.operands
        axes, vector = self.nest.axes_of(load.result), self.tile.vector
        dtype = str(load.result.type)
        for at in self._combinations([a for a in self.nest.parallel if a in self.unrolled and a in axes]):
            if vector is None or at.get(vector, 0) * self.tile.lanes * ELEMENT_BYTES[dtype] % LINE == 0:
                pointer, _ = self._address(memory, index, {**at, **taps})
                self.lane.prefetch(pointer, dtype, ahead)
