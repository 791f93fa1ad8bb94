"""The blocks of the arena: which roots share one, because a kernel works in place, and where each block starts.

launch k3  reads %x [4, 8], for the last time     writes %y [4, 8], element by element     ->     %y lies over %x

The scratch memory of a launch is a block that lives during that launch alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from concatc.diagnostics import Loc
from concatc.ir.core import Operation
from concatc.ir.types import ELEMENT_BYTES
from concatc.op import Op
from concatc.passes.arena import Lifetime, assign_offsets, stacked_offsets
from concatc.passes.elementwise import maps_elementwise
from concatc.passes.storage import Place, Root

Phase = Literal["forward", "backward"]


@dataclass
class Step:
    """A launch whose windows have no addresses yet."""

    does: Operation | Op  # the operation of the net, or what the planner does to the reads
    op: Operation | None  # the kernel operation; None for a copy
    reads: list[Place]
    writes: list[Place]
    add: tuple[bool, ...]
    phase: Phase
    loc: Loc | None


# Before the first launch, when inputs are put where the plan reads them.
STAGING = -1


@dataclass(frozen=True)
class ArenaBlocks:
    """Bytes of the arena: where each root that the steps touch starts, where the scratch of each step does (0 where it
    has none), and the size of the arena.
    """

    starts: dict[Root, int]
    scratch: list[int]
    size_bytes: int


def assign_blocks(
    steps: Sequence[Step], staged: Sequence[Place], scratch_bytes: Sequence[int], reuse: bool = True
) -> ArenaBlocks:
    """Place all roots that the steps touch, and ``scratch_bytes[k]`` bytes of scratch for step ``k``.

    ``staged`` are written before the first step.  Without ``reuse`` the blocks lie one behind the other.
    """
    sharing = _Sharing(steps, staged)
    for k, step in enumerate(steps):
        if step.op is not None:
            sharing.visit(k, step, step.op)
    heads = sharing.blocks()
    lifetimes = [
        Lifetime(min(t for t, _, _ in uses), max(t for t, _, _ in uses), head.size_bytes)
        for head, uses in heads.items()
    ]
    lifetimes += [Lifetime(k, k, n) for k, n in enumerate(scratch_bytes) if n]
    offsets, size_bytes = (assign_offsets if reuse else stacked_offsets)(lifetimes)
    start = dict(zip(heads, offsets, strict=False))
    behind = iter(offsets[len(heads) :])
    return ArenaBlocks(
        {root: start[head] + at for root, (head, at) in sharing.home.items()},
        [next(behind) if n else 0 for n in scratch_bytes],
        size_bytes,
    )


_Use = tuple[int, int, int]  # step, first byte and one past the last, in the block


class _Sharing:
    """Lets results of kernels lie over operands that die there."""

    def __init__(self, steps: Sequence[Step], staged: Sequence[Place]) -> None:
        self.uses: dict[Root, list[_Use]] = {}
        for place in staged:
            self.uses.setdefault(place.root, []).append((STAGING, *_extent_bytes(place)))
        for k, step in enumerate(steps):
            for place in (*step.reads, *step.writes):
                if place.root.slot is None and place.root.numel:
                    self.uses.setdefault(place.root, []).append((k, *_extent_bytes(place)))
        # The block of each root, by the first root in it, and where the root starts in the block.
        self.home: dict[Root, tuple[Root, int]] = {root: (root, 0) for root in self.uses}

    def visit(self, k: int, step: Step, op: Operation) -> None:
        """Place the results of step ``k`` that are new in the arena over its operands, where that is possible."""
        for w, made in enumerate(step.writes):
            if not self._begins(made, k):
                continue
            for r, read in enumerate(step.reads):
                if read.root in self.home and self._dies(read, made, k) and maps_elementwise(op, r, w):
                    self._lay_over(made.root, read)
                    break

    def blocks(self) -> dict[Root, list[_Use]]:
        """The uses of each block, by its first root."""
        return {root: uses for root, uses in self.uses.items() if self.home[root][0] is root}

    def _begins(self, made: Place, k: int) -> bool:
        return made.root in self.home and self.uses[made.root][0][0] == k and _is_dense(made) and _fills(made)

    def _dies(self, read: Place, made: Place, k: int) -> bool:
        if read.shape != made.shape or not _is_dense(read):
            return False
        head, at = self.home[read.root]
        low, end = (at + b for b in _extent_bytes(read))
        later = [t for t, first, last in self.uses[head] if t >= k and first < end and low < last]
        return later == [k]

    def _lay_over(self, root: Root, read: Place) -> None:
        head, at = self.home[read.root]
        at += read.offset * ELEMENT_BYTES[read.root.dtype]
        self.home[root] = (head, at)
        self.uses[head] += [(t, first + at, last + at) for t, first, last in self.uses[root]]


def _extent_bytes(place: Place) -> tuple[int, int]:
    """First byte and one past the last of a place in its root."""
    step = ELEMENT_BYTES[place.root.dtype]
    if 0 in place.shape:
        return place.offset * step, place.offset * step
    last = sum((n - 1) * s for n, s in zip(place.shape, place.strides, strict=True))
    return place.offset * step, (place.offset + last + 1) * step


def _is_dense(place: Place) -> bool:
    """Whether the elements lie without gaps, row-major."""
    return Place(place.root, place.offset, place.shape, Place.whole(place.root, place.shape).strides).same_as(place)


def _fills(place: Place) -> bool:
    """Whether a dense place is all of its root."""
    return place.offset == 0 and math.prod(place.shape) == place.root.numel
