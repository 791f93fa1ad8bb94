"""A kernel as statements: pieces with what their references stand for.

    %z = linear(%x, %w); %y = relu(%z)   ->   z[i, o] += x[i, k] * w[o, k]      over k
                                              y[i, o]  = max(z[i, o], 0)        result 0

A value that one pointwise piece makes is ``inlined``: it is computed where it is read and has no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from concatc.diagnostics import Loc
from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Axis, Ref, loads
from concatc.loops.pieces import Piece, is_pointwise, pointwise

# The attribute of an op that says how it is computed, where that is not as its pieces say.
ALGORITHM = "algorithm"

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
    # Scratch memory: None, or the axes of the value that it keeps; of one of them perhaps a block only.
    scratch: tuple[int, ...] | None = None
    blocked: tuple[int, Nest] | None = None


@dataclass(eq=False)
class Statement:
    """A piece with what its references stand for, and the loops around it (``path``, outermost first)."""

    piece: Piece
    target: Buffer
    refs: dict[tuple[str, int], Buffer]
    path: list[Nest] = field(default_factory=list)
    # Axes with an extent that is part of the code: those of sliding windows.
    static: list[Axis] = field(default_factory=list)
    # The axis of the kernel's outer loop, if it has one; it is then the first.  ``inner`` is that of another loop that
    # statements share inside of it; it is then the second.  ``apart``: joins no other loop.
    # ``repeated``: the target has none of these axes, and each iteration adds to what the ones before it left.
    # ``clears``: it stands in front of the outer loop, or of each part of it.  ``part`` stands for the number of the
    # part of the outer loop, if there are several.
    outer: Axis | None = None
    inner: Axis | None = None
    apart: bool = False
    repeated: bool = False
    clears: bool = False
    part: Axis | None = None
    # How it is to be computed, if that is said: see `winograd_algorithms.py`; and the op that it comes from.
    algorithm: str | None = None
    loc: Loc | None = None

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
    """A kernel as statements in order.  ``results[k]`` is the buffer that result ``k`` takes its elements from.

    ``block`` is how many iterations of the outer loop share scratch memory, where statements have an outer loop;
    ``parts`` in how many parts it runs, each with sums of its own.
    """

    arguments: list[Buffer]
    results: list[Buffer]
    statements: list[Statement]
    block: int = 1
    parts: int = 1

    def forget(self) -> None:
        """Let go of what refers to one another, so that it is freed at once, without a search for cycles."""
        for statement in self.statements:
            for buffer in (statement.target, *statement.refs.values()):
                buffer.writers.clear()
            for nest in statement.path:
                nest.items.clear()
            statement.path.clear()


@dataclass(eq=False)
class Nest:
    """A loop over a parallel axis, or (without an axis) the kernel itself.

    With a ``block`` it runs over blocks of the axis, with ``parts`` over so many parts of it, equal but for one
    iteration, and the loops inside of it that are ``within`` it over one block or part.  Where its extent is
    ``expected``, tiles fit that of this net, and the code is for any.
    """

    axis: Axis | None
    static: bool = False
    block: int = 1
    parts: int = 1
    within: Nest | None = None
    expected: bool = False
    items: list[Nest | Statement] = field(default_factory=list)


def statements_in(item: Nest | Statement) -> Iterator[Statement]:
    """All statements of a nest, in order."""
    if isinstance(item, Statement):
        yield item
        return
    for inner in item.items:
        yield from statements_in(inner)


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
            statement = Statement(piece, refs[key], refs, loc=op.loc)
            statement.algorithm = _algorithm_of(op) if piece.combine == "add" else None
            refs[key].writers.append(statement)
            statements.append(statement)
    results: list[Buffer] = []
    for k, value in enumerate(kernel.ret.operands):
        buffer = buffers[value]
        read_inside = any(use.op is not kernel.ret for use in value.uses)
        if buffer.argument is None and not buffer.results and not (read_inside and is_scattered(buffer)):
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
    return Program(arguments, results, _needed(statements))


def _needed(statements: Sequence[Statement]) -> list[Statement]:
    """The statements without those that make what nothing reads: an operation may have results that nobody wants."""
    kept: list[Statement] = []
    wanted: dict[Buffer, None] = {}
    for statement in reversed(statements):
        if not statement.target.results and statement.target not in wanted:
            continue
        kept.append(statement)
        wanted.update((statement.buffer(ref), None) for ref in statement.piece.reads)
    return kept[::-1]


def _algorithm_of(op: Operation) -> str | None:
    found = op.attributes.get(ALGORITHM)
    return None if found is None else str(found)


def is_scattered(buffer: Buffer) -> bool:
    """Whether the buffer is a sum in memory."""
    return any(w.kind == "scatter" for w in buffer.writers)


def _copy(source: Buffer, result: int) -> Statement:
    x, y = Ref("operand", 0, source.type), Ref("result", 0, source.type)
    target = Buffer(source.type, source.name, results=[result])
    statement = Statement(pointwise(y, lambda *i: x[i]), target, {("operand", 0): source, ("result", 0): target})
    target.writers.append(statement)
    return statement
