"""Writes a device kernel as a function: arguments, a thread an element, and what all kinds of kernels share.

    points of 6 x 8:   for point = block * threads + thread to 48 step blocks * threads:  i, j = point / 8, point % 8

Numbers that follow from sizes alone are made on the host, in f64, and passed as they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from concatc.ir.core import FuncOp, Value
from concatc.ir.types import FLOATS, MemRefType, ScalarType
from concatc.loops.expr import Arith, Cast, Const, Expr, Size
from concatc.loops.kernel_loops import Frame, LoopWriter
from concatc.loops.nests import Arrangement
from concatc.loops.program import Buffer, Nest, Program
from concatc.loops.scalars import arith_op
from concatc.targets.cuda.device_builder import DeviceBuilder
from concatc.targets.cuda.groups import Group

POINT_THREADS = 256


class DeviceWriter(LoopWriter):
    """Writes one group; ``seen`` are values that lie in the memory of a result, which is read there."""

    def __init__(
        self,
        group: Group,
        program: Program,
        memory: tuple[Sequence[MemRefType], Sequence[Buffer], dict[Buffer, int]],
        overwritten: Sequence[Buffer],
        function: FuncOp,
    ) -> None:
        memrefs, scratch, seen = memory
        root = Nest(None, items=[group.grid[0]]) if group.grid else group.body
        arrangement = Arrangement(root, program.arguments, program.results, list(scratch), list(overwritten), [])
        super().__init__(arrangement, function, memrefs, program.statements)
        self.rows = []  # long sums are added up by trees
        self.b: DeviceBuilder = DeviceBuilder(function.body)
        self.group, self.seen = group, seen
        self.scalars: list[float] = []

    @property
    def threads(self) -> int:
        """How many threads a block has."""
        return POINT_THREADS

    @property
    def grid(self) -> int:
        """How many blocks would have nothing left to do behind their first point."""
        return -(-self.group.points // self.threads)

    def write(self, kernel: FuncOp) -> None:
        """Write the function and leave out the arguments that it does not read."""
        zero = self.b.index(0)
        self._declare(kernel, (zero, zero))
        for buffer, result in self.seen.items():
            self.memory[buffer] = self.results[result]
        if not self.group.grid:
            self.indices[self.group.body] = zero
        self._emit()
        self.b.finish()

    def _emit(self) -> None:
        with self._over(self.group.grid, self._global_thread(), self._all_threads(), "point"):
            self._block(self.group.body)

    # -- indices -------------------------------------------------------------------------------------------------------
    def _global_thread(self) -> Value:
        first = arith_op(self.b, "mul", [self.b.block, self.b.index(self.threads)])
        return arith_op(self.b, "add", [first, self.b.thread])

    def _all_threads(self) -> Value:
        return arith_op(self.b, "mul", [self.b.grid_dim, self.b.index(self.threads)])

    @contextmanager
    def _over(self, nests: Sequence[Nest], start: Value, step: Value, name: str) -> Iterator[None]:
        """One loop over the points of several, from ``start`` in steps."""
        extents = [self.extents[nest] for nest in nests]
        with self.b.loop(start, self.b.product(extents), name, step=step) as loop:
            self._enter(nests, self.b.unravel(loop.index, extents))
            yield

    def _enter(self, nests: Sequence[Nest], indices: Sequence[Value]) -> None:
        for nest, index in zip(nests, indices, strict=True):
            assert nest.axis is not None
            self.indices[nest] = index
            self.extent_of[index] = nest.axis.extent

    # -- numbers of sizes ----------------------------------------------------------------------------------------------
    def _new_value(self, frame: Frame, expr: Expr) -> Value:
        if isinstance(expr, Cast) and expr.dtype in FLOATS and _is_of_sizes(expr):
            self.scalars.append(_number(expr))
            return self.function.body.add_arg(ScalarType(expr.dtype), "number")
        return super()._new_value(frame, expr)


def _is_of_sizes(expr: Expr) -> bool:
    """Whether an expression follows from sizes, of which it has some, by arithmetic on floats."""
    match expr:
        case Cast(dtype, Size()):
            return dtype in FLOATS
        case Cast(dtype, value):
            return dtype in FLOATS and _is_of_sizes(value)
        case Arith("add" | "sub" | "mul" | "div", args):
            return any(_is_of_sizes(a) for a in args) and all(isinstance(a, Const) or _is_of_sizes(a) for a in args)
    return False


def _number(expr: Expr) -> float:
    match expr:
        case Const(value) | Size(value):
            return float(value)
        case Cast(_, value):
            return _number(value)
        case Arith(op, args):
            a, b = map(_number, args)
            match op:
                case "add":
                    return a + b
                case "sub":
                    return a - b
                case "mul":
                    return a * b
            return a / b
    raise AssertionError(f"{expr} does not follow from sizes")
