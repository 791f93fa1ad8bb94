"""Where the values of a plan lie at other sizes of the net: blocks keep their time, and an order in memory.

    at n = 64     a: launches 0..3, 256 B at 0    b: 2..5, 128 B at 256    c: 4..6, 256 B at 0
    at n = 7      a:                 28 B at 0    b:        14 B at  64    c:        28 B at 0

A window lies in a *block*: a slot of a base, or bytes of the arena that windows share.  Blocks are told apart on a plan
that reuses no bytes.  They are put in the order that they have in memory at very large sizes, each behind those that
are below it there and alive at one time with it; so two blocks share bytes only if no launch needs both, whatever the
sizes are.  Scratch memory, which may grow otherwise than values, is put where they leave room during its launch.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concatc.loops.bases import Interface, is_staged
from concatc.loops.plan import ALIGN_BYTES, BaseKind, Launch, Plan, Window
from concatc.loops.polynomials import Ints, NotScalableError, Polynomials

# Bases whose slots move; parameters, gradients and states stay where they are.
OWN: tuple[BaseKind, BaseKind] = ("inputs", "outputs")


@dataclass(frozen=True)
class Blocks:
    """The blocks of a plan that reuses no bytes, by base and byte.

    Block ``k`` starts at byte ``starts[k]`` of ``bases[k]`` and is the slot ``keys[k]`` ("" in the arena); launches
    ``first[k]`` to ``last[k]`` use it.
    """

    bases: tuple[str, ...]
    starts: tuple[int, ...]
    keys: tuple[str, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]

    def of(self, window: Window) -> tuple[int, int]:
        """The block of a window, and the window's first byte in it; block -1 where it never moves."""
        if 0 in window.shape:
            return -1, 0
        return self.of_byte(window.base, window.offset_bytes)

    def of_byte(self, base: str, offset_bytes: int) -> tuple[int, int]:
        """The block of a byte."""
        if base not in (*OWN, "arena"):
            return -1, offset_bytes
        begin, end = bisect.bisect_left(self.bases, base), bisect.bisect_right(self.bases, base)
        at = bisect.bisect_right(self.starts, offset_bytes, begin, end) - 1
        if at < begin:
            raise NotScalableError(f"byte {offset_bytes} of {base} lies in no block")
        return at, offset_bytes - self.starts[at]

    def is_like(self, other: Blocks) -> bool:
        """Whether the blocks are the same ones at other sizes."""
        mine, theirs = ((b.bases, b.keys, b.first, b.last) for b in (self, other))
        return mine == theirs


def blocks_of(plan: Plan, interface: Interface) -> Blocks:
    """The blocks of a plan that was made without reuse."""
    end_of_time = len(plan.launches)
    spans = [(w, t, t) for t, launch in enumerate(plan.launches) for w in windows_of(launch)]
    spans += [(s.window, end_of_time, -1) for segments in plan.values.values() for s in segments]
    spans += [(window, -1, -1) for window in interface.staged.values()]  # the caller writes it before the first launch
    in_arena = [(w.offset_bytes, w.end_bytes, a, b) for w, a, b in spans if w.base == "arena" and 0 not in w.shape]
    found: list[tuple[str, int, str, int, int]] = []
    end = -1
    for begin, stop, first, last in sorted(in_arena):
        if begin >= end:
            found.append(("arena", begin, "", first, last))
        else:
            base, start, key, earliest, latest = found[-1]
            found[-1] = (base, start, key, min(earliest, first), max(latest, last))
        end = max(end, stop)
    for key, slot in interface.slots.items():
        if slot.base in OWN and 0 not in slot.shape and not is_staged(key, slot):
            found.append((slot.base, slot.offset_bytes, key, 0, end_of_time))
    found.sort(key=lambda block: block[:2])
    columns = list(zip(*found, strict=True)) or [(), (), (), (), ()]
    return Blocks(*columns)


def windows_of(launch: Launch) -> list[Window]:
    """Reads, writes, scratch."""
    return [*launch.reads, *launch.writes, *([launch.scratch] if launch.scratch is not None else [])]


@dataclass(frozen=True)
class Addresses:
    """Bytes at some sizes: where blocks and slots start in their bases, and how large the bases that move are.

    ``scratch`` are where the scratch buffers of all launches start behind the launch's scratch, and ``scratch_bytes``
    what they take.
    """

    starts: Ints
    slots: dict[str, int]
    size_bytes: dict[str, int]
    scratch: Ints
    scratch_bytes: Ints


@dataclass(frozen=True)
class Layout:
    """Where blocks start, at any sizes.

    ``slots`` are the base, the key and the block of the slots that move (-1 where one is empty), in order, and
    ``slot_bytes`` their bytes.  ``ends`` says how far windows of the arena reach behind the start of their block,
    ``end_blocks``.  ``order`` are the blocks of the arena from low to high, ``below[k]`` those that must end before
    block ``order[k]`` starts.  ``gaps`` are the blocks of scratch, and those of ``order`` that are alive with each.
    ``scratch`` are the bytes of the scratch buffers of all launches, and ``scratch_first`` the first buffer of the
    launch that each belongs to.
    """

    slots: tuple[tuple[str, str, int], ...]
    slot_bytes: Polynomials
    ends: Polynomials
    end_blocks: Ints
    order: tuple[int, ...]
    below: tuple[tuple[int, ...], ...]
    gaps: tuple[tuple[int, tuple[int, ...]], ...]
    scratch: Polynomials
    scratch_first: Ints

    def at(self, sizes: Sequence[int]) -> Addresses:
        """Where everything lies at these values of the dims."""
        known = [block for _, _, block in self.slots] + list(self.order) + [block for block, _ in self.gaps]
        count = 1 + max(known, default=-1)
        starts, slots = [0] * count, {}
        used: dict[str, int] = dict.fromkeys(OWN, 0)
        for (base, key, block), size in zip(self.slots, self.slot_bytes.at(sizes).tolist(), strict=True):
            slots[key] = used[base]
            if block >= 0:
                starts[block] = used[base]
            used[base] = aligned(used[base] + size)
        needed = np.zeros(count, np.int64)
        np.maximum.at(needed, self.end_blocks, self.ends.at(sizes))
        sizes_of, stops, arena = needed.tolist(), [0] * count, 0
        for block, below in zip(self.order, self.below, strict=True):
            starts[block] = max((stops[b] for b in below), default=0)
            end = starts[block] + sizes_of[block]
            stops[block] = aligned(end)
            arena = max(arena, end)
        for block, beside in self.gaps:
            for begin, stop in sorted((starts[b], stops[b]) for b in beside):
                if begin - starts[block] >= sizes_of[block]:
                    break
                starts[block] = max(starts[block], stop)
            arena = max(arena, starts[block] + sizes_of[block])
        buffers = -(-self.scratch.at(sizes) // ALIGN_BYTES) * ALIGN_BYTES
        before = np.cumsum(buffers) - buffers
        return Addresses(
            np.array(starts, np.int64),
            slots,
            {**used, "arena": arena},
            before - before[self.scratch_first],
            buffers,
        )


def gaps_of(blocks: Blocks, scratch: Sequence[int]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The blocks of ``scratch``, and the other blocks of the arena that are alive at one time with each."""
    apart = dict.fromkeys(scratch)
    values = [k for k, base in enumerate(blocks.bases) if base == "arena" and k not in apart]
    return tuple(
        (k, tuple(v for v in values if blocks.first[v] <= blocks.last[k] and blocks.first[k] <= blocks.last[v]))
        for k in apart
    )


def put_order(
    blocks: Blocks, starts: Sequence[int], scratch: Sequence[int]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The blocks of the arena but ``scratch`` from low to high where they start at ``starts``, and for each those below
    it that are alive at one time with it.

    Those that lie below one of these need not be named: they end before it starts.
    """
    left_out = dict.fromkeys(scratch)
    in_order = (k for k, base in enumerate(blocks.bases) if base == "arena" and k not in left_out)
    order = sorted(in_order, key=lambda k: (starts[k], k))
    below: dict[int, tuple[int, ...]] = {}
    for position, block in enumerate(order):
        direct: list[int] = []
        covered: dict[int, None] = {}
        for other in reversed(order[:position]):
            apart = blocks.first[other] > blocks.last[block] or blocks.first[block] > blocks.last[other]
            if apart or other in covered:
                continue
            direct.append(other)
            covered.update(dict.fromkeys(below[other]))
        below[block] = tuple(direct)
    return tuple(order), tuple(below[block] for block in order)


def aligned(size_bytes: int) -> int:
    """Rounded up to whole cache lines."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES
