"""Sums of the elements of several vectors at a time: what they share of the shuffles is shared.

    a0 a1 .. a15, b0 b1 .. b15   ->   a0+a8 .. a7+a15, b0+b8 .. b7+b15     two shuffles and one addition for two vectors
                                 ->   ..                                   16 vectors become one vector of 16 sums

Each sum is the one that halves of its vector give, added until one element is left: to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

BLOCK_BYTES = 16  # parts of a register of this size are shuffled in one instruction
I32 = ir.IntType(32)


def lane_sums(builder: Any, vectors: Sequence[Any], element_bytes: int) -> list[Any]:
    """The sums, as scalars, in order."""
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
            added.append(builder.fadd(*(builder.shuffle_vector(*pair, _mask(chosen)) for chosen in (low, high))))
            holders.append([of[k + which][group] for which, group in order])
        made, of, size = added, holders, half
    place = {number: (k, lane) for k, holder in enumerate(of) for lane, number in enumerate(holder)}
    return [
        builder.extract_element(made[k], I32(lane)) for k, lane in (place[number] for number in range(len(vectors)))
    ]


def _order(groups: int, together: int) -> list[tuple[int, int]]:
    """The groups of two vectors, some of the first and as many of the second in turn."""
    return [
        (which, group)
        for start in range(0, groups, together)
        for which in (0, 1)
        for group in range(start, start + together)
    ]


def _mask(lanes: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(I32, len(lanes)), [I32(lane) for lane in lanes])
