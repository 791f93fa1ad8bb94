"""Kernels of a block a tile of a product: 64 rows by 64 columns, some terms at a time through shared memory.

    for tile = block to tiles step blocks:
        fetch terms 0 to 15
        for k0 = 0 to K step 16:
            wait for what was fetched;  barrier
            fetch terms k0 + 16 to k0 + 31 into the other stage
            for k in 16: acc[4][4] += a[k][4 rows] * b[k][4 columns]        in registers
        c[64][64] = acc;  barrier
        for element of c: y = epilogue(c)              threads along what lies side by side

A stage holds some terms of all rows and of all columns (`tile_sides.py`).  Terms are added in their order, in the
element type: the order does not depend on the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from concatc.ir.core import Value
from concatc.ir.types import ScalarType
from concatc.loops.expr import Axis
from concatc.loops.kernel_loops import Frame
from concatc.loops.scalars import arith_op
from concatc.targets.cuda.products import TILE
from concatc.targets.cuda.tile_sides import STAGES, SidesWriter

SIDE = 16  # threads along each side of the tile
EACH = TILE // SIDE
TILE_ROW = TILE + 4  # elements from one row of the tile to the next: threads that store meet different banks


class TilesWriter(SidesWriter):
    """Writes a group that is a product, and what is made of each element of it."""

    total: Value | None = None

    @property
    def threads(self) -> int:
        """As many as there are 4 x 4 parts of a tile."""
        return SIDE * SIDE

    @property
    def grid(self) -> int:
        """A block a tile."""
        numels = [1, 1, 1]
        for k, axes in enumerate((self.product.batch, self.product.rows, self.product.columns)):
            for axis in axes:
                numels[k] *= axis.extent
        return numels[0] * -(-numels[1] // TILE) * -(-numels[2] // TILE)

    def _emit(self) -> None:
        b, product = self.b, self.product
        self.tile = b.shared(self.dtype, TILE * TILE_ROW, "tile")
        columns, rows = (self._tiles_of(axes) for axes in (product.columns, product.rows))
        batch = self._numel(product.batch)
        with b.loop(b.block, b.product([batch, rows, columns]), "tile", step=b.grid_dim) as loop:
            number, *numbers = b.unravel(loop.index, [batch, rows, columns])
            row, column = (arith_op(b, "mul", [v, b.index(TILE)]) for v in numbers)
            at = self._indices(product.batch, number)
            self._accumulate(at, row, column)
            b.barrier()
            self._epilogue(at, row, column)

    def _tiles_of(self, axes: Sequence[Axis]) -> Value:
        b = self.b
        return arith_op(b, "floordiv", [arith_op(b, "add", [self._numel(axes), b.index(TILE - 1)]), b.index(TILE)])

    # -- the product ---------------------------------------------------------------------------------------------------
    def _accumulate(self, at: dict[Axis, Value], row: Value, column: Value) -> None:
        """Leave the tile of the product in shared memory."""
        b, terms = self.b, self._numel(self.product.terms)
        at_once = b.index(self.at_once)

        def fetch(term: Value, stage: Value) -> None:
            for side, start in zip(self.sides, (row, column), strict=True):
                self._fetch(side, at, (start, term), stage)
            b.commit_copies()

        fetch(b.index(0), b.index(0))
        with b.loop(b.index(0), terms, "first", self._zeros(), step=at_once) as loop:
            stage = arith_op(b, "rem", [arith_op(b, "floordiv", [loop.index, at_once]), b.index(STAGES)])
            following = arith_op(b, "add", [loop.index, at_once])
            other = arith_op(b, "sub", [b.index(STAGES - 1), stage])
            b.wait_for_copies()
            b.barrier()
            b.branch(arith_op(b, "lt", [following, terms]), lambda: fetch(following, other))
            loop.yielded = self._multiply(loop.carried, stage)
        for place, total in self._elements(loop.results):
            b.store(total, self.tile, [place])

    def _zeros(self) -> list[Value]:
        """What the sums of this thread begin with."""
        return [self.b.constant(0.0, ScalarType(self.dtype))] * (EACH * EACH)

    def _multiply(self, totals: Sequence[Value], stage: Value) -> list[Value]:
        """The sums of this thread, with the terms of a stage added."""
        b = self.b
        with b.loop(b.index(0), b.index(self.at_once), "k", totals) as loop:
            operands = []
            for side, start in zip(self.sides, self._corner, strict=True):
                first = side.place(b, stage, start, loop.index)
                places = [arith_op(b, "add", [first, b.index(SIDE * j * side.row_stride)]) for j in range(EACH)]
                operands.append([b.load(side.memory, [place], side.memory.name) for place in places])
            factors = [(left, right) for left in operands[0] for right in operands[1]]
            loop.yielded = [
                arith_op(b, "add", [total, arith_op(b, "mul", [left, right])])
                for total, (left, right) in zip(loop.carried, factors, strict=True)
            ]
        return loop.results

    def _elements(self, totals: Sequence[Value]) -> Iterator[tuple[Value, Value]]:
        """Where in the tile each sum of this thread goes."""
        row, column = self._tile_strides
        first = self._in_tile(*self._corner)
        for k, total in enumerate(totals):
            yield self._shifted(first, SIDE * (row * (k // EACH) + column * (k % EACH))), total

    @property
    def _corner(self) -> tuple[Value, Value]:
        """The first row and the first column of this thread."""
        b = self.b
        return arith_op(b, "floordiv", [b.thread, b.index(SIDE)]), arith_op(b, "rem", [b.thread, b.index(SIDE)])

    def _shifted(self, index: Value, by: int) -> Value:
        return self.b.dot((index, self.b.index(by)), (1, 1))

    # -- the tile in shared memory -------------------------------------------------------------------------------------
    @property
    def _along_rows(self) -> bool:
        """Whether neighbouring rows are neighbours in the result."""
        return self.statement.piece.parallel[-1] in self.product.rows

    @property
    def _tile_strides(self) -> tuple[int, int]:
        """From row to row, from column to column: what lies side by side in the result does in the tile."""
        return (1, TILE_ROW) if self._along_rows else (TILE_ROW, 1)

    def _in_tile(self, row: Value, column: Value) -> Value:
        return self.b.dot((row, column), self._tile_strides)

    # -- what is made of it --------------------------------------------------------------------------------------------
    def _epilogue(self, at: dict[Axis, Value], first_row: Value, first_column: Value) -> None:
        b, product = self.b, self.product
        inner, outer = (arith_op(b, op, [b.thread, b.index(TILE)]) for op in ("rem", "floordiv"))
        with b.loop(outer, b.index(TILE), "line", step=b.index(self.threads // TILE)) as loop:
            r, c = (inner, loop.index) if self._along_rows else (loop.index, inner)
            row, column = arith_op(b, "add", [first_row, r]), arith_op(b, "add", [first_column, c])
            ends = [(row, self._numel(product.rows)), (column, self._numel(product.columns))]
            inside = arith_op(b, "and", [arith_op(b, "lt", [index, end]) for index, end in ends])

            def store() -> None:
                indices = {**at, **self._indices(product.rows, row), **self._indices(product.columns, column)}
                # Nothing says here that these indices lie inside: no load may stand in front of the guard.
                self.indices.update((self._nest_of(a), indices[a]) for a in self.statement.piece.parallel)
                self.total = b.load(self.tile, [self._in_tile(r, c)], "total")
                self._block(self.group.body)

            b.branch(inside, store)

    def _fold(self, frame: Frame) -> Value:
        if frame.statement is self.statement:
            assert self.total is not None
            return self.total
        return super()._fold(frame)
