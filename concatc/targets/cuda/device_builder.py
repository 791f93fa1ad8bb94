"""Builds device kernels: loops, and the operations of MLIR's ``gpu`` dialect that a kernel of blocks and threads needs.

%t = gpu.thread_id      %b = gpu.block_id      %g = gpu.grid_dim
%s = memref.alloca : memref<256xf32>           shared by the threads of a block
gpu.barrier                                    of the threads of a block
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.ir.core import Operation, Value
from concatc.ir.types import INDEX, MemRefType
from concatc.loops.loop_builder import LoopBuilder
from concatc.loops.scalars import arith_op


class DeviceBuilder(LoopBuilder):
    """A :class:`LoopBuilder` with threads."""

    @property
    def thread(self) -> Value:
        """The number of the thread in its block."""
        return self.pure("gpu.thread_id", [], INDEX, "thread")

    @property
    def block(self) -> Value:
        """The number of the block."""
        return self.pure("gpu.block_id", [], INDEX, "block")

    @property
    def grid_dim(self) -> Value:
        """How many blocks there are."""
        return self.pure("gpu.grid_dim", [], INDEX, "blocks")

    def shared(self, dtype: str, numel: int, name: str) -> Value:
        """Memory of ``numel`` elements that the threads of a block share."""
        op = Operation("memref.alloca", [], [MemRefType((numel,), dtype)], result_names=[name])
        return self._scopes[0].block.append(op).result

    def barrier(self) -> None:
        """Wait for all threads of the block; what was loaded before may have changed."""
        self._append(Operation("gpu.barrier"))
        for scope in self._scopes:
            for key in [k for k in scope.made if isinstance(k, tuple) and k[0] == "load"]:
                del scope.made[key]

    def product(self, factors: Sequence[Value]) -> Value:
        """The product of indices."""
        total = self.index(1)
        for k, factor in enumerate(factors):
            total = factor if k == 0 else arith_op(self, "mul", [total, factor])
        return total

    def unravel(self, linear: Value, extents: Sequence[Value]) -> list[Value]:
        """The indices of the element that has the row-major number ``linear``."""
        indices: list[Value] = []
        for extent in reversed(extents[1:]):
            indices.append(arith_op(self, "rem", [linear, extent]))
            linear = arith_op(self, "floordiv", [linear, extent])
        return [linear, *reversed(indices)] if extents else []
