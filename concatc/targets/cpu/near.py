"""Loads of elements that lie near each other: whole vectors, and shuffles of them.

    x[2 * j]     elements 0, 2, .. 30         two vectors of 16, of which every other element is taken
    x[j // 2]    elements 0, 0, 1, 1, .. 7    one vector of 8, whose elements are repeated

A gather loads each element by itself, some thirty cycles for sixteen.  Nothing is read behind the last element that a
lane asks for, nor where no lane may read; between these a vector may read elements that no lane asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from concatc.targets.cpu.lanes import BIT, I32, I64, LLVM_TYPES, LaneBuilder

MOST_VECTORS = 4  # elements further apart are gathered
# Lane `j` reads element `(j * step + shift) // divisor`.
_SPREADS = [(step, 0, 1) for step in range(2, 5)] + [(1, shift, d) for d in range(2, 5) for shift in range(d)]


@dataclass(frozen=True)
class Asked:
    """Which lanes ask for their element; None is no condition.

    ``same`` is an i1 for all lanes, ``each`` a mask; the lanes below ``inside`` (an i64) lie within the vector's axis.
    ``elements`` says which elements are there, whoever asks: those whose number is ``<``, ``>=``, .. a bound (an i32).
    """

    same: Any = None
    each: Any = None
    inside: Any = None
    elements: tuple[tuple[str, Any], ...] = ()


def load_near(lane: LaneBuilder, pointer: Any, near: Sequence[int], dtype: str, asked: Asked) -> Any:
    """The elements ``pointer[near[lane]]``, 0 where they are not there or not asked for.

    ``near`` holds no negative number.  Lanes beyond the axis hold anything.
    """
    count = lane.lanes
    vectors = -(-(max(near) + 1) // count)
    side_by_side = list(near) == list(range(count))
    if side_by_side or vectors > MOST_VECTORS:
        there = [_there(lane, near, *bound) for bound in asked.elements]
        inside = lane.below(asked.inside) if asked.inside is not None else None
        mask = lane.every(asked.same, asked.each, inside, *there)
        if side_by_side:
            return lane.load(pointer, dtype, mask)
        return lane.gather(lane.pointers(pointer, lane.numbers(near), dtype), dtype, mask)
    each, reached = asked.each, None
    if asked.inside is not None:
        reached = _reached(lane, near, asked.inside)
        each = each if reached is not None else lane.both(each, lane.below(asked.inside))
    parts = []
    for k in range(vectors):
        numbers = range(k * count, (k + 1) * count)
        there = [_there(lane, numbers, *bound) for bound in asked.elements]
        if reached is not None:
            there.append(lane.below(lane.b.sub(reached, I64(k * count))))
        mask = lane.every(asked.same, _elements(lane, [n - k * count for n in near], each), *there)
        start = lane.b.gep(pointer, [I32(k * count)], source_etype=LLVM_TYPES[dtype])
        parts.append(lane.load(start, dtype, mask))
    found = _shuffled(lane, parts[0], parts[0], [n if n < count else 0 for n in near])
    for k, part in enumerate(parts[1:], 1):
        chosen = [count + n - k * count if n // count == k else at for at, n in enumerate(near)]
        found = _shuffled(lane, found, part, chosen)
    if asked.each is not None and len(set(near)) < count:
        found = lane.b.select(asked.each, found, lane.zero(dtype))
    return found


def _there(lane: LaneBuilder, numbers: Sequence[int], sign: str, bound: Any) -> Any:
    """Which of these elements are there."""
    return lane.b.icmp_signed(sign, lane.numbers(numbers, I32), lane.splat(bound))


def _reached(lane: LaneBuilder, near: Sequence[int], inside: Any) -> Any:
    """How many elements the lanes below ``inside`` reach, as an i64; None where ``near`` is not spread evenly.

    ``x[2 * j]`` reaches ``2 * inside - 1``, ``x[(j + 1) // 2]`` reaches ``inside // 2 + 1``.
    """
    b, last = lane.b, lane.b.sub(inside, I64(1))
    for step, shift, divisor in _SPREADS:
        if list(near) == [(at * step + shift) // divisor for at in range(lane.lanes)]:
            element = b.add(b.mul(last, I64(step)), I64(shift))
            element = element if divisor == 1 else b.sdiv(element, I64(divisor))
            return b.select(b.icmp_signed(">", inside, I64(0)), b.add(element, I64(1)), I64(0))
    return None


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
