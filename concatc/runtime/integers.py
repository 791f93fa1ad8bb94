"""Integers in memory, followed by window: which label or index lies where, while launches copy and overwrite them."""

from __future__ import annotations

import numpy as np

from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.memory import Array
from concatc.loops.plan import Window
from concatc.passes.check_lattice import extent_bytes, overlap

UNKNOWN = -1


class Integers:
    """What is known of each integer in memory: arrays of numbers by window, the last written last."""

    def __init__(self) -> None:
        self._written: dict[str, list[tuple[Window, Array | None]]] = {}

    def write(self, window: Window, origins: Array | None) -> None:
        """Note what is known of a window's elements (:data:`UNKNOWN` for some); None where nothing is."""
        self._written.setdefault(window.base, []).append((window, origins))

    def read(self, window: Window) -> Array | None:
        """The numbers of a window's elements; None where one of them is not known."""
        wanted = _addresses(window)
        found = np.full(window.shape, UNKNOWN)
        open_ = np.ones(window.shape, bool)
        for other, origins in reversed(self._written.get(window.base, [])):
            if not open_.any():
                break
            if not overlap(window, other):
                continue
            low, end = extent_bytes(other)
            if origins is None or other.dtype != window.dtype:
                # More than what was written, so that nothing is taken for known that is not.
                open_ &= (wanted < low) | (wanted >= end)
                continue
            known = _addresses(other).ravel()
            order = np.argsort(known)
            at = np.minimum(np.searchsorted(known, wanted, sorter=order), known.size - 1)
            here = open_ & (known[order[at]] == wanted)
            found[here] = origins.ravel()[order[at]][here]
            open_ &= ~here
        return None if (found == UNKNOWN).any() else found


def _addresses(window: Window) -> Array:
    step = ELEMENT_BYTES[window.dtype]
    at = np.full(window.shape, window.offset_bytes, np.int64)
    for axis, (n, stride) in enumerate(zip(window.shape, window.strides, strict=True)):
        at += (np.arange(n) * (stride * step)).reshape([-1 if d == axis else 1 for d in range(len(window.shape))])
    return at
