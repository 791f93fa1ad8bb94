"""A kernel as a function of loops: the arrangement of its pieces, written out with :class:`LoopBuilder`.

    func.func @k0_bias_relu(%begin: index, %end: index, %n_j: index, %x: memref<?x?xf32, strided<[?, 1]>>,
                            %b: memref<?xf32>, %y: memref<?x?xf32, strided<[?, 1]>>, %add0: i1)

Arguments: the chunk ``begin .. end`` of the outermost loop; the extents that are known at run time; a memref for each
argument, each result and each scratch buffer of the kernel; for each result whether to add to what is there.  Stores
to results come last in their block, so that a kernel may overwrite what it reads at the same index.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from concatc.ir.core import FuncOp, Value
from concatc.ir.types import FLOATS, I1, INDEX, MemRefType, ScalarType, TensorType
from concatc.loops.contractions import arrange_contractions
from concatc.loops.cut_axes import outer_extent
from concatc.loops.expr import Arith, Axis, Cast, Const, Expr, Load, Select, Size, children, loads, rebuild
from concatc.loops.long_sums import WIDE, sums_of_rows
from concatc.loops.loop_builder import LoopBuilder
from concatc.loops.loop_ranges import LoopRanges
from concatc.loops.merge_axes import lie_as_one, merge_axes, merged_shape, merged_strides
from concatc.loops.nests import Arrangement, arrange
from concatc.loops.plan import Window
from concatc.loops.program import Buffer, Nest, PiecesOf, Program, Statement, program_of
from concatc.loops.scalars import argmax_ops, arith_op, cast_op, least, select_op
from concatc.loops.scratch import scratch_shape


@dataclass
class KernelLoops:
    """The function, and what a call of it passes besides memory: the chunks of the outermost loop, the sizes.

    ``outer`` is the extent of that loop and how many of its iterations are a chunk.  ``joined`` says for each argument
    and result which of its axes are one in the function (see ``merge_axes``).
    """

    function: FuncOp
    outer: tuple[int, int]
    sizes: list[int]
    joined: list[list[bool]]
    scratch: list[TensorType]


def scratch_of(kernel: FuncOp, pieces_of: PiecesOf) -> list[TensorType]:
    """The scratch buffers that a kernel needs."""
    program = _packed_program(kernel, pieces_of)
    found = _scratch_types(arrange(program))
    program.forget()
    return found


def _packed_program(kernel: FuncOp, pieces_of: PiecesOf) -> Program:
    program = program_of(kernel, pieces_of)
    arrange_contractions(program)
    return program


def _scratch_types(arrangement: Arrangement) -> list[TensorType]:
    return [TensorType(scratch_shape(b), b.type.dtype) for b in arrangement.scratch]


def kernel_loops(name: str, kernel: FuncOp, windows: Sequence[Window], pieces_of: PiecesOf) -> KernelLoops:
    """The loops of ``kernel`` for arguments and results that lie in memory as ``windows`` do (reads, then writes)."""
    program = _packed_program(kernel, pieces_of)
    flags_of, overwritten = lay_out(program, windows)
    arrangement = arrange(program, overwritten)
    function = FuncOp(name, attributes={"cnet.kernel": True}, loc=kernel.loc, private=True)
    memrefs = [memref_of(merged_window(w, flags)) for w, flags in zip(windows, flags_of, strict=True)]
    writer = LoopWriter(arrangement, function, memrefs, program.statements)
    writer.write(kernel)
    made = KernelLoops(function, outer_extent(arrangement.cut), writer.sizes, flags_of, _scratch_types(arrangement))
    program.forget()
    return made


def lay_out(program: Program, windows: Sequence[Window]) -> tuple[list[list[bool]], list[tuple[Buffer, Buffer]]]:
    """Merge axes of a program for arguments and results that lie as ``windows`` do (reads, then writes).

    Returns for each of them which of its axes are one now, and the pairs of an argument and a result in its memory.
    """
    buffers = [*program.arguments, *program.results]
    reads = len(program.arguments)
    joined: dict[Buffer, list[bool]] = {}
    for buffer, window in zip(buffers, windows, strict=True):
        flags = lie_as_one(window.shape, window.strides)
        joined[buffer] = [a and b for a, b in zip(joined.get(buffer, flags), flags, strict=True)]
    merge_axes(program.statements, joined)
    pairs = itertools.product(
        zip(program.arguments, windows, strict=False), zip(program.results, windows[reads:], strict=True)
    )
    overwritten = [(argument, result) for (argument, x), (result, y) in pairs if x == y and 0 not in x.shape]
    return [joined[buffer] for buffer in buffers], overwritten


def merged_window(window: Window, joined: Sequence[bool]) -> Window:
    """The window over merged axes."""
    return replace(window, shape=merged_shape(window.shape, joined), strides=merged_strides(window.strides, joined))


def memref_of(window: Window) -> MemRefType:
    """The type of a kernel's argument: extents and strides are known at run time, but for strides of 1."""
    rank = len(window.shape)
    if rank == 0 or (rank == 1 and window.strides == (1,)):
        return MemRefType((None,) * rank, window.dtype)
    return MemRefType((None,) * rank, window.dtype, tuple(1 if s == 1 else None for s in window.strides))


def _sizes_in(statements: Sequence[Statement]) -> list[Size]:
    """The sizes in expressions, by identity: two that are equal here may differ at another batch size."""
    found: dict[int, Size] = {}
    seen: set[int] = set()
    for piece in (s.piece for s in statements):
        stack = [e for e in (piece.index, piece.where, piece.value, *reversed(piece.at)) if e is not None]
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, Size):
                found[id(node)] = node
            stack.extend(reversed(children(node)))
    return list(found.values())


@dataclass
class Frame:
    """A statement being written: the values of its axes, and of the expressions that are written already."""

    statement: Statement
    axes: dict[Axis, Value]
    written: dict[int, Value] = field(default_factory=dict)


class LoopWriter:
    """Writes an arrangement as one function."""

    def __init__(
        self,
        arrangement: Arrangement,
        function: FuncOp,
        memrefs: Sequence[MemRefType],
        statements: Sequence[Statement],
    ) -> None:
        self.arrangement = arrangement
        self.given = _sizes_in(statements)
        self.rows = sums_of_rows(statements)
        self.function = function
        self.memrefs = memrefs
        self.b = LoopBuilder(function.body)
        self.sizes: list[int] = []
        self.extents: dict[object, Value] = {}
        self.memory: dict[Buffer, Value] = {}
        self.results: list[Value] = []
        self.adds: list[Value] = []
        self.indices: dict[Nest, Value] = {}
        self.part: Value | None = None  # which part of an axis the loop over parts is at
        self.extent_of: dict[Value, int] = {}  # of loops over an axis, by their index
        self.computed: dict[Buffer, tuple[list[Value], Value]] = {}
        self.pending: list[tuple[Value, Value, list[Value], Value, Value | None]] = []

    def write(self, kernel: FuncOp) -> None:
        """Write the function of a kernel, of which the names of results are taken."""
        body = self.function.body
        self._declare(kernel, (body.add_arg(INDEX, "begin"), body.add_arg(INDEX, "end")))
        self._block(self.arrangement.root)
        self.b.finish()

    def _declare(self, kernel: FuncOp, chunk: tuple[Value, Value]) -> None:
        """Add the arguments of the function."""
        body = self.function.body
        self.ranges = LoopRanges(self.b, self.arrangement.cut, self.extents, chunk)
        self._declare_extents(self.arrangement.root)
        for size in self.given:
            self.sizes.append(size.value)
            self.extents[id(size)] = body.add_arg(INDEX, "count")
        self._declare_memory(kernel)

    # -- arguments -------------------------------------------------------------------------------------------------
    def _declare_extents(self, nest: Nest) -> None:
        for item in nest.items:
            if isinstance(item, Nest):
                assert item.axis is not None
                if item.within is None and self._needs_extent(item):
                    self._declare_extent(item, item.axis, item.static)
                    if item.expected and not item.static:
                        self.extents[item].attrs["cnet.expected"] = item.axis.extent
                self._declare_extents(item)
                continue
            for axis in item.piece.axes:
                if axis.kind != "parallel" or item.kind == "scatter":
                    self._declare_extent((item, axis), axis, axis in item.static)
            if item.kind == "scatter":
                for d, extent in enumerate(item.target.type.shape):
                    self._declare_extent((item.target, d), Axis(f"z{d}", extent), False)

    def _needs_extent(self, nest: Nest) -> bool:
        """Whether the bounds of a loop follow from its extent: that of the last loops over the chunk is the rest."""
        cut = self.arrangement.cut
        is_whole = all(nest not in loops for loops in cut)
        return nest.block > 1 or nest.parts > 1 or is_whole or any(nest is loops[0] for loops in cut[:-1])

    def _declare_extent(self, key: object, axis: Axis, static: bool) -> None:
        if static:
            self.extents[key] = self.b.index(axis.extent)
            return
        self.sizes.append(axis.extent)
        self.extents[key] = self.function.body.add_arg(INDEX, f"n_{axis.name}")

    def _declare_memory(self, kernel: FuncOp) -> None:
        body = self.function.body
        reads = len(self.arrangement.arguments)
        for buffer, type in zip(self.arrangement.arguments, self.memrefs, strict=False):
            self.memory[buffer] = body.add_arg(type, buffer.name)
        for value, type in zip(kernel.ret.operands, self.memrefs[reads:], strict=True):
            self.results.append(body.add_arg(type, value.name))
        for buffer in self.arrangement.scratch:
            dense = Window.dense("arena", 0, TensorType(scratch_shape(buffer), buffer.type.dtype))
            arg = body.add_arg(memref_of(dense), f"{buffer.name}_scratch")
            arg.attrs["cnet.scratch"] = True
            self.memory[buffer] = arg
        for k in range(len(self.results)):
            self.adds.append(body.add_arg(I1, f"add{k}"))

    # -- nests -----------------------------------------------------------------------------------------------------
    def _block(self, nest: Nest) -> None:
        outer_pending, self.pending = self.pending, []
        for item in nest.items:
            if isinstance(item, Nest):
                self._loop(item)
            else:
                self._statement(item)
        for pending in self.pending:
            self._store_result(*pending)
        self.pending = outer_pending

    def _loop(self, nest: Nest) -> None:
        assert nest.axis is not None
        lower, upper = self.ranges.of(nest)
        name = nest.axis.name + ("_block" if nest.block > 1 else "_part" if nest.parts > 1 else "")
        with self.b.loop(lower, upper, name) as loop:
            self.indices[nest] = loop.index
            self.ranges.enter(nest, loop.index)
            if nest.parts > 1:
                self.part = loop.index
            elif nest.block == 1:
                self.extent_of[loop.index] = nest.axis.extent
            self._block(nest)

    def _statement(self, statement: Statement) -> None:
        piece = statement.piece
        loops = [self.indices[nest] for nest in statement.path]
        frame = Frame(statement, dict(zip(piece.parallel, loops, strict=False)))
        if statement.part is not None:
            assert self.part is not None
            frame.axes[statement.part] = self.part
        if statement.kind == "scatter":
            self._scatter(frame)
            return
        value = self._value(frame, piece.value) if statement.kind == "store" else self._fold(frame)
        at = [self._value(frame, i) for i in piece.at]
        guard = self._value(frame, piece.where) if piece.where is not None and statement.kind == "store" else None
        target = statement.target
        if statement.repeated:
            memory, place = self.memory[target], self._in_scratch(target, at)
            self.b.store(arith_op(self.b, "add", [self.b.load(memory, place, "old"), value]), memory, place)
            return
        self.computed[target] = (at, value)
        if target.scratch is not None:
            self._guarded_store(value, self.memory[target], self._in_scratch(target, at), guard)
        for k in target.results:
            self.pending.append((value, self.results[k], at, self.adds[k], guard))

    def _guarded_store(self, value: Value, memory: Value, at: list[Value], guard: Value | None) -> None:
        if guard is None:
            self.b.store(value, memory, at)
            return
        self.b.branch(guard, lambda: self.b.store(value, memory, at))

    def _store_result(self, value: Value, memory: Value, at: list[Value], add: Value, guard: Value | None) -> None:
        def added() -> Value:
            old = self.b.load(memory, at, "old")
            return arith_op(self.b, "add", [old, value])

        def store() -> None:
            total = self.b.branch(add, added, lambda: value)
            assert total is not None
            self.b.store(total, memory, at)

        if guard is None:
            store()
        else:
            self.b.branch(guard, store)

    # -- folds -----------------------------------------------------------------------------------------------------
    def _fold(self, frame: Frame) -> Value:
        statement, piece = frame.statement, frame.statement.piece
        made = self.b.recall(("fold", id(statement)))
        if made is not None:
            return made
        type = ScalarType(piece.target.dtype)
        if statement in self.rows:
            return cast_op(self.b, self._rows(frame, piece.reduce, self.b.constant(0.0, ScalarType(WIDE))), str(type))
        if piece.combine == "add":
            return self._fold_over(frame, piece.reduce, [self.b.constant(0.0 if str(type) in FLOATS else 0, type)])[-1]
        twin = self._twin(statement)
        if piece.combine == "max" and twin is None:
            return self._fold_over(frame, piece.reduce, [least(self.b, str(type))])[-1]
        # The place of a maximum and the maximum itself are found together.
        place = statement if piece.combine == "argmax" else twin
        assert place is not None
        found = self._argmax(Frame(place, dict(frame.axes)))
        if twin is not None:
            self.b.remember(("fold", id(twin)), found[twin is place])
        return found[statement is place]

    def _twin(self, statement: Statement) -> Statement | None:
        """The other one of a maximum and its place, where both are folds over the same in the same loops."""
        nest = statement.path[-1] if statement.path else self.arrangement.root
        mine = statement.piece
        for other in nest.items:
            if not isinstance(other, Statement) or {other.piece.combine, mine.combine} != {"max", "argmax"}:
                continue
            theirs = other.piece
            same_memory = all(statement.buffer(load.ref) is other.buffer(load.ref) for load in loads(mine.value))
            if mine.axes == theirs.axes and mine.value == theirs.value and mine.where == theirs.where and same_memory:
                return other
        return None

    def _argmax(self, frame: Frame) -> list[Value]:
        """The maximum and its place; the first place where nothing is larger than minus infinity."""
        piece = frame.statement.piece
        assert piece.index is not None and piece.where is None, "argmax takes no guard"
        first = rebuild(piece.index, lambda e: Const(0, "index") if e in piece.reduce else None)
        start = cast_op(self.b, self._value(frame, first), piece.target.dtype)
        return self._fold_over(frame, piece.reduce, [least(self.b, piece.value.dtype), start])

    def _fold_over(self, frame: Frame, axes: Sequence[Axis], carried: list[Value]) -> list[Value]:
        if not axes:
            return self._fold_step(frame, carried)
        axis = axes[0]
        extent = self.extents[frame.statement, axis]
        with self.b.loop(self.b.index(0), extent, axis.name, carried) as loop:
            frame.axes[axis] = loop.index
            self.extent_of[loop.index] = axis.extent
            loop.yielded = self._fold_over(frame, axes[1:], loop.carried)
        return loop.results

    def _rows(self, frame: Frame, axes: Sequence[Axis], total: Value) -> Value:
        """A sum over the outer axes of sums over the innermost one."""
        axis = axes[0]
        if len(axes) == 1:
            zero = self.b.constant(0.0, ScalarType(frame.statement.piece.target.dtype))
            row = cast_op(self.b, self._fold_over(frame, axes, [zero])[0], WIDE)
            return self.b.pure("arith.addf", [total, row], total.type)
        with self.b.loop(self.b.index(0), self.extents[frame.statement, axis], axis.name, [total]) as loop:
            frame.axes[axis] = loop.index
            self.extent_of[loop.index] = axis.extent
            loop.yielded = [self._rows(frame, axes[1:], loop.carried[0])]
        return loop.results[0]

    def _fold_step(self, frame: Frame, carried: list[Value]) -> list[Value]:
        piece = frame.statement.piece
        if piece.where is None:
            return self._combine(frame, carried)
        guard = self._value(frame, piece.where)
        value = self.b.branch(guard, lambda: self._combine(frame, carried)[0], lambda: carried[0])
        assert value is not None
        return [value]

    def _combine(self, frame: Frame, carried: list[Value]) -> list[Value]:
        piece = frame.statement.piece
        value = self._value(frame, piece.value)
        if piece.combine == "add":
            # The terms of a sum may be added in any order: vector lanes and unrolled loops do.
            fast = {"fastmath": "reassoc"} if str(value.type) in FLOATS else {}
            name = "arith.addf" if str(value.type) in FLOATS else "arith.addi"
            return [self.b.pure(name, [carried[0], value], value.type, attributes=fast)]
        if piece.combine == "max":
            return [arith_op(self.b, "max", [carried[0], value])]
        assert piece.index is not None
        return argmax_ops(self.b, carried, value, self._value(frame, piece.index))

    # -- sums in memory --------------------------------------------------------------------------------------------
    def _scatter(self, frame: Frame) -> None:
        statement = frame.statement
        target, piece = statement.target, statement.piece
        first = target.writers[0] is statement
        if target.scratch is not None:
            memory = self.memory[target]
            if first:
                self._fill_zero(target, memory)
        else:
            (result,) = target.results
            memory = self.results[result]
            if first:
                self.b.branch(self.b.not_(self.adds[result]), lambda: self._fill_zero(target, memory))
        self._scatter_over(frame, piece.axes, memory)

    def _fill_zero(self, target: Buffer, memory: Value) -> None:
        dtype = target.type.dtype
        zero = self.b.constant(0.0 if dtype in FLOATS else 0, ScalarType(dtype))

        def fill(at: list[Value]) -> None:
            if len(at) == target.type.rank:
                self.b.store(zero, memory, at)
                return
            with self.b.loop(self.b.index(0), self.extents[target, len(at)], f"z{len(at)}") as loop:
                fill([*at, loop.index])

        fill([])

    def _scatter_over(self, frame: Frame, axes: Sequence[Axis], memory: Value) -> None:
        if axes:
            extent = self.extents[frame.statement, axes[0]]
            with self.b.loop(self.b.index(0), extent, axes[0].name) as loop:
                frame.axes[axes[0]] = loop.index
                self._scatter_over(frame, axes[1:], memory)
            return
        piece = frame.statement.piece

        def add() -> None:
            value = self._value(frame, piece.value)
            at = [self._value(frame, i) for i in piece.at]
            self.b.store(arith_op(self.b, "add", [self.b.load(memory, at, "old"), value]), memory, at)

        if piece.where is None:
            add()
        else:
            self.b.branch(self._value(frame, piece.where), add)

    # -- expressions -----------------------------------------------------------------------------------------------
    def _value(self, frame: Frame, expr: Expr) -> Value:
        found = frame.written.get(id(expr))
        if found is not None and self.b.visible(found):
            return found
        value = self._new_value(frame, expr)
        frame.written[id(expr)] = value
        return value

    def _new_value(self, frame: Frame, expr: Expr) -> Value:
        match expr:
            case Axis():
                return frame.axes[expr]
            case Const(value, dtype):
                return self.b.constant(value, ScalarType(dtype))
            case Size():
                return self.extents[id(expr)]
            case Load():
                return self._load(frame, expr)
            case Arith(op, args):
                return arith_op(self.b, op, [self._value(frame, a) for a in args])
            case Select(condition, yes, no):
                return select_op(self.b, *(self._value(frame, e) for e in (condition, yes, no)))
            case Cast(dtype, value):
                return cast_op(self.b, self._value(frame, value), dtype)
        raise AssertionError(f"{expr} has no place in a loop")

    def _load(self, frame: Frame, load: Load) -> Value:
        buffer = frame.statement.buffer(load.ref)

        def read() -> Value:
            return self._read(buffer, [self._value(frame, i) for i in load.at])

        if load.where is None:
            return read()
        # The guard stands outside of what is read, inlined or not: padding is never normalised or activated.
        where, other = self._value(frame, load.where), load.other
        assert other is not None
        value = self.b.branch(where, read, lambda: self._value(frame, other), hint=buffer.name)
        assert value is not None
        return value

    def _read(self, buffer: Buffer, at: list[Value]) -> Value:
        if buffer in self.computed and not buffer.inlined:
            known, value = self.computed[buffer]
            if self.b.visible(value) and all(a is k for a, k in zip(at, known, strict=True)):
                return value
        if buffer.inlined:
            return self._inlined(buffer, at)
        where = at if buffer.scratch is None else self._in_scratch(buffer, at)
        return self.b.load(self.memory[buffer], where, f"{buffer.name}_", anyway=self._is_there(buffer, at))

    def _is_there(self, buffer: Buffer, at: list[Value]) -> bool:
        """Whether an element of an argument can be read whatever guards say: no index can leave the argument."""
        if buffer.argument is None or buffer in self.arrangement.overwritten:
            return False
        return all(self.extent_of.get(i, n + 1) <= n for i, n in zip(at, buffer.type.shape, strict=True))

    def _in_scratch(self, buffer: Buffer, at: list[Value]) -> list[Value]:
        """Where the element of a buffer lies in its scratch memory."""
        assert buffer.scratch is not None
        blocked, nest = buffer.blocked or (None, None)
        start = self.ranges.within[nest][0] if nest is not None else None
        return [
            at[m] if m != blocked or start is None else arith_op(self.b, "sub", [at[m], start]) for m in buffer.scratch
        ]

    def _inlined(self, buffer: Buffer, at: list[Value]) -> Value:
        key = ("inlined", id(buffer), tuple(map(id, at)))
        found = self.b.recall(key)
        if found is not None:
            return found
        (writer,) = buffer.writers
        value = self._value(Frame(writer, dict(zip(writer.piece.axes, at, strict=True))), writer.piece.value)
        self.b.remember(key, value)
        return value
