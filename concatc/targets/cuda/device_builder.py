"""Builds device kernels: loops, and the operations of MLIR's ``gpu`` dialect that a kernel of blocks and threads needs.

%t = gpu.thread_id      %b = gpu.block_id      %g = gpu.grid_dim
%s = memref.alloca : memref<256xf32>           shared by the threads of a block
gpu.barrier                                    of the threads of a block
%w = gpu.shuffle xor %v, 16                    what thread ^ 16 of the warp has
nvgpu.device_async_copy %x[%i], %s[%p], %there : memref<?xf32>, memref<256xf32>      0 where it is not there
nvgpu.device_async_create_group, nvgpu.device_async_wait
%v = vector.from_elements %a, %b, %c, %d : vector<4xf32>        %d2 = nvgpu.mma.sync(%v, %w, %d) : vector<4xf32>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from concatc.ir.core import Operation, Value
from concatc.ir.types import INDEX, MemRefType, ScalarType, Type
from concatc.loops.loop_builder import LoopBuilder
from concatc.loops.scalars import arith_op


@dataclass(frozen=True, slots=True)
class VectorType(Type):
    """Some numbers that a thread holds: its share of a matrix that the threads of a warp hold together."""

    numel: int
    dtype: str = "f32"

    def __str__(self) -> str:
        return f"vector<{self.numel}x{self.dtype}>"


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

    def shared(self, dtype: str, numel: int, name: str, alignment: int = 0) -> Value:
        """Memory of ``numel`` elements that the threads of a block share, at a multiple of ``alignment`` bytes."""
        given = {"alignment": alignment} if alignment else {}
        op = Operation("memref.alloca", [], [MemRefType((numel,), dtype)], given, result_names=[name])
        return self._scopes[0].block.append(op).result

    def barrier(self) -> None:
        """Wait for all threads of the block; what was loaded before may have changed."""
        self._append(Operation("gpu.barrier"))
        for scope in self._scopes:
            for key in [k for k in scope.made if isinstance(k, tuple) and k[0] == "load"]:
                del scope.made[key]

    def shuffle(self, value: Value, across: int) -> Value:
        """What the thread of the warp whose number differs in one bit has."""
        return self.pure("gpu.shuffle", [value], value.type, "other", {"mode": "xor", "offset": across})

    def copy(
        self, shared: Value, place: Value, memory: Value, at: Sequence[Value], there: Value, numel: int = 1
    ) -> None:
        """Begin to copy elements to shared memory, or zeros where they are not ``there``."""
        operands = [shared, place, memory, *at, there]
        self._append(Operation("nvgpu.device_async_copy", operands, (), {"dst_elements": numel}))

    def commit_copies(self) -> None:
        """Make a group of the copies that this thread has begun."""
        self._append(Operation("nvgpu.device_async_create_group"))

    def wait_for_copies(self) -> None:
        """Wait for all groups of this thread; other threads see what was copied behind a barrier."""
        self._append(Operation("nvgpu.device_async_wait"))

    # -- what tensor cores take ------------------------------------------------------------------------------------
    def vector(self, values: Sequence[Value], hint: str) -> Value:
        """Some numbers of this thread as one value."""
        dtype = values[0].type
        assert isinstance(dtype, ScalarType)
        return self.pure("vector.from_elements", values, VectorType(len(values), dtype.name), hint)

    def element(self, vector: Value, position: int) -> Value:
        """One of the numbers."""
        assert isinstance(vector.type, VectorType)
        dtype = ScalarType(vector.type.dtype)
        return self.pure("vector.extract", [vector], dtype, attributes={"position": position})

    def product(self, factors: Sequence[Value]) -> Value:
        """The product of indices."""
        total = self.index(1)
        for k, factor in enumerate(factors):
            total = factor if k == 0 else arith_op(self, "mul", [total, factor])
        return total

    def dot(self, indices: Sequence[Value], strides: Sequence[int]) -> Value:
        """The sum of indices, each by its stride; what is 0 is left out."""
        total: Value | None = None
        for index, stride in zip(indices, strides, strict=True):
            if index is self.index(0):
                continue
            scaled = index if stride == 1 else arith_op(self, "mul", [index, self.index(stride)])
            total = scaled if total is None else arith_op(self, "add", [total, scaled])
        return self.index(0) if total is None else total

    def unravel(self, linear: Value, extents: Sequence[Value]) -> list[Value]:
        """The indices of the element that has the row-major number ``linear``."""
        indices: list[Value] = []
        for extent in reversed(extents[1:]):
            indices.append(arith_op(self, "rem", [linear, extent]))
            linear = arith_op(self, "floordiv", [linear, extent])
        return [linear, *reversed(indices)] if extents else []
