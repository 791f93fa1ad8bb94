"""Loads of elements that lie near each other: whole vectors, and shuffles of them.

    x[2 * j]     elements 0, 2, .. 30         two vectors of 16, of which every other element is taken
    x[j // 2]    elements 0, 0, 1, 1, .. 7    one vector of 8, whose elements are repeated

A gather loads each element by itself, some thirty cycles for sixteen.  Nothing is read behind the last element that a
lane asks for, nor where no lane may read; between these a vector may read elements that no lane asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concatc.targets.cpu.lanes import BIT, I32, LLVM_TYPES, LaneBuilder

MOST_VECTORS = 4  # elements further apart are gathered


def load_near(lane: LaneBuilder, pointer: Any, near: Sequence[int], dtype: str, same: Any, each: Any) -> Any:
    """The elements ``pointer[near[lane]]``; 0 where ``same`` (an i1) or the lane of ``each`` is off.

    ``near`` holds no negative number; None is no condition.
    """
    count = lane.lanes
    vectors = -(-(max(near) + 1) // count)
    if list(near) == list(range(count)):
        return lane.load(pointer, dtype, lane.both(same, each))
    if vectors > MOST_VECTORS:
        return lane.gather(lane.pointers(pointer, lane.numbers(near), dtype), dtype, lane.both(same, each))
    parts = []
    for k in range(vectors):
        wanted = [n - k * count for n in near]
        mask = lane.both(same, _elements(lane, wanted, each))
        start = lane.b.gep(pointer, [I32(k * count)], source_etype=LLVM_TYPES[dtype])
        parts.append(lane.load(start, dtype, mask))
    found = _shuffled(lane, parts[0], parts[0], [n if n < count else 0 for n in near])
    for k, part in enumerate(parts[1:], 1):
        chosen = [count + n - k * count if n // count == k else at for at, n in enumerate(near)]
        found = _shuffled(lane, found, part, chosen)
    if each is not None and len(set(near)) < count:
        found = lane.b.select(each, found, lane.zero(dtype))
    return found


def _elements(lane: LaneBuilder, wanted: Sequence[int], each: Any) -> Any:
    """Which elements of a vector some lane asks for: those up to the last one; where ``each`` says it, none besides."""
    count = lane.lanes
    if each is None:
        last = min(max(wanted), count - 1)
        return None if last == count - 1 else lane.numbers([int(n <= last) for n in range(count)], BIT)
    askers: list[list[int]] = [[at for at, n in enumerate(wanted) if n == element] for element in range(count)]
    none = lane.numbers([0] * count, BIT)
    mask: Any = None
    for turn in range(max(map(len, askers))):
        chosen = [at[turn] if turn < len(at) else count for at in askers]
        part = _shuffled(lane, each, none, chosen)
        mask = part if mask is None else lane.b.or_(mask, part)
    return mask


def _shuffled(lane: LaneBuilder, a: Any, b: Any, at: Sequence[int]) -> Any:
    return lane.b.shuffle_vector(a, b, lane.numbers(at, I32))
