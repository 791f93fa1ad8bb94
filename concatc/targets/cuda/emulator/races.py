"""Finds races: who stored and loaded each element of memory last, and before which barrier.

Two accesses of one element, one of them a store, are ordered where one thread makes both, or two threads of one block
with a barrier between them.  Any other two may happen in either order on a GPU, whatever order they had here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# A stamp says who and when: the number of barriers that the block had passed, then the thread's number in the launch.
_THREAD_BITS = 40
_THREADS = (1 << _THREAD_BITS) - 1
_NOBODY = -1
# How many threads loaded an element since the last barrier of the one that is noted.
_ONE, _SOME, _BLOCKS = 0, 1, 2


def stamps(number: Array, barriers: Array) -> Array:
    """The stamp of each lane: its thread's number, and how many barriers its block has passed."""
    made: Array = number | (barriers << _THREAD_BITS)
    return made


class Accesses:
    """The last store and the last loads of each element.  ``threads`` is the size of a block."""

    def __init__(self, count: int, threads: int) -> None:
        self.threads = threads
        self.stored = np.full(count, _NOBODY, np.int64)
        self.loaded = np.full(count, _NOBODY, np.int64)
        self.loaders = np.zeros(count, np.int8)

    def load(self, at: Array, by: Array) -> Array:
        """Note loads of elements ``at``, of the stamps ``by``; returns which of them race with a store."""
        race = self._unordered(self.stored[at], by)
        self._note_loads(at, by)
        return race

    def store(self, at: Array, by: Array, same: Array) -> Array:
        """Note stores; returns which of them race.  Two threads may store the ``same`` as is there already."""
        race = self._unordered(self.stored[at], by) & ~same
        seen, many = self.loaded[at], self.loaders[at]
        race |= self._unordered(seen, by) | ((seen != _NOBODY) & (many == _BLOCKS))
        race |= (seen != _NOBODY) & (many == _SOME) & (seen >> _THREAD_BITS == by >> _THREAD_BITS)
        self.stored[at] = by
        return race

    def _note_loads(self, at: Array, by: Array) -> None:
        seen, many = self.loaded[at], self.loaders[at]
        others = (seen != _NOBODY) & ((seen & _THREADS) // self.threads != (by & _THREADS) // self.threads)
        same_time = (seen != _NOBODY) & (seen >> _THREAD_BITS == by >> _THREAD_BITS)
        now = np.where(same_time, np.where(seen == by, many, _SOME), _ONE)
        now = np.where(others | ((seen != _NOBODY) & (many == _BLOCKS)), _BLOCKS, now).astype(np.int8)
        self.loaders[at] = now
        self.loaded[at] = by
        last = self.loaded[at]
        # Several lanes of one instruction load one element: the last one is noted.
        shared = last != by
        if shared.any():
            self.loaders[at[shared]] = _SOME
            apart = shared & ((last & _THREADS) // self.threads != (by & _THREADS) // self.threads)
            self.loaders[at[apart]] = _BLOCKS
        self.loaders[at[now == _BLOCKS]] = _BLOCKS

    def _unordered(self, before: Array, by: Array) -> Array:
        """Whether a stamp is another thread's, with no barrier of the block between."""
        race: Array = (before != _NOBODY) & ((before ^ by) & _THREADS != 0)
        if race.any():
            one_block = (before & _THREADS) // self.threads == (by & _THREADS) // self.threads
            race = race & ~(one_block & (before >> _THREAD_BITS < by >> _THREAD_BITS))
        return race
