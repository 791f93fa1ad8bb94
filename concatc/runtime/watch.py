"""Notices when parameters or states change between a forward pass and its backward pass."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from concatc.loops.memory import Array


class Watch:
    """Checksums (CRC-32) of the arrays that a user was given live views of.

    An array can be written through a view at any later time and no call of ours sees it, so its bytes are compared.
    Arrays that nobody was given are never read.  What stands for memory of a device is fetched before it is compared.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, tuple[Array, Callable[[], None]]] = {}
        self._sums: dict[str, int] = {}

    def add(self, name: str, array: Array, fetch: Callable[[], None]) -> None:
        """``array`` is about to be handed out; ``fetch`` has it hold what is there now."""
        if name not in self._arrays:
            self._arrays[name] = array, fetch
            self._sums[name] = zlib.crc32(array.data)

    def mark(self) -> None:
        """The values of now are what a backward pass needs."""
        self._sums = {name: _sum(*watched) for name, watched in self._arrays.items()}

    def changed(self) -> str | None:
        """The first array that changed since the last mark, or since it was handed out if that was later."""
        return next((name for name, watched in self._arrays.items() if _sum(*watched) != self._sums[name]), None)


def _sum(array: Array, fetch: Callable[[], None]) -> int:
    fetch()
    return zlib.crc32(array.data)
