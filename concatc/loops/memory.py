"""Memory that a plan runs on: aligned blocks, and windows in them as NumPy arrays."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.comments import bytes_text
from concatc.ir.types import ELEMENT_BYTES, NUMPY_DTYPES
from concatc.loops.free_memory import free_bytes
from concatc.loops.plan import ALIGN_BYTES, Segment, Window

Array = np.ndarray[Any, Any]
HUGE_PAGE_BYTES = 1 << 21
MADV_POPULATE_WRITE = 23  # of Linux; not among the names of `mmap`


def allocate(size_bytes: int) -> Array:
    """A zeroed ``uint8`` array of that size whose address is a multiple of 64.

    From 2 MiB on it is a mapping of its own, on huge pages where the system gives them, and in memory at once: no step
    waits for pages.  Raises MemoryError.
    """
    if size_bytes >= HUGE_PAGE_BYTES and sys.platform == "linux":
        return _mapped(size_bytes)
    raw = np.zeros(size_bytes + ALIGN_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGN_BYTES
    return raw[start : start + size_bytes]


def _mapped(size_bytes: int) -> Array:
    try:
        # Private: a process that forks keeps its own.
        mapping = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError):
        raise MemoryError from None
    raw = np.frombuffer(mapping, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE_BYTES
    # Whole pages only: a huge page behind the end would be memory that nobody uses.
    whole = size_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    with contextlib.suppress(OSError):  # a system without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE, start, whole)
    with contextlib.suppress(OSError):  # a kernel before 5.14: pages come when they are touched
        mapping.madvise(MADV_POPULATE_WRITE, start, size_bytes)
    return raw[start : start + size_bytes]


def allocate_all(size_bytes: Mapping[str, int], what: str) -> dict[str, Array]:
    """Blocks by name; raises :class:`UsageError` where there is no memory for all of them, before any is touched."""
    check_free(size_bytes, what)
    try:
        return {name: allocate(n) for name, n in size_bytes.items()}
    except MemoryError:
        raise UsageError(_no_memory(size_bytes, what, free_bytes(), ())) from None


def check_free(size_bytes: Mapping[str, int], what: str, notes: tuple[str, ...] = ()) -> None:
    """Raise :class:`UsageError` where there is no memory for blocks of these sizes; takes none.

    ``notes`` are added to what the message says of their sizes.
    """
    if sum(size_bytes.values()) > (free := free_bytes()):
        raise UsageError(_no_memory(size_bytes, what, free, notes))


def _no_memory(size_bytes: Mapping[str, int], what: str, free: int, notes: tuple[str, ...]) -> Diagnostic:
    return Diagnostic(
        f"no memory for {bytes_text(sum(size_bytes.values()))} of {what}: {bytes_text(free)} are free",
        notes=(", ".join(f"{name} {bytes_text(n)}" for name, n in size_bytes.items() if n), *notes),
        help="choose smaller dims, such as the batch size",
    )


def view(base: Array, window: Window) -> Array:
    """The window as an array that shares memory with the base."""
    step = ELEMENT_BYTES[window.dtype]
    strides = tuple(s * step for s in window.strides)
    # NumPy refuses an offset past the buffer even for arrays without elements.
    offset = window.offset_bytes if 0 not in window.shape else 0
    return np.ndarray(window.shape, NUMPY_DTYPES[window.dtype], base.data, offset, strides)


def gather(bases: Mapping[str, Array], segments: Sequence[Segment]) -> Array:
    """A dense copy of a value."""
    ends = [[a + n for a, n in zip(s.start, s.window.shape, strict=True)] for s in segments]
    shape = tuple(max(column) for column in zip(*ends, strict=True))
    result = np.empty(shape, NUMPY_DTYPES[segments[0].window.dtype])
    for segment in segments:
        result[_slices(segment)] = view(bases[segment.window.base], segment.window)
    return result


def scatter(bases: Mapping[str, Array], segments: Sequence[Segment], value: Array) -> None:
    """Write a value to where it is stored."""
    for segment in segments:
        view(bases[segment.window.base], segment.window)[...] = value[_slices(segment)]


def _slices(segment: Segment) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(segment.start, segment.window.shape, strict=True))
