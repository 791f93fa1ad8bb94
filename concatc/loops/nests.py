"""Arranges the pieces of a kernel's ops in loop nests.

    softmax over rows                        nest r0 { fold top over c; fold total over c;
        top[r]   = max_c x[r, c]                       nest c { store y } }
        total[r] = sum_c exp(x[r, c] - top[r])
        y[r, c]  = exp(x[r, c] - top[r]) / total[r]

Three rules make the arrangement: a value that one pointwise piece makes is computed where it is read (it has no
memory); statements share loops over parallel axes as long as each reads what an earlier one wrote in the same
iteration only; what is not read at the point where it was computed lives in scratch memory, without the axes that
writer and readers share.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Const, Expr, Load, Ref, children, loads
from concatc.loops.pieces import Piece, is_pointwise, pointwise

PiecesOf = Callable[[Operation], Sequence[Piece]]


@dataclass(eq=False)
class Buffer:
    """A value of the kernel: an argument, a result of an op or a temporary of one."""

    type: TensorType
    name: str
    argument: int | None = None
    results: list[int] = field(default_factory=list)  # the results of the kernel that get it
    writers: list[Statement] = field(default_factory=list)
    inlined: bool = False  # computed where it is read
    # Scratch memory: None, or the axes of the value that it keeps.
    scratch: tuple[int, ...] | None = None


@dataclass(eq=False)
class Statement:
    """A piece with what its references stand for, and the loops around it (``path``, outermost first)."""

    piece: Piece
    target: Buffer
    refs: dict[tuple[str, int], Buffer]
    path: list[Nest] = field(default_factory=list)
    # Axes with an extent that is part of the code: those of sliding windows.
    static: list[Axis] = field(default_factory=list)

    @property
    def kind(self) -> Literal["store", "fold", "scatter"]:
        """``fold`` computes one value over the reduce axes; ``scatter`` adds in memory."""
        if self.piece.combine == "store":
            return "store"
        if self.piece.sequential or any(loads(e) for e in self.piece.at):
            return "scatter"
        return "fold"

    def buffer(self, ref: Ref) -> Buffer:
        """What a reference of the piece stands for."""
        return self.refs[ref.kind, ref.index]


@dataclass(eq=False)
class Program:
    """A kernel as statements in order.  ``results[k]`` is the buffer that result ``k`` takes its elements from."""

    arguments: list[Buffer]
    results: list[Buffer]
    statements: list[Statement]


@dataclass(eq=False)
class Nest:
    """A loop over a parallel axis, or (without an axis) the kernel itself."""

    axis: Axis | None
    static: bool = False
    items: list[Nest | Statement] = field(default_factory=list)


@dataclass(eq=False)
class Arrangement:
    """A kernel's nests, the buffers behind its arguments and results, and those in scratch memory."""

    root: Nest
    arguments: list[Buffer]
    results: list[Buffer]
    scratch: list[Buffer]

    @property
    def outer(self) -> Nest | None:
        """The loop that chunks cut: there where the whole kernel is one nest."""
        items = self.root.items
        return items[0] if len(items) == 1 and isinstance(items[0], Nest) else None


def arrange(program: Program, overwritten: Sequence[tuple[Buffer, Buffer]] = ()) -> Arrangement:
    """The nests of a program.

    ``overwritten`` are pairs of an argument and a result that lies in its memory; such a result is stored in the loop
    in which the argument is last read, or behind it.
    """
    statements = [s for s in program.statements if s.target.results or not s.target.inlined]
    reads = _Reads()
    for argument, result in overwritten:
        _delay(statements, argument, result, reads)
    root = Nest(None)
    placer = _Placer(root, reads, overwritten)
    for statement in statements:
        placer.place(statement)
    for argument, result in overwritten:
        _check_overwrite(statements, root, argument, result, reads)
    scratch = _assign_scratch(statements, reads)
    return Arrangement(root, program.arguments, program.results, scratch)


def program_of(kernel: FuncOp, pieces_of: PiecesOf) -> Program:
    """The statements of a kernel: a function of ops whose arguments are read and whose results are written."""
    arguments = [Buffer(a.tensor, a.name or f"arg{k}", argument=k) for k, a in enumerate(kernel.args)]
    buffers: dict[Value, Buffer] = dict(zip(kernel.args, arguments, strict=True))
    statements: list[Statement] = []
    for op in kernel.ops[:-1]:
        refs: dict[tuple[str, int], Buffer] = {("operand", k): buffers[v] for k, v in enumerate(op.operands)}
        for k, result in enumerate(op.results):
            refs["result", k] = buffers[result] = Buffer(result.tensor, result.name)
        for piece in pieces_of(op):
            key = (piece.target.kind, piece.target.index)
            if key not in refs:
                refs[key] = Buffer(piece.target.type, f"{op.results[0].name}_t{piece.target.index}")
            statement = Statement(piece, refs[key], refs)
            refs[key].writers.append(statement)
            statements.append(statement)
    results: list[Buffer] = []
    for k, value in enumerate(kernel.ret.operands):
        buffer = buffers[value]
        read_inside = any(use.op is not kernel.ret for use in value.uses)
        if buffer.argument is None and not buffer.results and not (read_inside and _scattered(buffer)):
            buffer.results.append(k)
            results.append(buffer)
            continue
        # An argument that is returned, or a value that is returned twice, is copied; so is a sum in memory that is
        # read here, since the result may hold something to add to.
        statements.append(_copy(buffer, k))
        results.append(statements[-1].target)
    for statement in statements:
        target = statement.target
        target.inlined = len(target.writers) == 1 and is_pointwise(statement.piece)
    return Program(arguments, results, statements)


def _scattered(buffer: Buffer) -> bool:
    return any(w.kind == "scatter" for w in buffer.writers)


def _copy(source: Buffer, result: int) -> Statement:
    x, y = Ref("operand", 0, source.type), Ref("result", 0, source.type)
    target = Buffer(source.type, source.name, results=[result])
    statement = Statement(pointwise(y, lambda *i: x[i]), target, {("operand", 0): source, ("result", 0): target})
    target.writers.append(statement)
    return statement


# -- what a statement reads, as far as loops need to know ----------------------------------------------------------
@dataclass(frozen=True)
class _Computed:
    """An index that is more than an axis; ``axes`` are those it depends on."""

    axes: tuple[Axis, ...]


_Place = Axis | Const | _Computed
_Access = tuple[Buffer, tuple[_Place, ...]]


class _Reads:
    """The elements of memory that statements read, looking through inlined values."""

    def __init__(self) -> None:
        self._direct: dict[Statement, list[_Access]] = {}
        self._through: dict[Statement, list[_Access]] = {}

    def direct(self, statement: Statement) -> list[_Access]:
        """The loads in the piece itself."""
        if statement not in self._direct:
            piece = statement.piece
            exprs = [piece.value, *piece.at, *(e for e in (piece.where, piece.index) if e is not None)]
            self._direct[statement] = [
                (statement.buffer(load.ref), tuple(_place_of(i) for i in load.at)) for load in _all_loads(exprs)
            ]
        return self._direct[statement]

    def of(self, statement: Statement) -> list[_Access]:
        """All loads from buffers that are not inlined."""
        if statement not in self._through:
            found: list[_Access] = []
            for buffer, at in self.direct(statement):
                if not buffer.inlined:
                    found.append((buffer, at))
                    continue
                (writer,) = buffer.writers
                place = dict(zip(writer.piece.axes, at, strict=True))
                found += [(b, tuple(_substitute(p, place) for p in places)) for b, places in self.of(writer)]
            self._through[statement] = list(dict.fromkeys(found))
        return self._through[statement]


def _all_loads(exprs: Sequence[Expr]) -> Iterator[Load]:
    # Shared subexpressions are visited once: expressions are graphs, and walking them as trees may take for ever.
    seen: set[int] = set()
    stack = list(reversed(exprs))
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Load):
            yield node
        stack.extend(reversed(children(node)))


def _place_of(index: Expr) -> _Place:
    if isinstance(index, Axis | Const):
        return index
    axes: dict[Axis, None] = {}
    stack: list[Expr] = [index]
    while stack:
        node = stack.pop()
        if isinstance(node, Axis):
            axes[node] = None
        stack.extend(reversed(children(node)))
    return _Computed(tuple(axes))


def _substitute(place: _Place, by: dict[Axis, _Place]) -> _Place:
    if isinstance(place, Axis):
        return by[place]
    if isinstance(place, Const):
        return place
    axes: dict[Axis, None] = {}
    for axis in place.axes:
        inner = by[axis]
        if isinstance(inner, Axis):
            axes[inner] = None
        elif isinstance(inner, _Computed):
            axes.update(dict.fromkeys(inner.axes))
    return _Computed(tuple(axes))


# -- sharing loops -------------------------------------------------------------------------------------------------
class _Placer:
    """Puts statements into loops, one after the other."""

    def __init__(self, root: Nest, reads: _Reads, overwritten: Sequence[tuple[Buffer, Buffer]]) -> None:
        self.root, self.reads, self.overwritten = root, reads, overwritten

    def place(self, statement: Statement) -> None:
        """Append the statement to the loops that it may join, or to new ones."""
        statement.static = _window_axes(statement, self.reads)
        if statement.kind == "scatter":
            self.root.items.append(statement)
            return
        path = self._shared_path(statement)
        node = path[-1] if path else self.root
        for axis in statement.piece.parallel[len(path) :]:
            inner = Nest(axis)
            node.items.append(inner)
            path.append(inner)
            node = inner
        for axis, nest in zip(statement.piece.parallel, path, strict=True):
            nest.static |= axis in statement.static
        statement.path = path
        node.items.append(statement)

    def _shared_path(self, statement: Statement) -> list[Nest]:
        """All loops of the statement in the latest nest that has them, else some of the last nest."""
        needed = {writer for buffer, _ in self.reads.of(statement) for writer in buffer.writers}
        partly: list[Nest] = []
        for item in reversed(self.root.items):
            path = self._path_into(statement, item) if isinstance(item, Nest) else []
            if path and len(path) == len(statement.piece.parallel):
                return path
            if item is self.root.items[-1]:
                partly = path
            if any(made in needed for made in _statements_in(item)):
                break
        return partly

    def _path_into(self, statement: Statement, top: Nest) -> list[Nest]:
        path: list[Nest] = []
        nest: Nest | Statement = top
        for depth, axis in enumerate(statement.piece.parallel):
            if not isinstance(nest, Nest) or nest.axis is None or nest.axis.extent != axis.extent:
                break
            if not all(self._same_iteration(w, r, at, depth) for w, r, at in self._conflicts(statement, nest)):
                break
            path.append(nest)
            nest = nest.items[-1]
        return path

    def _conflicts(self, statement: Statement, nest: Nest) -> Iterator[tuple[Statement, Statement, tuple[_Place, ...]]]:
        """Writers and readers of one memory, of which one is the statement and the other stands in the nest."""
        for buffer, at in self.reads.of(statement):
            for writer in buffer.writers:
                if nest in writer.path:
                    yield writer, statement, at
        for argument, result in self.overwritten:
            for other in _statements_in(nest):
                for writer, reader in ((statement, other), (other, statement)):
                    if writer.target is result:
                        yield from ((writer, reader, at) for b, at in self.reads.of(reader) if b is argument)

    @staticmethod
    def _same_iteration(writer: Statement, reader: Statement, at: Sequence[_Place], depth: int) -> bool:
        """Whether the reader's iterations read only what the writer's writes in the same one."""
        mine, theirs = reader.piece.parallel[depth], writer.piece.parallel[depth]
        return any(w == theirs and r == mine for w, r in zip(writer.piece.at, at, strict=True))


def _statements_in(item: Nest | Statement) -> Iterator[Statement]:
    if isinstance(item, Statement):
        yield item
        return
    for inner in item.items:
        yield from _statements_in(inner)


def _delay(statements: list[Statement], argument: Buffer, result: Buffer, reads: _Reads) -> None:
    """Store the result behind all other statements that read the argument, unless they read the result."""
    if len(result.writers) != 1 or result.writers[0] not in statements:
        return
    (writer,) = result.writers
    at = statements.index(writer)
    last = max(k for k, s in enumerate(statements) if s is writer or any(b is argument for b, _ in reads.of(s)))
    between = statements[at + 1 : last + 1]
    if not any(b is result for s in between for b, _ in reads.of(s)):
        statements[at : last + 1] = [*between, writer]


def _check_overwrite(
    statements: Sequence[Statement], root: Nest, argument: Buffer, result: Buffer, reads: _Reads
) -> None:
    """Never a silent alias: what reads the argument does so before it is overwritten, or at the same point."""
    order = {s: k for k, item in enumerate(root.items) for s in _statements_in(item)}
    for writer, reader in itertools.product(result.writers, statements):
        for buffer, at in reads.of(reader):
            if buffer is not argument or order[reader] < order[writer]:
                continue
            places = _positions(at, reader)
            same_point = None not in places and places == _positions(writer.piece.at, writer)
            assert same_point and reader.path == writer.path and reader.kind == "store", (
                f"{argument.name} is overwritten by {result.name} before it is read for {reader.target.name}"
            )


def _positions(at: Sequence[Expr | _Computed], statement: Statement) -> list[int | None]:
    """The loop that each index is, counted from outside; None for another index."""
    loops = statement.piece.parallel
    return [loops.index(i) if isinstance(i, Axis) and i in loops else None for i in at]


def _window_axes(statement: Statement, reads: _Reads) -> list[Axis]:
    """The axes that stand together with another one in an index: a position in a window, ``i * stride + k``."""
    places = [place for _, at in reads.of(statement) for place in at]
    places += [_place_of(i) for i in statement.piece.at]
    found: dict[Axis, None] = {}
    for place in places:
        if isinstance(place, _Computed) and len(place.axes) > 1:
            found.update(dict.fromkeys(place.axes))
    return list(found)


# -- scratch memory ------------------------------------------------------------------------------------------------
def _assign_scratch(statements: Sequence[Statement], reads: _Reads) -> list[Buffer]:
    found: dict[Buffer, list[tuple[Statement, tuple[_Place, ...]]]] = {}
    for statement in statements:
        if statement.kind == "scatter" and not statement.target.results:
            found.setdefault(statement.target, [])
        for buffer, at in reads.of(statement):
            if buffer.argument is None:
                found.setdefault(buffer, []).append((statement, at))
    scratch: list[Buffer] = []
    for buffer, readers in found.items():
        if readers and all(_forwarded(buffer, reader, at) for reader, at in readers):
            continue
        shared = [m for m in range(buffer.type.rank) if all(_same_loop(buffer, m, r, at) for r, at in readers)]
        buffer.scratch = tuple(m for m in range(buffer.type.rank) if m not in shared or _scattered(buffer))
        scratch.append(buffer)
    return scratch


def _forwarded(buffer: Buffer, reader: Statement, at: Sequence[_Place]) -> bool:
    """Whether the reader stands where the value that it reads was just computed."""
    if len(buffer.writers) != 1 or buffer.writers[0].kind == "scatter" or buffer.writers[0].piece.where is not None:
        return False
    (writer,) = buffer.writers
    return reader.path[: len(writer.path)] == writer.path and all(
        place == mine if isinstance(mine, Const) else _same_loop(buffer, m, reader, at)
        for m, (mine, place) in enumerate(zip(writer.piece.at, at, strict=True))
    )


def _same_loop(buffer: Buffer, m: int, reader: Statement, at: Sequence[_Place]) -> bool:
    """Whether all writers and this reader index axis ``m`` of the buffer by one loop that they share."""
    place = at[m]
    if not isinstance(place, Axis) or place not in reader.piece.parallel or reader.kind == "scatter":
        return False
    loop = reader.path[reader.piece.parallel.index(place)]
    for writer in buffer.writers:
        mine = writer.piece.at[m]
        if not isinstance(mine, Axis) or mine not in writer.piece.parallel or writer.kind == "scatter":
            return False
        if writer.path[writer.piece.parallel.index(mine)] is not loop:
            return False
    return True


def scratch_shape(buffer: Buffer) -> tuple[int, ...]:
    """The shape of a buffer's scratch memory."""
    assert buffer.scratch is not None
    return tuple(buffer.type.shape[m] for m in buffer.scratch)
