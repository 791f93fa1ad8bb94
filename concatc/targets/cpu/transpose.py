"""Transposes a square of vectors in registers, and interleaves vectors.

    [a0 a1]        [a0 b0]
    [b0 b1]   ->   [a1 b1]

Blocks of 1, 2, 4, .. elements are exchanged across the diagonal, so ``n`` vectors of ``n`` lanes take ``n log2(n)``
shuffles (Eklundh, "A fast computer method for matrix transposing", 1972).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from concatc.targets.cpu.vectors import integers

INDEX = ir.IntType(32)


def transpose(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """Vector ``k`` of the result holds element ``k`` of every row; there are as many rows as lanes, a power of two."""
    made, lanes = list(rows), len(rows)
    size = 1
    while size < lanes:
        low = integers(INDEX, tuple(j if not j & size else lanes + j - size for j in range(lanes)))
        high = integers(INDEX, tuple(j + size if not j & size else lanes + j for j in range(lanes)))
        for k in (k for k in range(lanes) if not k & size):
            a, b = made[k], made[k + size]
            made[k], made[k + size] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        size *= 2
    return made


def interleave(builder: Any, vectors: Sequence[Any]) -> list[Any]:
    """The elements in turn, one of each vector: ``a0 b0 a1 b1 ..`` of ``a`` and ``b``; a power of two of vectors."""
    if len(vectors) == 1:
        return list(vectors)
    even, odd = interleave(builder, vectors[::2]), interleave(builder, vectors[1::2])
    lanes = vectors[0].type.count
    made = []
    for a, b in zip(even, odd, strict=True):
        for start in (0, lanes // 2):
            order = (place for j in range(start, start + lanes // 2) for place in (j, lanes + j))
            made.append(builder.shuffle_vector(a, b, integers(INDEX, tuple(order))))
    return made
