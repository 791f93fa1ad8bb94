"""Kernels of sums in memory at places that the data choose: first zeros, then a thread a column.

    clear:     dw[v, d] = 0                                        a thread an element, unless it adds to what is there
    scatter:   for d:  for i in order:  dw[index[i], d] += dy[i, d]         a thread a column d

A thread adds in the order of the loops, and no two threads touch one element, so there are no atomic operations.
Where no axis stands as such in the place, one thread does it all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from concatc.ir.core import Value
from concatc.ir.types import FLOATS, I1, ScalarType
from concatc.loops.expr import Axis
from concatc.loops.kernel_loops import Frame
from concatc.loops.program import Statement
from concatc.targets.cuda.device_writer import POINT_THREADS, DeviceWriter


class _SumInMemory(DeviceWriter):
    @property
    def _scattered(self) -> Statement:
        (statement,) = self.group.statements
        return statement

    def _target(self) -> tuple[Value, Value]:
        """The memory of the target, and whether to add to what is there."""
        target = self._scattered.target
        if target.scratch is not None:
            return self.memory[target], self.b.constant(False, I1)
        (result,) = target.results
        return self.results[result], self.adds[result]


class ClearWriter(_SumInMemory):
    """Writes zeros where a sum in memory begins."""

    @property
    def grid(self) -> int:
        """A thread an element."""
        return -(-self._scattered.target.type.numel // POINT_THREADS)

    def _emit(self) -> None:
        b, target = self.b, self._scattered.target
        memory, add = self._target()
        zero = b.constant(0.0 if target.type.dtype in FLOATS else 0, ScalarType(target.type.dtype))
        extents = [self.extents[target, d] for d in range(target.type.rank)]
        with b.loop(self._global_thread(), b.product(extents), "point", step=self._all_threads()) as loop:
            at = b.unravel(loop.index, extents)
            b.branch(b.not_(add), lambda: b.store(zero, memory, at))


class ScatterWriter(_SumInMemory):
    """Writes the sum itself."""

    @property
    def grid(self) -> int:
        """A thread a column."""
        return -(-math.prod(a.extent for a in self._columns) // POINT_THREADS)

    @property
    def _columns(self) -> list[Axis]:
        piece = self._scattered.piece
        return [a for a in piece.axes if a in piece.at]

    def _emit(self) -> None:
        b, statement = self.b, self._scattered
        memory, _ = self._target()
        extents = [self.extents[statement, a] for a in self._columns]
        with b.loop(self._global_thread(), b.product(extents), "column", step=self._all_threads()) as loop:
            frame = Frame(statement, dict(zip(self._columns, b.unravel(loop.index, extents), strict=True)))
            self._scatter_over(frame, self._in_order(statement.piece.axes), memory)

    def _in_order(self, axes: Sequence[Axis]) -> list[Axis]:
        return [a for a in axes if a not in self._columns]
