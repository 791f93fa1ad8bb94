"""Sums of the elements of several vectors at a time: what they share of the shuffles is shared.

    a0 a1 .. a15, b0 b1 .. b15   ->   a0+a8 .. a7+a15, b0+b8 .. b7+b15     two shuffles and one addition for two vectors
                                 ->   ..                                   16 vectors become one vector of 16 sums

Each sum is the one that halves of its vector give, added until one element is left: to the same bits.  Sums of results
that lie side by side stay in a vector (:func:`sum_rows`), so what is made of them is made in lanes and stored whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from concatc.targets.cpu.nest import Nest, NestAxis
from concatc.targets.cpu.tile import Tile
from concatc.targets.cpu.vectors import integers

BLOCK_BYTES = 16  # parts of a register of this size are shuffled in one instruction
I32 = ir.IntType(32)
TOGETHER = (2, 4, 8, 16)  # so many sums may stay in a vector
Places = dict[int, tuple[int, int]]  # of each sum: which vector holds it, in which lane


def lane_sums(builder: Any, vectors: Sequence[Any], element_bytes: int) -> list[Any]:
    """The sums, as scalars, in order."""
    made, place = _summed(builder, vectors, element_bytes)
    return [
        builder.extract_element(made[k], I32(lane)) for k, lane in (place[number] for number in range(len(vectors)))
    ]


def sum_rows(builder: Any, vectors: Sequence[Any], element_bytes: int, rows: Sequence[Sequence[int]]) -> list[Any]:
    """The sums as vectors: for each row those of the vectors that it names, in order."""
    made, place = _summed(builder, vectors, element_bytes)
    lanes = made[0].type.count
    found: list[Any] = []
    for row in rows:
        held = list(dict.fromkeys(place[number][0] for number in row))
        if len(held) <= 2:
            chosen = [held.index(k) * lanes + lane for k, lane in (place[number] for number in row)]
            found.append(builder.shuffle_vector(made[held[0]], made[held[-1]], integers(I32, tuple(chosen))))
            continue
        vector = ir.Constant(ir.VectorType(made[0].type.element, len(row)), ir.Undefined)
        for at, (k, lane) in enumerate(place[number] for number in row):
            vector = builder.insert_element(vector, builder.extract_element(made[k], I32(lane)), I32(at))
        found.append(vector)
    return found


def neighbours_of(nest: Nest, tile: Tile) -> NestAxis | None:
    """The axis along which a few sums of a tile lie side by side in memory, with all that is read for them.

    None where vectors do not lie along the sum, or there is no such axis.
    """
    if tile.vector is None or not tile.vector.reduce or nest.total is None:
        return None
    ends = [(store.operands[1], store.operands[2:]) for store in nest.stores]
    stored = [store.operands[0] for store in nest.stores]
    behind = [(load.operands[0], load.operands[1:]) for load in nest.loads_of(stored)]
    for axis in reversed(nest.parallel):
        if tile.row(axis) not in TOGETHER or tile.row(axis) > tile.lanes:
            continue
        if not all(nest.lane_step(axis, memory, at) == 1 for memory, at in ends):
            continue
        if all(nest.lane_step(axis, memory, at) in (0, 1) for memory, at in behind):
            return axis
    return None


def _summed(builder: Any, vectors: Sequence[Any], element_bytes: int) -> tuple[list[Any], Places]:
    """The sums in the lanes of vectors."""
    lanes = vectors[0].type.count
    block = max(1, BLOCK_BYTES // element_bytes)
    made = list(vectors)
    # Which vector each group of `size` neighbouring lanes holds a part of.
    of = [[k] for k in range(len(made))]
    size = lanes
    while size > 1:
        half = size // 2
        per_block = min(lanes, max(block, size)) // size  # groups that stay together
        if len(made) % 2:
            made.append(made[-1])
            of.append(of[-1])
        added, holders = [], []
        for k in range(0, len(made), 2):
            order = _order(len(of[k]), per_block if half < block else len(of[k]))
            low, high = (
                [which * lanes + group * size + start + lane for which, group in order for lane in range(half)]
                for start in (0, half)
            )
            pair = made[k], made[k + 1]
            added.append(
                builder.fadd(*(builder.shuffle_vector(*pair, integers(I32, tuple(chosen))) for chosen in (low, high)))
            )
            holders.append([of[k + which][group] for which, group in order])
        made, of, size = added, holders, half
    return made, {number: (k, lane) for k, holder in enumerate(of) for lane, number in enumerate(holder)}


def _order(groups: int, together: int) -> list[tuple[int, int]]:
    """The groups of two vectors, some of the first and as many of the second in turn."""
    return [
        (which, group)
        for start in range(0, groups, together)
        for which in (0, 1)
        for group in range(start, start + together)
    ]
