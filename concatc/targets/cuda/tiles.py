"""Kernels of a block a tile of a product: 64 rows by 64 columns, 16 terms at a time through shared memory.

    for tile = block to tiles step blocks:
        for k0 = 0 to K step 16:
            a[16][64] = left,  b[16][64] = right       evaluated once an element, 0 beyond the ends
            barrier
            for k in 16: acc[4][4] += a[k][4 rows] * b[k][4 columns]        in registers
            barrier
        c[64][64] = acc;  barrier
        for element of c: y = epilogue(c)              threads along what lies side by side

Terms are added in their order, in the element type: the order does not depend on the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.ir.core import Value
from concatc.ir.types import ELEMENT_BYTES, ScalarType
from concatc.loops.expr import Axis, Expr
from concatc.loops.kernel_loops import Frame
from concatc.loops.program import Nest, Statement
from concatc.loops.scalars import arith_op
from concatc.targets.cuda.device_writer import DeviceWriter
from concatc.targets.cuda.products import Product, product_of, runs_along

TILE, SIDE = 64, 16  # a tile's rows and columns, threads along each side of the tile
TERM_BYTES = 64  # of each row, at a time: 16 terms of f32, 8 of f64, so that all fits in 48 KiB
EACH = TILE // SIDE
ROW = TILE + 1  # elements of shared memory from one term to the next: threads along terms meet different banks


class TilesWriter(DeviceWriter):
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
        for k, axes in enumerate((self._product.batch, self._product.rows, self._product.columns)):
            for axis in axes:
                numels[k] *= axis.extent
        return numels[0] * -(-numels[1] // TILE) * -(-numels[2] // TILE)

    @property
    def _statement_of(self) -> Statement:
        first = self.group.body.items[0]
        assert isinstance(first, Statement)
        return first

    @property
    def _product(self) -> Product:
        product = product_of(self._statement_of)
        assert product is not None
        return product

    def _emit(self) -> None:
        b, product = self.b, self._product
        self.shared = [b.shared(self._dtype, self._at_once * ROW, name) for name in ("left", "right")]
        self.tile = b.shared(self._dtype, TILE * TILE, "tile")
        columns, rows = (self._tiles_of(axes) for axes in (product.columns, product.rows))
        batch = b.product([self._extent(a) for a in product.batch])
        with b.loop(b.block, b.product([batch, rows, columns]), "tile", step=b.grid_dim) as loop:
            number, row, column = b.unravel(loop.index, [batch, rows, columns])
            at = dict(zip(product.batch, b.unravel(number, [self._extent(a) for a in product.batch]), strict=True))
            first_row, first_column = (arith_op(b, "mul", [v, b.index(TILE)]) for v in (row, column))
            self._accumulate(at, first_row, first_column)
            b.barrier()
            self._epilogue(at, first_row, first_column)
            b.barrier()

    # -- extents -------------------------------------------------------------------------------------------------------
    @property
    def _at_once(self) -> int:
        """How many terms are in shared memory at a time."""
        return TERM_BYTES // ELEMENT_BYTES[self._dtype]

    @property
    def _dtype(self) -> str:
        return self._statement_of.piece.target.dtype

    def _extent(self, axis: Axis) -> Value:
        statement = self._statement_of
        if axis in statement.piece.parallel:
            return self.extents[self._nest_of(axis)]
        return self.extents[statement, axis]

    def _nest_of(self, axis: Axis) -> Nest:
        return self.group.grid[self._statement_of.piece.parallel.index(axis)]

    def _numel(self, axes: Sequence[Axis]) -> Value:
        return self.b.product([self._extent(a) for a in axes])

    def _tiles_of(self, axes: Sequence[Axis]) -> Value:
        b = self.b
        return arith_op(b, "floordiv", [arith_op(b, "add", [self._numel(axes), b.index(TILE - 1)]), b.index(TILE)])

    # -- the product ---------------------------------------------------------------------------------------------------
    def _accumulate(self, at: dict[Axis, Value], first_row: Value, first_column: Value) -> None:
        """Leave the tile of the product in shared memory."""
        b, product = self.b, self._product
        zero = b.constant(0.0, ScalarType(self._dtype))
        across, along = (
            arith_op(b, "floordiv", [b.thread, b.index(SIDE)]),
            arith_op(b, "rem", [b.thread, b.index(SIDE)]),
        )
        carried = [zero] * (EACH * EACH)
        with b.loop(b.index(0), self._numel(product.terms), "first", carried, step=b.index(self._at_once)) as loop:
            for k, (factor, axes, first) in enumerate(
                ((product.left, product.rows, first_row), (product.right, product.columns, first_column))
            ):
                guarded = product.guards_left == (k == 0)
                self._fill(self.shared[k], factor, (axes, first, loop.index), at, guarded)
            b.barrier()
            with b.loop(b.index(0), b.index(self._at_once), "k", loop.carried) as inner:
                base = arith_op(b, "mul", [inner.index, b.index(ROW)])
                sides = []
                for shared, start in zip(self.shared, (across, along), strict=True):
                    first = arith_op(b, "add", [base, start])
                    places = [arith_op(b, "add", [first, b.index(SIDE * j)]) for j in range(EACH)]
                    sides.append([b.load(shared, [place], shared.name) for place in places])
                factors = [(left, right) for left in sides[0] for right in sides[1]]
                inner.yielded = [
                    arith_op(b, "add", [total, arith_op(b, "mul", [left, right])])
                    for total, (left, right) in zip(inner.carried, factors, strict=True)
                ]
            b.barrier()
            loop.yielded = inner.results
        start = arith_op(b, "add", [arith_op(b, "mul", [across, b.index(TILE)]), along])
        for k, total in enumerate(loop.results):
            place = b.index(k // EACH * SIDE * TILE + k % EACH * SIDE)
            b.store(total, self.tile, [arith_op(b, "add", [start, place])])

    def _fill(
        self,
        shared: Value,
        factor: Expr,
        place: tuple[Sequence[Axis], Value, Value],
        batch: dict[Axis, Value],
        guarded: bool,
    ) -> None:
        """Evaluate a factor at the rows or columns from ``first`` on and at the terms from ``term`` on."""
        b, (axes, first, term), terms = self.b, place, self._product.terms
        statement = self._statement_of
        along_terms = runs_along(factor, terms[-1]) and not runs_along(factor, axes[-1])
        with b.loop(b.thread, b.index(TILE * self._at_once), "element", step=b.index(self.threads)) as loop:
            inner = b.index(self._at_once if along_terms else TILE)
            outer_index = arith_op(b, "floordiv", [loop.index, inner])
            inner_index = arith_op(b, "rem", [loop.index, inner])
            r, k = (outer_index, inner_index) if along_terms else (inner_index, outer_index)
            row, t = arith_op(b, "add", [first, r]), arith_op(b, "add", [term, k])
            inside = arith_op(
                b,
                "and",
                [arith_op(b, "lt", [row, self._numel(axes)]), arith_op(b, "lt", [t, self._numel(terms)])],
            )
            zero = b.constant(0.0, ScalarType(self._dtype))

            def value() -> Value:
                indices = dict(batch)
                for some, linear in ((axes, row), (terms, t)):
                    indices.update(zip(some, b.unravel(linear, [self._extent(a) for a in some]), strict=True))
                frame = Frame(statement, indices)
                where = statement.piece.where
                if where is None or not guarded:
                    return self._value(frame, factor)
                held = b.branch(self._value(frame, where), lambda: self._value(frame, factor), lambda: zero)
                assert held is not None
                return held

            made = b.branch(inside, value, lambda: zero)
            assert made is not None
            place_in = arith_op(b, "add", [arith_op(b, "mul", [k, b.index(ROW)]), r])
            b.store(made, shared, [place_in])

    # -- what is made of it --------------------------------------------------------------------------------------------
    def _epilogue(self, at: dict[Axis, Value], first_row: Value, first_column: Value) -> None:
        b, product = self.b, self._product
        along_rows = self._statement_of.piece.parallel[-1] in product.rows
        with b.loop(b.thread, b.index(TILE * TILE), "element", step=b.index(self.threads)) as loop:
            outer = arith_op(b, "floordiv", [loop.index, b.index(TILE)])
            inner = arith_op(b, "rem", [loop.index, b.index(TILE)])
            r, c = (inner, outer) if along_rows else (outer, inner)
            row, column = arith_op(b, "add", [first_row, r]), arith_op(b, "add", [first_column, c])
            inside = arith_op(
                b,
                "and",
                [
                    arith_op(b, "lt", [row, self._numel(product.rows)]),
                    arith_op(b, "lt", [column, self._numel(product.columns)]),
                ],
            )

            def store() -> None:
                indices = dict(at)
                for axes, linear in ((product.rows, row), (product.columns, column)):
                    indices.update(zip(axes, b.unravel(linear, [self._extent(a) for a in axes]), strict=True))
                parallel = self._statement_of.piece.parallel
                # Nothing says here that these indices lie inside: no load may stand in front of the guard.
                self.indices.update((self._nest_of(a), indices[a]) for a in parallel)
                place = arith_op(b, "add", [arith_op(b, "mul", [r, b.index(TILE)]), c])
                self.total = b.load(self.tile, [place], "total")
                self._block(self.group.body)

            b.branch(inside, store)

    def _fold(self, frame: Frame) -> Value:
        if frame.statement is self._statement_of:
            assert self.total is not None
            return self.total
        return super()._fold(frame)
