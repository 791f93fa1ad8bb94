"""Long sums block by block: what a block of rows of both factors holds stays in the nearest caches.

    for i, for j:                                           for blocks of k:
      y[i, j] = f(sum of g[k, i] * x[k, j])       ->          for i, for j:
                                                                s = y[i, j], or 0 in the first block
                                                                s += g[k, i] * x[k, j]             k of the block
                                                                y[i, j] = s, or f(s) in the last block

Both factors of a weight gradient are read down their rows, of which a tile takes a few elements: a line of memory is
used by the next tile too, which comes after as many other lines as the sum has terms.  Then no cache holds it, and
each tile reads both factors anew.  Between blocks sums lie where the result will, so a sum adds up its terms in the
same order, to the same bits.  Where the result is added to what is there (``%addK``), all of the sum is one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from concatc.ir.core import Operation, Value
from concatc.targets.cpu.nest import Nest, NestAxis, constant_of, enclosing_if
from concatc.targets.cpu.tile import Tile

TERMS = 64  # of a block
SHORT = 512  # terms that are one block


@dataclass(frozen=True)
class SumBlocks:
    """``axis`` of a sum is cut in blocks; ``store`` is that of the result; it is added to what is there if ``flag``."""

    axis: NestAxis
    store: Operation
    flag: Value | None


@dataclass(frozen=True)
class Block:
    """One block, as LLVM values: its bounds, whether others came before it, and whether none comes after it.

    ``ahead`` is how many terms on the next block begins; 0 where all of the sum is one block.
    """

    start: Any
    end: Any
    is_begun: Any
    is_last: Any
    ahead: Any


def sum_blocks_of(nest: Nest, tile: Tile) -> SumBlocks | None:
    """How a sum of products is cut in blocks; None where it is none that runs down the rows of both factors."""
    term, vector = nest.term, tile.vector
    if term is None or term.op is None or term.op.name != "arith.mulf" or vector is None or vector.reduce:
        return None
    if len(nest.reduce) != 1 or len(nest.stores) != 1 or len(nest.parallel) < 2 or tile.taps or tile.zipped is not None:
        return None
    (axis,), (store,) = nest.reduce, nest.stores
    if axis.extent is not None or constant_of(axis.lower) != 0 or axis.upper.op is not None:
        return None
    if not all(_runs_down(nest, axis, load) for load in nest.loads_of([term])):
        return None
    value, memory, *at = store.operands
    if (
        "cnet.noalias" not in memory.attrs
        or "cnet.same" in memory.attrs
        or str(value.type) != nest.dtype
        or nest.lane_step(vector, memory, at) != 1
    ):
        return None
    if not frozenset(nest.parallel) <= frozenset[NestAxis]().union(*(nest.axes_of(index) for index in at)):
        return None
    old = [load for load in nest.loads_of([value, term]) if load.operands[0] is memory]
    conditions = [choice.operands[0] if (choice := enclosing_if(load)) is not None else None for load in old]
    if len(old) > 1 or any(flag is None or flag.op is not None for flag in conditions):
        return None
    return SumBlocks(axis, store, conditions[0] if conditions else None)


def _runs_down(nest: Nest, axis: NestAxis, load: Operation) -> bool:
    """Whether the terms lie a row of memory from each other, along which the elements of several results lie."""
    memory, *at = load.operands
    if axis not in nest.axes_of(load.result) or nest.lane_step(axis, memory, at) is not None:
        return False
    return any(nest.lane_step(other, memory, at) == 1 for other in nest.parallel)
