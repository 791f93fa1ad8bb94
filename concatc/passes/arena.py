"""Offsets in the arena: blocks that are never alive at one time may share bytes.

    lifetimes  a: launches 0..3, 256 B    b: 2..5, 128 B    c: 4..6, 256 B     ->     a at 0, b at 256, c at 0

Blocks are put, in several orders, at the lowest or the tightest place that is free while they live; the best result is
taken.  Best possible is the live set: the most bytes that are alive at one launch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from concatc.loops.plan import ALIGN_BYTES


@dataclass(frozen=True)
class Lifetime:
    """A block of ``size_bytes`` that is written first by launch ``first`` and read last by launch ``last``."""

    first: int
    last: int
    size_bytes: int


def aligned(size_bytes: int) -> int:
    """Rounded up to whole cache lines."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES


def live_set_bytes(lifetimes: Iterable[Lifetime]) -> int:
    """The most (aligned) bytes that are alive at one launch: no arena can be smaller, but for its last cache line."""
    changes: dict[int, int] = {}
    for life in lifetimes:
        changes[life.first] = changes.get(life.first, 0) + aligned(life.size_bytes)
        changes[life.last + 1] = changes.get(life.last + 1, 0) - aligned(life.size_bytes)
    alive = most = 0
    for time in sorted(changes):
        alive += changes[time]
        most = max(most, alive)
    return most


Order = Callable[[Lifetime], tuple[int, ...]]

ORDERS: tuple[Order, ...] = (
    lambda life: (-life.size_bytes, life.first),
    lambda life: (-(life.last - life.first + 1) * life.size_bytes, life.first),
    lambda life: (life.first, -life.size_bytes),
    lambda life: (-life.last, -life.size_bytes),
    lambda life: (life.first - life.last, -life.size_bytes),
)


def assign_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets in bytes, one a block, and the size of the arena: one past the last byte of a block."""
    bound = live_set_bytes(lifetimes)
    best: tuple[list[int], int] | None = None
    for order in ORDERS:
        for tightest in (False, True):
            found = _place(lifetimes, order, tightest)
            if best is None or found[1] < best[1]:
                best = found
            if best[1] == bound:
                return best[0], _end(best[0], lifetimes)
    assert best is not None
    return best[0], _end(best[0], lifetimes)


def stacked_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets of blocks that share no bytes, and the size of the arena."""
    offsets = list(itertools.accumulate((aligned(life.size_bytes) for life in lifetimes), initial=0))[:-1]
    return offsets, _end(offsets, lifetimes)


def _end(offsets: Sequence[int], lifetimes: Sequence[Lifetime]) -> int:
    """One past the last byte; no cache line is filled up behind it."""
    return max((at + life.size_bytes for at, life in zip(offsets, lifetimes, strict=True)), default=0)


def _place(lifetimes: Sequence[Lifetime], order: Order, tightest: bool) -> tuple[list[int], int]:
    offsets = [0] * len(lifetimes)
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    for k in sorted(range(len(lifetimes)), key=lambda k: (order(lifetimes[k]), k)):
        life = lifetimes[k]
        busy = sorted((a, b) for a, b, first, last in placed if first <= life.last and life.first <= last)
        size = aligned(life.size_bytes)
        offsets[k] = _gap(busy, size, tightest)
        placed.append((offsets[k], offsets[k] + size, life.first, life.last))
    return offsets, max((end for _, end, _, _ in placed), default=0)


def _gap(busy: Sequence[tuple[int, int]], size: int, tightest: bool) -> int:
    """The lowest gap of at least ``size`` bytes between ``busy`` ranges, or the smallest one; else behind them."""
    free, best, best_size = 0, -1, 0
    for start, end in busy:
        gap = start - free
        if gap >= size and (best < 0 or gap < best_size):
            best, best_size = free, gap
            if not tightest:
                return best
        free = max(free, end)
    return best if best >= 0 else free
