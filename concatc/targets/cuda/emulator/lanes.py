"""The threads that run together: whole blocks, one behind the other, every value a vector over all their threads."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WARP = 32
MOST_LANES = 1 << 15  # more make vectors that leave the cache


class Lanes:
    """``blocks`` blocks of ``threads`` threads, from block ``first`` on; lane ``k`` is thread ``k % threads``."""

    def __init__(self, first: int, blocks: int, threads: int) -> None:
        self.first = first
        self.blocks = blocks
        self.threads = threads
        self.count = blocks * threads

    @cached_property
    def thread(self) -> Array:
        """The thread of each lane within its block, i32."""
        return np.tile(np.arange(self.threads, dtype=np.int32), self.blocks)

    @cached_property
    def local_block(self) -> Array:
        """The block of each lane, counted from ``first``."""
        return np.repeat(np.arange(self.blocks, dtype=np.int64), self.threads)

    @cached_property
    def block(self) -> Array:
        """The block of each lane, i32."""
        return (self.local_block + self.first).astype(np.int32)

    @cached_property
    def number(self) -> Array:
        """The number of each lane's thread in the whole launch."""
        return np.arange(self.count, dtype=np.int64) + self.first * self.threads

    @cached_property
    def warp_start(self) -> Array:
        """The lane that each lane's warp starts at."""
        start: Array = self.local_block * self.threads + self.thread // WARP * WARP
        return start

    def where(self, lane: int) -> tuple[int, int]:
        """Block and thread of a lane."""
        return self.first + lane // self.threads, lane % self.threads


def together(grid: int, threads: int) -> list[Lanes]:
    """All blocks of a launch, as many together as make good vectors."""
    step = max(1, MOST_LANES // threads)
    return [Lanes(first, min(step, grid - first), threads) for first in range(0, grid, step)]
