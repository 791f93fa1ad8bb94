"""Exact overlap of strided windows: which bytes two windows share, without listing their elements.

A window touches the bytes ``offset + sum(i[d] * stride[d]) + k``.  Two windows share a byte where

    sum over strides s of c[s] * s  =  difference of the offsets,      low[s] <= c[s] <= high[s]

has a solution in integers; it is searched from the largest stride to the smallest, with bounds and common divisors.
Used by the checker only, so that it shares nothing with the planner.
"""

from __future__ import annotations

import math
from itertools import pairwise

from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.plan import Window


def extent_bytes(window: Window) -> tuple[int, int]:
    """First byte touched and one past the last, strides of either sign; equal where the window is empty."""
    if 0 in window.shape:
        return window.offset_bytes, window.offset_bytes
    step = ELEMENT_BYTES[window.dtype]
    reach = [(n - 1) * s * step for n, s in zip(window.shape, window.strides, strict=True)]
    low = window.offset_bytes + sum(min(r, 0) for r in reach)
    return low, window.offset_bytes + sum(max(r, 0) for r in reach) + step


def overlap(a: Window, b: Window) -> bool:
    """Whether two windows share a byte.  Exact."""
    if a.base != b.base:
        return False
    (a_low, a_end), (b_low, b_end) = extent_bytes(a), extent_bytes(b)
    if a_low == a_end or b_low == b_end or a_end <= b_low or b_end <= a_low:
        return False
    ranges: dict[int, tuple[int, int]] = {}
    _add_ranges(ranges, a, sign=1)
    _add_ranges(ranges, b, sign=-1)
    strides = sorted(ranges, reverse=True)
    difference = b.offset_bytes - a.offset_bytes
    itemsizes = ELEMENT_BYTES[a.dtype], ELEMENT_BYTES[b.dtype]
    # Element addresses x (of a) and y (of b) share a byte when -itemsize(a) < x - y < itemsize(b).
    return any(
        _solvable(difference + shift, strides, [ranges[s] for s in strides])
        for shift in range(1 - itemsizes[0], itemsizes[1])
    )


def overlaps_itself(window: Window) -> bool:
    """Whether two elements of a window share a byte.  Exact."""
    axes = sorted((abs(s), n) for n, s in zip(window.shape, window.strides, strict=True) if n > 1)
    if 0 in window.shape or not axes:
        return False
    if axes[0][0] == 0:
        return True
    spans = [s * (n - 1) for s, n in axes]
    nested = all(sum(spans[:k]) < s for k, (s, _) in enumerate(axes))
    if nested:
        return False
    # Two different index tuples with one address: a non-zero solution of sum(d * s) = 0.
    return any(
        _solvable(-lead * s, [t for t, _ in reversed(axes[:k])], [(1 - m, m - 1) for _, m in reversed(axes[:k])])
        for k, (s, n) in enumerate(axes)
        for lead in range(1, n)
        if lead * s <= sum(spans[:k])
    )


def _add_ranges(ranges: dict[int, tuple[int, int]], window: Window, sign: int) -> None:
    step = ELEMENT_BYTES[window.dtype]
    for n, s in zip(window.shape, window.strides, strict=True):
        stride, reach = s * step * sign, n - 1
        low, high = (0, reach) if stride > 0 else (-reach, 0)
        if stride == 0 or reach == 0:
            continue
        old = ranges.get(abs(stride), (0, 0))
        ranges[abs(stride)] = (old[0] + low, old[1] + high)


def _solvable(target: int, strides: list[int], ranges: list[tuple[int, int]]) -> bool:
    """Whether ``sum(c[k] * strides[k]) == target`` for some ``ranges[k][0] <= c[k] <= ranges[k][1]``."""
    lows, highs, divisors = [0], [0], [0]
    for s, (low, high) in zip(reversed(strides), reversed(ranges), strict=True):
        lows.append(lows[-1] + low * s)
        highs.append(highs[-1] + high * s)
        divisors.append(math.gcd(divisors[-1], s))
    lows.reverse()
    highs.reverse()
    divisors.reverse()

    def search(k: int, rest: int) -> bool:
        if k == len(strides):
            return rest == 0
        if not lows[k] <= rest <= highs[k] or rest % divisors[k]:
            return False
        s, (low, high) = strides[k], ranges[k]
        # rest - c * s must lie within what the smaller strides reach.
        first = max(low, -(-(rest - highs[k + 1]) // s))
        last = min(high, (rest - lows[k + 1]) // s)
        return any(search(k + 1, rest - c * s) for c in range(first, last + 1))

    return search(0, target)


def disjoint_boxes(boxes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether boxes, each ``(start, shape)``, share no element."""
    ordered = sorted(boxes)
    return not any(
        all(s < t + m and t < s + n for s, n, t, m in zip(a[0], a[1], b[0], b[1], strict=True))
        for k, a in enumerate(ordered)
        for b in ordered[k + 1 :]
    ) and all(a != b or 0 in a[1] for a, b in pairwise(ordered))
