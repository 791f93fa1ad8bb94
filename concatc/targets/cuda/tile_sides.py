"""How the factors of a product get into shared memory: some terms at a time of the rows (columns) of a tile.

    x[n, c, i + a - 1, j + b - 1]                 element (row, term) of the left side, row = n, i, j, term = c, a, b

    copy_async(left, place, x, index, inside)     what lies in memory as it is, 0 beyond the ends and in the padding
    copy_four(left, place, x, index, inside)      the same, 16 bytes that lie side by side at an address of as many
    left[place] = relu(x[..] * scale[..])         what must be computed on the way

Threads run along what lies side by side in memory.  A stage has rows behind each other where threads run along terms
(`left[row][term]`), terms behind each other where they run along rows; strides are such that the threads of a warp
that read what tensor cores want (`mma_tiles.py`) meet different banks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from concatc.ir.core import Value
from concatc.ir.types import ScalarType
from concatc.loops.expr import Axis, Const, Expr, Load, axes_of, nodes
from concatc.loops.kernel_loops import Frame
from concatc.loops.program import Buffer, Nest, Statement
from concatc.loops.scalars import arith_op
from concatc.targets.cuda.device_builder import DeviceBuilder
from concatc.targets.cuda.device_writer import DeviceWriter
from concatc.targets.cuda.products import TILE, Product, is_along, product_of, runs_along

STAGES = 2  # one is read while the other is filled
# Terms of a stage, and how many are left free behind those of a row; all stages and the tile fit in 48 KiB.
TERMS = {"f32": 16, "f64": 4}
FREE = {"f32": 4, "f64": 1}
FOUR = 4  # elements of f32 in 16 bytes


@dataclass(frozen=True)
class Side:
    """A factor and its stages in shared memory.

    ``guard`` is the product's, where it goes with this factor; ``together`` is how many elements a copy has.
    """

    factor: Expr
    axes: Sequence[Axis]
    guard: Expr | None
    memory: Value
    along_terms: bool
    together: int
    row_stride: int
    term_stride: int
    stage_numel: int

    def place(self, b: DeviceBuilder, stage: Value, row: Value, term: Value) -> Value:
        """Where an element of a stage lies."""
        strides = (self.stage_numel, self.row_stride, self.term_stride)
        return b.dot((stage, row, term), strides)


class SidesWriter(DeviceWriter):
    """Writes what brings the two factors of a group's product into shared memory.

    ``aligned`` are arguments whose rows begin at multiples of 16 bytes.
    """

    aligned: frozenset[Buffer] = frozenset()

    @cached_property
    def statement(self) -> Statement:
        """The sum of products."""
        first = self.group.body.items[0]
        assert isinstance(first, Statement)
        return first

    @cached_property
    def product(self) -> Product:
        """Which axes are rows, columns and terms."""
        product = product_of(self.statement)
        assert product is not None
        return product

    @property
    def dtype(self) -> str:
        """The type of the product's elements."""
        return self.statement.piece.target.dtype

    @property
    def at_once(self) -> int:
        """How many terms a stage holds."""
        return TERMS[self.dtype]

    # -- extents -------------------------------------------------------------------------------------------------------
    def _extent(self, axis: Axis) -> Value:
        if axis in self.statement.piece.parallel:
            return self.extents[self._nest_of(axis)]
        return self.extents[self.statement, axis]

    def _nest_of(self, axis: Axis) -> Nest:
        return self.group.grid[self.statement.piece.parallel.index(axis)]

    def _numel(self, axes: Sequence[Axis]) -> Value:
        return self.b.product([self._extent(a) for a in axes])

    def _indices(self, axes: Sequence[Axis], linear: Value) -> dict[Axis, Value]:
        return dict(zip(axes, self.b.unravel(linear, [self._extent(a) for a in axes]), strict=True))

    # -- sides ---------------------------------------------------------------------------------------------------------
    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The rows' factor and the columns'; declares their memory."""
        product, where = self.product, self.statement.piece.where
        left = self._side(product.left, product.rows, where if product.guards_left else None, "left")
        return left, self._side(product.right, product.columns, None if product.guards_left else where, "right")

    def _side(self, factor: Expr, axes: Sequence[Axis], guard: Expr | None, name: str) -> Side:
        along_terms = runs_along(factor, self.product.terms[-1]) and not runs_along(factor, axes[-1])
        row_stride, term_stride = (self.at_once + FREE[self.dtype], 1) if along_terms else (1, TILE + 8)
        numel = TILE * row_stride if along_terms else self.at_once * term_stride
        memory = self.b.shared(self.dtype, STAGES * numel, name, alignment=16)
        together = self._together(factor, self.product.terms[-1] if along_terms else axes[-1], guard)
        return Side(factor, axes, guard, memory, along_terms, together, row_stride, term_stride, numel)

    def _together(self, factor: Expr, axis: Axis, guard: Expr | None) -> int:
        """How many elements along an axis lie side by side, at an address that is a multiple of their size."""
        if self.dtype != "f32" or axis.extent % FOUR or not self._lies_in_memory(factor, guard):
            return 1
        assert isinstance(factor, Load)
        *outer, last = factor.at
        others = [*outer, *(e for e in (factor.where, guard) if e is not None)]
        only_there = is_along(last, axis, FOUR) and not any(axis in axes_of(e) for e in others)
        return FOUR if only_there and self.statement.buffer(factor.ref) in self.aligned else 1

    def _fetch(self, side: Side, batch: dict[Axis, Value], first: tuple[Value, Value], stage: Value) -> None:
        """Bring a side's elements from row and term ``first`` on into a stage; 0 beyond the ends."""
        b, terms = self.b, self.product.terms
        width, lines = (self.at_once, TILE) if side.along_terms else (TILE, self.at_once)
        width //= side.together
        # Threads run along one of the two: its index does not depend on the loop.
        inner, outer = (arith_op(b, op, [b.thread, b.index(width)]) for op in ("rem", "floordiv"))
        with b.loop(outer, b.index(lines), "line", step=b.index(self.threads // width)) as loop:
            first_inner = b.dot((inner,), (side.together,))
            r, k = (loop.index, first_inner) if side.along_terms else (first_inner, loop.index)
            row, term = (b.dot((start, v), (1, 1)) for start, v in zip(first, (r, k), strict=True))
            ends = [(row, self._numel(side.axes)), (term, self._numel(terms))]
            inside = arith_op(b, "and", [arith_op(b, "lt", [index, end]) for index, end in ends])

            def frame() -> Frame:
                indices = {**batch, **self._indices(side.axes, row), **self._indices(terms, term)}
                return Frame(self.statement, indices)

            place = side.place(b, stage, r, k)
            if self._lies_in_memory(side.factor, side.guard):
                self._copy(side, frame(), inside, place)
            else:
                b.store(self._computed(side, frame, inside), side.memory, [place])

    def _lies_in_memory(self, load: Expr, guard: Expr | None) -> bool:
        """Whether a factor is 0 or an element of memory, at an index that follows from its axes."""
        if not isinstance(load, Load) or load.dtype != self.dtype:
            return False
        buffer = self.statement.buffer(load.ref)
        if buffer.inlined or buffer in self.computed or buffer not in self.memory:
            return False
        guards = [guard for guard in (load.where, guard) if guard is not None]
        is_zero = load.where is None or (isinstance(load.other, Const) and load.other.value == 0)
        return is_zero and not any(isinstance(node, Load) for e in (*load.at, *guards) for node in nodes(e))

    def _copy(self, side: Side, frame: Frame, inside: Value, place: Value) -> None:
        load = side.factor
        assert isinstance(load, Load)
        for guard in (load.where, side.guard):
            if guard is not None:
                inside = arith_op(self.b, "and", [inside, self._value(frame, guard)])
        buffer = self.statement.buffer(load.ref)
        at = [self._value(frame, i) for i in load.at]
        where = at if buffer.scratch is None else self._in_scratch(buffer, at)
        self.b.copy(side.memory, place, self.memory[buffer], where, inside, side.together)

    def _computed(self, side: Side, frame: Callable[[], Frame], inside: Value) -> Value:
        b = self.b
        zero = b.constant(0.0, ScalarType(self.dtype))

        def value() -> Value:
            made = frame()
            if side.guard is None:
                return self._value(made, side.factor)
            held = b.branch(self._value(made, side.guard), lambda: self._value(made, side.factor), lambda: zero)
            assert held is not None
            return held

        element = b.branch(inside, value, lambda: zero)
        assert element is not None
        return element
