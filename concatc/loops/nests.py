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


def arrange(program: Program) -> Arrangement:
    """The nests of a program."""
    arguments, results = program.arguments, program.results
    statements = [s for s in program.statements if s.target.results or not s.target.inlined]
    root = Nest(None)
    reads = _Reads()
    for statement in statements:
        _place(statement, root, reads)
    scratch = _assign_scratch(statements, reads)
    return Arrangement(root, arguments, results, scratch)


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
def _place(statement: Statement, root: Nest, reads: _Reads) -> None:
    statement.static = _window_axes(statement, reads)
    if statement.kind == "scatter":
        root.items.append(statement)
        return
    node = root
    for depth, axis in enumerate(statement.piece.parallel):
        last = node.items[-1] if node.items else None
        if not (
            isinstance(last, Nest)
            and last.axis is not None
            and last.axis.extent == axis.extent
            and _may_share(statement, depth, last, reads)
        ):
            last = Nest(axis)
            node.items.append(last)
        last.static |= axis in statement.static
        statement.path.append(last)
        node = last
    node.items.append(statement)


def _may_share(statement: Statement, depth: int, nest: Nest, reads: _Reads) -> bool:
    """Whether what the statement reads of this nest's earlier statements stems from the same iteration."""
    axis = statement.piece.parallel[depth]
    for buffer, at in reads.of(statement):
        for writer in buffer.writers:
            if nest not in writer.path:
                continue
            theirs = writer.piece.parallel[depth]
            if not any(w == theirs and r == axis for w, r in zip(writer.piece.at, at, strict=True)):
                return False
    return True


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
