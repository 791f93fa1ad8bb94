"""Notices when parameters or states change between a forward pass and its backward pass."""

from __future__ import annotations

import zlib

from concatc.loops.memory import Array


class Watch:
    """Checksums (CRC-32) of the arrays that a user was given live views of.

    An array can be written through a view at any later time and no call of ours sees it, so its bytes are compared.
    Arrays that nobody was given are never read.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._sums: dict[str, int] = {}

    def add(self, name: str, array: Array) -> None:
        """``array`` is about to be handed out."""
        if name not in self._arrays:
            self._arrays[name] = array
            self._sums[name] = zlib.crc32(array.data)

    def mark(self) -> None:
        """The values of now are what a backward pass needs."""
        self._sums = {name: zlib.crc32(array.data) for name, array in self._arrays.items()}

    def changed(self) -> str | None:
        """The first array that changed since the last mark, or since it was handed out if that was later."""
        return next((name for name, array in self._arrays.items() if zlib.crc32(array.data) != self._sums[name]), None)
