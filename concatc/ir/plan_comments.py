"""What the lines of a plan say at their end: bytes, when a window is in use, and what it is a part of.

%hb = "cnet.window"(%arena) {offset = 72 ..}     // 48 B  launches 1..9  rows 3..5 of %h
"cnet.launch"(%h, %w, %z) ..                     // #2  thread.cnet:9
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass

from concatc.ir.comments import bytes_text
from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import ELEMENT_BYTES, MemRefType


@dataclass(frozen=True)
class _Window:
    op: Operation
    base: Value
    offset_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    first: int
    last: int
    stored_first: bool

    @property
    def end_bytes(self) -> int:
        reach = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return self.offset_bytes + (reach + 1) * self.itemsize


def plan_comments(function: FuncOp, name: Callable[[Value], str]) -> dict[Operation, str]:
    """A comment for each window and launch of ``function``; empty where it holds no launches."""
    launches = [op for op in function.ops if op.name == "cnet.launch"] if function.regions[0].blocks else []
    if not launches:
        return {}
    number = {op: k for k, op in enumerate(launches)}
    comments = {op: f"#{k}" for op, k in number.items()}
    windows = [w for op in function.ops if op.name == "cnet.window" for w in _window(op, number, launches)]
    groups: dict[object, list[_Window]] = {}
    for window in windows:
        groups.setdefault((window.base, window.strides, window.itemsize), []).append(window)
    by_first = sorted(windows, key=lambda w: w.first)
    for group in groups.values():
        for window in group:
            parts = [p for w in group for p in _part(window, w) if _is_kept(window, p[-1], by_first)]
            comments[window.op] = _describe(window, min(parts, key=lambda p: p[0], default=None), name)
    return comments


def _window(op: Operation, number: dict[Operation, int], launches: list[Operation]) -> list[_Window]:
    type, offset = op.result.type, op.attributes.get("offset")
    if not isinstance(type, MemRefType) or type.strides is None or not isinstance(offset, int):
        return []
    shape = tuple(n for n in type.shape if n is not None)
    strides = tuple(s for s in type.strides if s is not None)
    uses = sorted((number[use.op], use.index) for use in op.result.uses if use.op in number)
    first, last = (uses[0][0], uses[-1][0]) if uses else (-1, -1)
    stored_first = any(k == first and index >= _reads(launches[k]) for k, index in uses)
    itemsize = ELEMENT_BYTES.get(type.dtype, 1)
    return [_Window(op, op.operands[0], offset, shape, strides, itemsize, first, last, stored_first)]


def _reads(launch: Operation) -> int:
    reads = launch.attributes.get("reads")
    return reads if isinstance(reads, int) else 0


def _describe(window: _Window, holder: tuple[int, int, int, _Window] | None, name: Callable[[Value], str]) -> str:
    size = window.itemsize
    for n in window.shape:
        size *= n
    parts = [bytes_text(size)]
    if window.first >= 0:
        span = f"{window.first}" if window.first == window.last else f"{window.first}..{window.last}"
        parts.append(f"launch {span}" if window.first == window.last else f"launches {span}")
    if holder is not None:
        _, axis, start, whole = holder
        what = "rows" if axis == 0 else f"axis {axis}:"
        parts.append(f"{what} {start}..{start + window.shape[axis]} of {name(whole.op.result)}")
    return "  ".join(parts)


def _part(window: _Window, whole: _Window) -> list[tuple[int, int, int, _Window]]:
    """``(elements of the whole, axis, start, whole)`` where ``window`` is a part of ``whole`` along one axis."""
    differ = [d for d, (n, m) in enumerate(zip(window.shape, whole.shape, strict=True)) if n != m]
    # Apart in time, the later of the two must read first what the earlier one left there.
    if len(differ) != 1 or whole.first < 0:
        return []
    if (whole.first > window.last and whole.stored_first) or (window.first > whole.last and window.stored_first):
        return []
    axis = differ[0]
    step = whole.strides[axis] * whole.itemsize
    distance = window.offset_bytes - whole.offset_bytes
    if step <= 0 or distance < 0 or distance % step or 0 in whole.shape:
        return []
    start = distance // step
    if start + window.shape[axis] > whole.shape[axis]:
        return []
    return [(whole.shape[axis], axis, start, whole)]


def _is_kept(window: _Window, whole: _Window, by_first: list[_Window]) -> bool:
    """Whether nothing else comes to lie in the bytes of ``window`` between the uses of the two."""
    earlier, later = (window, whole) if window.last < whole.first else (whole, window)
    start = bisect.bisect_right(by_first, earlier.last, key=lambda w: w.first)
    end = bisect.bisect_left(by_first, later.first, key=lambda w: w.first)
    return not any(
        w.base is window.base and w.offset_bytes < window.end_bytes and window.offset_bytes < w.end_bytes
        for w in by_first[start:end]
        if w.strides != window.strides
    )
