"""Merges neighbouring axes of a kernel that lie in memory as one: a pointwise kernel over images becomes a long row.

    y[i0, i1, i2, i3] = max(x[i0, i1, i2, i3], 0)     ->     y[i0, i1, m] = max(x[i0, i1, m], 0)     m in 0 .. n2 * n3
    windows with strides [160 * 64, 64, 8, 1]

Two axes of a value merge if the outer stride is the inner stride times the inner extent wherever the value lies, and
if every statement runs over them with two neighbouring loops of one kind (or with neither), the inner one over all
elements: a window of 2 x 2 in the corner of an image is no row.  Longer loops make vector code of small images, and
kernels that differ in rank become one.  The row-major number of an element, which dropout counts with, merges as well:
``i2 * n3 + i3`` is ``m``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from concatc.ir.types import TensorType
from concatc.loops.expr import Arith, Axis, Cast, Const, Expr, Load, Select
from concatc.loops.program import Buffer, Statement

Run = tuple[Axis, ...]
Pair = tuple[Axis, Axis]


@dataclass
class _Uses:
    """Where a statement uses its axes: indices of memory, and row-major numbers elsewhere."""

    accesses: list[tuple[Buffer, tuple[Expr, ...]]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


def merge_axes(statements: Sequence[Statement], joined: dict[Buffer, list[bool]]) -> None:
    """Merge in place.  ``joined[b][d]`` says that axes ``d`` and ``d + 1`` of a buffer lie as one; others always do.

    On return ``joined`` says which have been merged.
    """
    uses = {s: _uses_of(s) for s in statements}
    for statement in statements:
        for buffer, _ in uses[statement].accesses:
            joined.setdefault(buffer, [True] * max(buffer.type.rank - 1, 0))
    pairs: dict[Statement, list[Pair]] = {}
    changed = True
    while changed:
        changed = False
        for statement in statements:
            pairs[statement] = _mergeable(statement, uses[statement], joined)
            for buffer, at in uses[statement].accesses:
                for d, flag in enumerate(joined[buffer]):
                    if flag and (at[d], at[d + 1]) not in pairs[statement]:
                        joined[buffer][d] = False
                        changed = True
    for statement in statements:
        _rewrite(statement, pairs[statement], joined)
    for buffer, flags in joined.items():
        buffer.type = TensorType(merged_shape(buffer.type.shape, flags), buffer.type.dtype)


def groups_of(rank: int, joined: Sequence[bool]) -> list[list[int]]:
    """The axes that are one after merging: ``[[0], [1], [2, 3]]``."""
    groups: list[list[int]] = []
    for d in range(rank):
        if d and joined[d - 1]:
            groups[-1].append(d)
        else:
            groups.append([d])
    return groups


def merged_shape(shape: Sequence[int], joined: Sequence[bool]) -> tuple[int, ...]:
    """The shape after merging."""
    return tuple(math.prod(shape[d] for d in group) for group in groups_of(len(shape), joined))


def merged_strides(strides: Sequence[int], joined: Sequence[bool]) -> tuple[int, ...]:
    """The strides after merging."""
    return tuple(strides[group[-1]] for group in groups_of(len(strides), joined))


def lie_as_one(shape: Sequence[int], strides: Sequence[int]) -> list[bool]:
    """For each axis but the last, whether it and the next are one long axis in memory."""
    return [strides[d] == shape[d + 1] * strides[d + 1] for d in range(len(shape) - 1)]


# -- what may merge ----------------------------------------------------------------------------------------------------
def _uses_of(statement: Statement) -> _Uses:
    piece = statement.piece
    uses = _Uses([(statement.target, piece.at)])
    for expr in (piece.value, *(e for e in (piece.where, piece.index) if e is not None)):
        _collect(expr, statement, uses, set())
    for index in piece.at:
        if not isinstance(index, Axis):
            _collect(index, statement, uses, set())
    return uses


def _collect(expr: Expr, statement: Statement, uses: _Uses, seen: set[int]) -> None:
    if id(expr) in seen:
        return
    seen.add(id(expr))
    run = _run_of(expr)
    if run:
        uses.runs.append(run)
        return
    if isinstance(expr, Load):
        uses.accesses.append((statement.buffer(expr.ref), expr.at))
    for child in _scalar_children(expr):
        _collect(child, statement, uses, seen)


def _scalar_children(expr: Expr) -> Iterator[Expr]:
    """The subexpressions, less the indices of memory that are plain axes."""
    match expr:
        case Load(_, at, where, other):
            yield from (i for i in at if not isinstance(i, Axis))
            yield from (e for e in (where, other) if e is not None)
        case Arith(_, args):
            yield from args
        case Select(condition, yes, no):
            yield from (condition, yes, no)
        case Cast(_, value):
            yield value


def _run_of(expr: Expr) -> Run:
    """The axes that ``expr`` numbers in row-major order, ``(a * nb + b) * nc + c``; an axis is a run of its own."""
    if isinstance(expr, Axis):
        return (expr,)
    if not (isinstance(expr, Arith) and expr.op == "add" and expr.dtype == "index"):
        return ()
    scaled, last = expr.args
    if not (isinstance(scaled, Arith) and scaled.op == "mul" and isinstance(scaled.args[1], Const)):
        return ()
    first, second = _run_of(scaled.args[0]), _run_of(last)
    if not first or not second or scaled.args[1].value != math.prod(a.extent for a in second):
        return ()
    return (*first, *second)


def _mergeable(statement: Statement, uses: _Uses, joined: dict[Buffer, list[bool]]) -> list[Pair]:
    """The neighbouring loops that may become one."""
    piece = statement.piece
    if statement.kind == "scatter":
        return []
    pairs = [(a, b) for a, b in itertools.pairwise([*piece.parallel, *piece.reduce]) if a.kind == b.kind]
    pairs = [pair for pair in pairs if statement.outer not in pair and statement.inner not in pair]
    for buffer, at in uses.accesses:
        pairs = [pair for pair in pairs if _neighbours_in(at, joined[buffer], buffer.type.shape, pair)]
    while True:
        whole = [pair for pair in pairs if not any(_cuts(run, pair) for run in uses.runs)]
        if whole == pairs:
            return pairs
        pairs = whole


def _neighbours_in(at: Sequence[Expr], flags: Sequence[bool], shape: Sequence[int], pair: Pair) -> bool:
    """Whether an access uses both axes of a pair side by side, once, the inner one whole, or neither."""
    a, b = pair
    counts = (at.count(a), at.count(b))
    if counts == (0, 0):
        return True
    return counts == (1, 1) and any(
        at[d] == a and at[d + 1] == b and flags[d] and b.extent == shape[d + 1] for d in range(len(at) - 1)
    )


def _cuts(run: Run, pair: Pair) -> bool:
    """Whether merging ``pair`` would leave a row-major number that is none of merged axes."""
    a, b = pair
    if a not in run and b not in run:
        return False
    return not any(run[k] == a and run[k + 1] == b for k in range(len(run) - 1))


# -- rewriting ---------------------------------------------------------------------------------------------------------
def _rewrite(statement: Statement, pairs: list[Pair], joined: dict[Buffer, list[bool]]) -> None:
    piece = statement.piece
    merged: dict[Axis, Axis] = {}
    axes: list[Axis] = []
    group: list[Axis] = []
    order = [a for kind in (piece.parallel, piece.reduce, piece.sequential) for a in kind]
    if pairs:
        for axis in order:
            if group and (group[-1], axis) not in pairs:
                axes.append(_close(group, merged))
                group = []
            group.append(axis)
        axes.append(_close(group, merged))
    # An axis is part of the code if all that it was made of is.
    parts: dict[Axis, list[Axis]] = {}
    for part, axis in merged.items():
        parts.setdefault(axis, []).append(part)
    statement.static = [a for a in statement.static if a not in merged] + [
        axis for axis, group in parts.items() if all(part in statement.static for part in group)
    ]
    rewriter = _Rewriter(statement, merged, joined)
    statement.piece = replace(
        piece,
        axes=tuple(axes) if pairs else piece.axes,
        at=rewriter.indices(statement.target, piece.at),
        value=rewriter.expr(piece.value),
        where=rewriter.expr(piece.where) if piece.where is not None else None,
        index=rewriter.expr(piece.index) if piece.index is not None else None,
    )


def _close(group: Sequence[Axis], merged: dict[Axis, Axis]) -> Axis:
    if len(group) == 1:
        merged[group[0]] = group[0]
        return group[0]
    axis = Axis("".join(a.name for a in group), math.prod(a.extent for a in group), group[0].kind)
    merged.update(dict.fromkeys(group, axis))
    return axis


class _Rewriter:
    """Puts merged axes in the place of theirs; shared subexpressions stay shared."""

    def __init__(self, statement: Statement, merged: dict[Axis, Axis], joined: dict[Buffer, list[bool]]) -> None:
        self.statement, self.merged, self.joined = statement, merged, joined
        self.done: dict[int, Expr] = {}

    def indices(self, buffer: Buffer, at: Sequence[Expr]) -> tuple[Expr, ...]:
        """The indices of a buffer whose axes have merged."""
        groups = groups_of(len(at), self.joined[buffer]) if at else []
        return tuple(self.expr(at[group[0]]) for group in groups)

    def expr(self, expr: Expr) -> Expr:
        """The expression over merged axes."""
        if id(expr) not in self.done:
            self.done[id(expr)] = self._new(expr)
        return self.done[id(expr)]

    def _new(self, expr: Expr) -> Expr:
        run = _run_of(expr)
        if run:
            return self._number(run)
        match expr:
            case Load(ref, at, where, other):
                indices = self.indices(self.statement.buffer(ref), at)
                guard = self.expr(where) if where is not None else None
                return Load(ref, indices, guard, self.expr(other) if other is not None else None)
            case Arith(op, args):
                return Arith(op, tuple(self.expr(a) for a in args))
            case Select(condition, yes, no):
                return Select(self.expr(condition), self.expr(yes), self.expr(no))
            case Cast(dtype, value):
                return Cast(dtype, self.expr(value))
        return expr

    def _number(self, run: Run) -> Expr:
        """The row-major number over merged axes, each once."""
        axes = list(dict.fromkeys(self.merged.get(a, a) for a in run))
        number: Expr = axes[0]
        for axis in axes[1:]:
            number = number * axis.extent + axis
        return number
