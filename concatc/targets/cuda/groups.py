"""Parts the nests of a kernel of the plan into device kernels.

    nest r { fold top; fold total; nest c { store y } }   ->   rows     a block a row, threads along the row
    nest i { nest j { store y } }                         ->   points   a thread an element
    nest n, i { nest o { fold z; store y } }              ->   tiles    a block a tile of the product z
    scatter dw[index[i], d] += dy[i, d]                   ->   clear, then scatter: a thread a column d

Device kernels of one launch run one after the other: what one reads of another lies in memory.  Iterations of loops
that statements share touch what the same iteration made only (`loops/nests.py`), so these loops run over the grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from concatc.loops.accesses import Accesses
from concatc.loops.expr import Axis
from concatc.loops.nests import arrange
from concatc.loops.program import Buffer, Nest, Program, Statement, statements_in
from concatc.loops.scratch import assign_scratch
from concatc.targets.cuda.products import product_of
from concatc.targets.cuda.split_sums import Split, leave_to_arguments

Kind = Literal["points", "rows", "tiles", "clear", "scatter"]

# A sum of so many terms is worth a block, a shorter one is left to a thread; so is a row of fewer elements.
LONG_SUM, LONG_ROW = 64, 16
# So many sums are left to threads, however long, where terms of neighbours lie side by side and those of one do not.
MANY_SUMS = 4096


@dataclass(eq=False)
class Group:
    """One device kernel: ``grid`` are the loops over it, ``body`` holds what runs at each point of them."""

    kind: Kind
    grid: list[Nest]
    body: Nest

    @property
    def points(self) -> int:
        """How many points the grid has."""
        return math.prod(nest.axis.extent for nest in self.grid if nest.axis is not None)

    @property
    def statements(self) -> list[Statement]:
        """What it computes."""
        return list(statements_in(self.body))


def device_groups(
    program: Program, overwritten: Sequence[tuple[Buffer, Buffer]], splits: Sequence[Split] = ()
) -> tuple[list[Group], list[Buffer]]:
    """The device kernels of a program, in order, and the values that lie in scratch memory between them.

    ``overwritten`` are pairs of an argument and a result that lies in its memory, ``splits`` the sums that were parted.
    """
    items: list[Nest | Statement] = []
    arrangement = arrange(program, overwritten)
    leave_to_arguments(splits)
    for item in arrangement.root.items:
        if isinstance(item, Nest):
            # What is overwritten was checked with its loops as they are.
            items += [item] if overwritten else _parted(item)
        elif item.kind == "scatter":
            items.append(item)
        else:
            _put_alone(item, items)
    groups = [group for item in items for group in _groups_of(item)]
    statements = list(dict.fromkeys(s for group in groups for s in group.statements))
    for buffer in (s.target for s in statements):
        buffer.scratch, buffer.blocked = None, None
    scratch = assign_scratch(statements, Accesses())
    for buffer in scratch:
        buffer.scratch, buffer.blocked = tuple(range(buffer.type.rank)), None  # iterations run side by side
    return groups, scratch


def chain_of(nest: Nest) -> list[Nest]:
    """The loops that hold nothing but each other, outermost first; the last one holds everything."""
    chain = [nest]
    while len(chain[-1].items) == 1 and isinstance(inner := chain[-1].items[0], Nest):
        chain.append(inner)
    return chain


def _put_alone(statement: Statement, items: list[Nest | Statement]) -> None:
    """Put a statement without loops into a kernel of one block, together with others before it."""
    last = items[-1] if items else None
    if not isinstance(last, Nest) or last.axis is not None:
        last = Nest(None)
        items.append(last)
    last.items.append(statement)
    statement.path = [last]


def _parted(nest: Nest) -> list[Nest | Statement]:
    """The nest as several, each with the loops around it, where a product stands among other things."""
    chain = chain_of(nest)
    body = chain[-1]
    runs: list[list[Nest | Statement]] = []
    is_alone = True
    for item in body.items:
        has_product = isinstance(item, Nest) and any(product_of(s) is not None for s in statements_in(item))
        if has_product or is_alone:
            runs.append([])
        runs[-1].append(item)
        is_alone = has_product
    if len(runs) == 1:
        return [nest]
    parted: list[Nest | Statement] = []
    for run in runs:
        copies = [Nest(loop.axis, loop.static) for loop in chain]
        for outer, inner in itertools.pairwise(copies):
            outer.items.append(inner)
        copies[-1].items += run
        for item in run:
            for statement in statements_in(item):
                statement.path[: len(chain)] = copies
        parted += _parted(copies[0]) if isinstance(run[0], Nest) and len(run) == 1 else [copies[0]]
    return parted


def _groups_of(item: Nest | Statement) -> list[Group]:
    if isinstance(item, Statement):
        made = [Group("scatter", [], Nest(None, items=[item]))]
        is_first = item.target.writers[0] is item
        return [Group("clear", [], Nest(None, items=[item])), *made] if is_first else made
    if item.axis is None:
        return [Group("rows", [], item)]
    chain = chain_of(item)
    return [Group(_kind_of(chain), chain, chain[-1])]


def _kind_of(chain: Sequence[Nest]) -> Kind:
    body = chain[-1]
    statements = [s for s in body.items if isinstance(s, Statement)]
    if len(statements) < len(body.items):
        widest = max(_numel([s.piece.parallel[len(_path_to(body, s)) :] for s in statements_in(body)]), default=1)
        return "rows" if widest >= LONG_ROW else "points"
    folds = [s for s in statements if s.kind == "fold"]
    if len(folds) == 1 and statements[0] is folds[0] and product_of(folds[0]) is not None:
        return "tiles"
    points = math.prod(nest.axis.extent for nest in chain if nest.axis is not None)
    by_rows = [s for s in folds if points < MANY_SUMS or not _has_terms_apart(s)]
    longest = max((math.prod(a.extent for a in s.piece.reduce) for s in by_rows), default=1)
    return "rows" if longest >= LONG_SUM else "points"


def _has_terms_apart(fold: Statement) -> bool:
    """Whether what is folded lies side by side along an axis of the result, and along none of the sum."""
    last = [place[-1] for _, place in Accesses().of(fold) if place]
    axes = [axis for place in last for axis in ((place,) if isinstance(place, Axis) else getattr(place, "axes", ()))]
    return bool(axes) and not any(axis.kind == "reduce" for axis in axes)


def _path_to(body: Nest, statement: Statement) -> list[Nest]:
    return statement.path[: statement.path.index(body) + 1]


def _numel(axes: Sequence[Sequence[Axis]]) -> list[int]:
    return [math.prod(a.extent for a in some) for some in axes]
