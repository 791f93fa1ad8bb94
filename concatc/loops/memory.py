"""Memory that a plan runs on: aligned blocks, and windows in them as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from concatc.ir.types import ELEMENT_BYTES, NUMPY_DTYPES
from concatc.loops.plan import ALIGN_BYTES, Segment, Window

Array = np.ndarray[Any, Any]


def allocate(size_bytes: int) -> Array:
    """A zeroed ``uint8`` array of that size whose address is a multiple of 64."""
    raw = np.zeros(size_bytes + ALIGN_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGN_BYTES
    return raw[start : start + size_bytes]


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
