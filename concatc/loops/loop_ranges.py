"""The bounds of loops: those over an axis, over blocks and parts of one, and over stretches of the chunk.

for part = %begin to min(%end, 4)        for n = part * N // 4 to (part + 1) * N // 4
for c = max(%begin - 4, 0) to %end - 4                                                     the second stretch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from concatc.ir.core import Value
from concatc.loops.loop_builder import LoopBuilder
from concatc.loops.program import Nest
from concatc.loops.scalars import arith_op


class LoopRanges:
    """Writes bounds; ``cut`` are the loops over each stretch of ``chunk``, ``extents`` hold those of the other loops.

    ``within`` are the bounds of the block or part that a loop over blocks or parts is at.
    """

    def __init__(
        self, b: LoopBuilder, cut: Sequence[Sequence[Nest]], extents: Mapping[object, Value], chunk: tuple[Value, Value]
    ) -> None:
        self.b, self.cut, self.extents, self.chunk = b, cut, extents, chunk
        self.within: dict[Nest, tuple[Value, Value]] = {}

    def of(self, nest: Nest) -> tuple[Value, Value]:
        """The bounds of a loop."""
        b, zero = self.b, self.b.index(0)
        if nest.within is not None:
            return self.within[nest.within]
        for k, loops in enumerate(self.cut):
            if nest in loops:
                return self._stretch(k)
        if nest.block > 1:
            blocks = arith_op(b, "add", [self.extents[nest], b.index(nest.block - 1)])
            return zero, arith_op(b, "floordiv", [blocks, b.index(nest.block)])
        return zero, self._times(nest)

    def enter(self, nest: Nest, index: Value) -> None:
        """Note the bounds of the block or part of an axis that a loop is at."""
        b = self.b
        if nest.block > 1:
            start = arith_op(b, "mul", [index, b.index(nest.block)])
            end = arith_op(b, "add", [start, b.index(nest.block)])
            self.within[nest] = start, arith_op(b, "min", [end, self.extents[nest]])
        elif nest.parts > 1:
            following = arith_op(b, "add", [index, b.index(1)])
            self.within[nest] = self._part_start(nest, index), self._part_start(nest, following)

    def _stretch(self, k: int) -> tuple[Value, Value]:
        """The bounds of the loops over a stretch of the chunk: what lies behind the extents of those before it."""
        b, (lower, upper) = self.b, self.chunk
        if k:
            before = self._times(self.cut[0][0])
            for loops in self.cut[1:k]:
                before = arith_op(b, "add", [before, self._times(loops[0])])
            lower = arith_op(b, "max", [arith_op(b, "sub", [lower, before]), b.index(0)])
            upper = arith_op(b, "sub", [upper, before])
        if k + 1 < len(self.cut):
            upper = arith_op(b, "min", [upper, self._times(self.cut[k][0])])
        return lower, upper

    def _times(self, nest: Nest) -> Value:
        """How many iterations a loop has that is in no blocks."""
        return self.extents[nest] if nest.parts == 1 else self.b.index(nest.parts)

    def _part_start(self, nest: Nest, part: Value) -> Value:
        """Where a part of an axis begins."""
        scaled = arith_op(self.b, "mul", [part, self.extents[nest]])
        return arith_op(self.b, "floordiv", [scaled, self.b.index(nest.parts)])
