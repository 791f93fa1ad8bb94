"""Kernels of a block a row: threads share the loops inside, and sums and maxima are trees over the threads.

    for row = block to n step blocks:                  all threads of a block are at one row
        for k = thread to K step threads: acc += x     each thread folds every 256th term
        acc += acc of thread ^ 16;  ^ 8, .. ^ 1        all threads of a warp hold the warp's sum, by shuffles
        sums[warp] = acc;  barrier;  sums[0] + sums[1] + ..        where there is more than one warp
        for c = thread to C step threads: y = ..       elements of the row
        if thread == 0: total = ..                     what there is one of a row

The order of all additions follows from the extents: results are the same each time, on every device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from concatc.ir.core import Value
from concatc.ir.types import FLOATS, ScalarType
from concatc.loops.kernel_loops import Frame
from concatc.loops.program import Nest
from concatc.loops.scalars import arith_op, least
from concatc.targets.cuda.device_writer import DeviceWriter
from concatc.targets.cuda.groups import chain_of

WARP = 32
LEAST_THREADS, MOST_THREADS = WARP, 256


class RowsWriter(DeviceWriter):
    """Writes a group whose points are shared by the threads of a block."""

    alone: Value | None = None  # whether this thread stores what there is one of a row

    @property
    def threads(self) -> int:
        """A power of two, no more than what the widest loop inside keeps busy."""
        widest = LEAST_THREADS
        for statement in self.group.statements:
            inside = statement.piece.parallel[len(self.group.grid) :]
            folded = () if inside else statement.piece.reduce
            widest = max(widest, math.prod(a.extent for a in (*inside, *folded)))
        return min(MOST_THREADS, 1 << (widest - 1).bit_length())

    @property
    def grid(self) -> int:
        """A block a row."""
        return self.group.points

    def _emit(self) -> None:
        if not self.group.grid:
            self._row(self.group.body)
            return
        with self._over(self.group.grid, self.b.block, self.b.grid_dim, "row"):
            self._row(self.group.body)

    def _row(self, body: Nest) -> None:
        outer_pending, self.pending = self.pending, []
        waits = False
        for item in body.items:
            if waits:
                self.b.barrier()
            if isinstance(item, Nest):
                self._shared_loops(item)
            else:
                with self._once():
                    self._statement(item)
            # What is overwritten may have been read by other threads.
            waits = isinstance(item, Nest) or item.target.scratch is not None or bool(self.arrangement.overwritten)
        if waits and self.pending:
            self.b.barrier()
        with self._once():
            for pending in self.pending:
                self._store_result(*pending)
        self.pending = outer_pending

    def _shared_loops(self, nest: Nest) -> None:
        """Loops of which each thread of the block runs some iterations."""
        chain = chain_of(nest)
        with self._over(chain, self.b.thread, self.b.index(self.threads), "element"):
            self._block(chain[-1])

    # -- what there is one of a row ------------------------------------------------------------------------------------
    @contextmanager
    def _once(self) -> Iterator[None]:
        self.alone = arith_op(self.b, "eq", [self.b.thread, self.b.index(0)])
        yield
        self.alone = None

    def _also_alone(self, guard: Value | None) -> Value | None:
        if guard is None or self.alone is None:
            return guard or self.alone
        return arith_op(self.b, "and", [guard, self.alone])

    def _guarded_store(self, value: Value, memory: Value, at: list[Value], guard: Value | None) -> None:
        super()._guarded_store(value, memory, at, self._also_alone(guard))

    def _store_result(self, value: Value, memory: Value, at: list[Value], add: Value, guard: Value | None) -> None:
        super()._store_result(value, memory, at, add, self._also_alone(guard))

    # -- folds ---------------------------------------------------------------------------------------------------------
    def _fold(self, frame: Frame) -> Value:
        statement, combine = frame.statement, frame.statement.piece.combine
        if self.alone is None or not statement.piece.reduce or combine not in ("add", "max") or self._twin(statement):
            return super()._fold(frame)
        return self._tree(frame)

    def _tree(self, frame: Frame) -> Value:
        b, piece = self.b, frame.statement.piece
        dtype = piece.target.dtype
        start = (
            least(b, dtype) if piece.combine == "max" else b.constant(0.0 if dtype in FLOATS else 0, ScalarType(dtype))
        )
        extents = [self.extents[frame.statement, axis] for axis in piece.reduce]
        with b.loop(b.thread, b.product(extents), "term", [start], step=b.index(self.threads)) as loop:
            for axis, index in zip(piece.reduce, b.unravel(loop.index, extents), strict=True):
                frame.axes[axis] = index
                self.extent_of[index] = axis.extent
            loop.yielded = self._fold_step(frame, loop.carried)
        total = self._over_warp(loop.results[0], piece.combine)
        return total if self.threads == WARP else self._over_warps(total, piece.combine)

    def _over_warp(self, value: Value, combine: str) -> Value:
        """What the threads of a warp have, combined: the same bits in all of them."""
        step = WARP // 2
        while step:
            value = arith_op(self.b, combine, [value, self.b.shuffle(value, step)])
            step //= 2
        return value

    def _over_warps(self, value: Value, combine: str) -> Value:
        """What the warps of a block have, combined in their order."""
        b, warps = self.b, self.threads // WARP
        shared = b.shared(str(value.type), warps, "partial")
        lane, warp = (arith_op(b, op, [b.thread, b.index(WARP)]) for op in ("rem", "floordiv"))
        b.branch(arith_op(b, "eq", [lane, b.index(0)]), lambda: b.store(value, shared, [warp]))
        b.barrier()
        total = b.load(shared, [b.index(0)], "total")
        for k in range(1, warps):
            total = arith_op(b, combine, [total, b.load(shared, [b.index(k)], "other")])
        b.barrier()
        return total
