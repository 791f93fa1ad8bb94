"""Offsets in the arena: blocks that are never alive at one time may share bytes.

    lifetimes  a: launches 0..3, 256 B    b: 2..5, 128 B    c: 4..6, 256 B     ->     a at 0, b at 256, c at 0

Blocks are put, in several orders, at the lowest or the tightest place that is free while they live.  Best possible is
the live set: the most bytes that are alive at one launch.  Where no order comes near it, blocks that lie above it are
put earlier, for some rounds.  The best result is taken; the same blocks always get the same one.
"""

from __future__ import annotations

import itertools
import random
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
)
# How often blocks are moved in each order, in arenas that are more than so many times the live set: first all that lie
# too high at once, then one of them at a time, too.
ROUNDS = ((4, False, 1.01), (24, True, 1.01), (1000, True, 1.03))


def assign_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets in bytes, one a block, and the size of the arena: one past the last byte of a block."""
    packing = _Packing(lifetimes)
    enough = live_set_bytes(lifetimes)
    tries: list[_Try] = []
    for order in ORDERS:
        queue = sorted(range(len(lifetimes)), key=lambda k: (order(lifetimes[k]), k))
        for tightest in (False, True):
            found = packing.placed(queue, tightest)
            if found.size_bytes == enough:
                return found.offsets, _end(found.offsets, lifetimes)
            if all(found.offsets != other.offsets for other in tries):
                tries.append(found)
    tries.sort(key=lambda found: found.size_bytes)
    best = tries[0]
    for rounds, singly, near in ROUNDS:
        for start in tries:
            if best.size_bytes > near * enough:
                found = packing.improved(start, enough, rounds, singly)
                best = min(best, found, key=lambda found: found.size_bytes)
    return best.offsets, _end(best.offsets, lifetimes)


def stacked_offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets of blocks that share no bytes, and the size of the arena."""
    offsets = list(itertools.accumulate((aligned(life.size_bytes) for life in lifetimes), initial=0))[:-1]
    return offsets, _end(offsets, lifetimes)


def _end(offsets: Sequence[int], lifetimes: Sequence[Lifetime]) -> int:
    """One past the last byte; no cache line is filled up behind it."""
    return max((at + life.size_bytes for at, life in zip(offsets, lifetimes, strict=True)), default=0)


@dataclass(frozen=True)
class _Try:
    """Blocks in the order in which they were placed, where each lies, and the bytes that they take."""

    queue: list[int]
    tightest: bool
    offsets: list[int]
    size_bytes: int


class _Packing:
    """Places blocks one after the other, in any order."""

    def __init__(self, lifetimes: Sequence[Lifetime]) -> None:
        self.sizes = [aligned(life.size_bytes) for life in lifetimes]
        self.meets: list[list[int]] = [[] for _ in lifetimes]  # the blocks that are alive at one time with each
        alive: list[int] = []
        for k in sorted(range(len(lifetimes)), key=lambda k: lifetimes[k].first):
            alive = [j for j in alive if lifetimes[j].last >= lifetimes[k].first]
            for j in alive:
                self.meets[j].append(k)
                self.meets[k].append(j)
            alive.append(k)

    def placed(self, queue: list[int], tightest: bool) -> _Try:
        """Each block at the lowest, or the tightest, place that is free of those before it."""
        offsets = [-1] * len(queue)
        for k in queue:
            busy = sorted((offsets[j], offsets[j] + self.sizes[j]) for j in self.meets[k] if offsets[j] >= 0)
            offsets[k] = _gap(busy, self.sizes[k], tightest)
        return _Try(
            queue, tightest, offsets, max((at + n for at, n in zip(offsets, self.sizes, strict=True)), default=0)
        )

    def improved(self, start: _Try, enough: int, rounds: int, singly: bool) -> _Try:
        """The best of some tries from ``start`` on: blocks that end above ``enough`` bytes are placed earlier.

        All of them are placed first; ``singly``, every other time one of them is placed before one that was in its way.
        """
        chance = random.Random(0)
        best = now = start
        for k in range(rounds):
            high = [j for j in now.queue if now.offsets[j] + self.sizes[j] > enough]
            if not high:
                break
            if singly and k % 2:
                found = self.placed(self._before_another(now.queue, chance.choice(high), chance), now.tightest)
                now = found if found.size_bytes <= now.size_bytes else now
            else:
                first = dict.fromkeys(high)
                now = self.placed([*high, *(j for j in now.queue if j not in first)], now.tightest)
            best = min(best, now, key=lambda found: found.size_bytes)
        return best

    def _before_another(self, queue: list[int], block: int, chance: random.Random) -> list[int]:
        """``block`` stands before one that it meets, chosen of those that stood before it."""
        at = queue.index(block)
        meets = dict.fromkeys(self.meets[block])
        others = [k for k in range(at) if queue[k] in meets]
        if not others:
            return queue
        to = chance.choice(others)
        return [*queue[:to], block, *queue[to:at], *queue[at + 1 :]]


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
