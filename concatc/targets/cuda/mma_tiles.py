"""Tiles of products on tensor cores: warps of a block multiply 16 x 8 by 8 x 8 parts of what lies in shared memory.

    for k in 0, 8:                                        the terms of a stage, 8 at a time
        a   = (left[..], left[..], left[..], left[..])    of 16 rows, shared out over the 32 threads of the warp
        b   = (right[..], right[..])                      of 8 columns
        acc = mma(tf32(a), tf32(b), acc)                  16 x 8 sums, 4 a thread, f32

Factors are rounded to tf32 (8 bits of exponent, 10 of mantissa), products are exact, sums are f32 (``fast``).  ``high``
takes each factor for the sum of two tf32 numbers, and leaves out the product of the two small ones:

    acc += mma(tf32(a), tf32(b), mma(tf32(a), rest(b), mma(rest(a), tf32(b), 0)))       rest(a) = tf32(a - tf32(a))

The sum of 8 terms begins at 0 and is added to the others in f32, since tensor cores cut off what f32 rounds (H. Ootomo
and R. Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
performance", IJHPCA 36(4), 2022).  Which thread holds which element follows PTX's tables of ``mma.m16n8k8``:

    a   rows t / 4, t / 4 + 8, terms t % 4, t % 4 + 4        in the order (0, 0), (8, 0), (0, 4), (8, 4)
    b   terms t % 4, t % 4 + 4, column t / 4
    c   rows t / 4, t / 4 + 8, columns t % 4 * 2, + 1        in the order (0, 0), (0, 1), (8, 0), (8, 1)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from concatc.ir.core import Value
from concatc.ir.types import ScalarType
from concatc.loops.scalars import arith_op
from concatc.targets.cuda.device_builder import VectorType
from concatc.targets.cuda.products import TILE
from concatc.targets.cuda.tile_sides import Side
from concatc.targets.cuda.tiles import TilesWriter

WARP = 32
PART = 32  # rows and columns of the tile that a warp computes
ROWS, COLUMNS, TERMS = 16, 8, 8  # of one instruction
DOWN, ACROSS = PART // ROWS, PART // COLUMNS  # instructions along each side of a warp's part
SHARE = VectorType(4)


class FastTilesWriter(TilesWriter):
    """Products of factors that are rounded to tf32."""

    @property
    def threads(self) -> int:
        """A warp a quarter of the tile."""
        return (TILE // PART) ** 2 * WARP

    @property
    def _corner(self) -> tuple[Value, Value]:
        """The first row and the first column of this thread's warp."""
        b = self.b
        warp = arith_op(b, "floordiv", [b.thread, b.index(WARP)])
        across = b.index(TILE // PART)
        row, column = (arith_op(b, op, [warp, across]) for op in ("floordiv", "rem"))
        return arith_op(b, "mul", [row, b.index(PART)]), arith_op(b, "mul", [column, b.index(PART)])

    @property
    def _in_warp(self) -> tuple[Value, Value]:
        """Where this thread stands in its warp: its group of four, and which of the four it is."""
        b = self.b
        lane = arith_op(b, "rem", [b.thread, b.index(WARP)])
        return arith_op(b, "floordiv", [lane, b.index(4)]), arith_op(b, "rem", [lane, b.index(4)])

    def _zeros(self) -> list[Value]:
        return [self._zero] * (DOWN * ACROSS)

    @property
    def _zero(self) -> Value:
        return self.b.vector([self.b.constant(0.0, ScalarType(self.dtype))] * 4, "zeros")

    def _multiply(self, totals: Sequence[Value], stage: Value) -> list[Value]:
        b = self.b
        with b.loop(b.index(0), b.index(self.at_once), "k", totals, step=b.index(TERMS)) as loop:
            left, right = (
                self._operands(side, corner, stage, loop.index, halves, count)
                for side, corner, halves, count in zip(
                    self.sides, self._corner, ((0, 8), (0,)), (DOWN, ACROSS), strict=True
                )
            )
            pairs = [(a, b) for a in left for b in right]
            loop.yielded = [self._added(total, *pair) for total, pair in zip(loop.carried, pairs, strict=True)]
        return loop.results

    def _operands(
        self, side: Side, corner: Value, stage: Value, k: Value, halves: Sequence[int], count: int
    ) -> list[Value]:
        """This thread's share of each part of a side, as it lies in memory."""
        b = self.b
        group, member = self._in_warp
        first = side.place(b, stage, arith_op(b, "add", [corner, group]), arith_op(b, "add", [k, member]))
        rows = len(halves) * 8
        made = []
        for part in range(count):
            shifts = [(part * rows + r) * side.row_stride + t * side.term_stride for t in (0, 4) for r in halves]
            elements = [b.load(side.memory, [self._shifted(first, n)], side.memory.name) for n in shifts]
            made.append(b.vector(elements, side.memory.name[0]))
        return made

    def _added(self, total: Value, a: Value, b: Value) -> Value:
        """The sums with the products of two parts added."""
        return self._mma(self._rounded(a), self._rounded(b), total)

    def _mma(self, a: Value, b: Value, total: Value) -> Value:
        return self.b.pure("nvgpu.mma.sync", [a, b, total], SHARE, "acc")

    def _rounded(self, factor: Value) -> Value:
        return self.b.pure("nvvm.cvt.float.to.tf32", [factor], factor.type, factor.name)

    def _elements(self, totals: Sequence[Value]) -> Iterator[tuple[Value, Value]]:
        b = self.b
        (row, column), (group, member) = self._corner, self._in_warp
        first = self._in_tile(
            arith_op(b, "add", [row, group]),
            arith_op(b, "add", [column, arith_op(b, "mul", [member, b.index(2)])]),
        )
        down, across = self._tile_strides
        for part, total in enumerate(totals):
            corner = part // ACROSS * ROWS * down + part % ACROSS * COLUMNS * across
            for k, (r, c) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
                yield self._shifted(first, corner + r * down + c * across), b.element(total, k)


class HighTilesWriter(FastTilesWriter):
    """Products of factors that are the sums of two tf32 numbers: errors are those of f32."""

    def _added(self, total: Value, a: Value, b: Value) -> Value:
        large_a, large_b = self._rounded(a), self._rounded(b)
        small = self._mma(large_a, self._rest(b), self._mma(self._rest(a), large_b, self._zero))
        return self.b.pure("vector.add", [total, self._mma(large_a, large_b, small)], SHARE, "acc")

    def _rest(self, factor: Value) -> Value:
        return self.b.pure("nvvm.cvt.rest.to.tf32", [factor], factor.type, f"{factor.name}_rest")
