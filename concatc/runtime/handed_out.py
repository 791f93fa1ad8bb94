"""Copies of results for who calls: memory that everybody let go of is written again.

A new array of half a MiB costs more for the pages that the system maps and clears than for its elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.comments import bytes_text
from concatc.loops.memory import Array, allocate

LEAST_BYTES = 1 << 16  # of smaller arrays the allocator keeps the pages itself


class HandedOut:
    """Hands out copies of results, and keeps memory for the next one: at most one array's for each result.

    Memory is kept when nothing refers to it any more, whatever did: the array, a view of it, a memoryview, a tensor of
    another library.  So no call writes what a user can still read.
    """

    def __init__(self) -> None:
        self._spare: dict[str, Array] = {}

    @property
    def spare_bytes(self) -> int:
        """Bytes that are kept now."""
        return sum(memory.nbytes for memory in list(self._spare.values()))

    def copy(self, name: str, result: Array) -> Array:
        """A copy of the result ``name``; raises :class:`UsageError` where there is no memory for it."""
        try:
            if result.nbytes < LEAST_BYTES:
                return np.array(result) if result.ndim else result[()]
            memory = self._spare.pop(name, None)
            if memory is None or memory.nbytes != result.nbytes:
                memory = allocate(result.nbytes)
        except MemoryError:
            message = f"no memory for a copy of `{name}`, {bytes_text(result.nbytes)}"
            raise UsageError(Diagnostic(message, help="copy=False gives views instead")) from None
        copy = np.asarray(_Lent(self._spare, name, memory, result))
        copy[...] = result
        return copy


class _Lent:
    """What an array that was handed out, and all that is made of it, holds its memory by.

    Its end is the end of the last of them, in whatever thread: memory is given back in one operation on a dict.
    """

    __slots__ = ("__array_interface__", "_memory", "_name", "_spare")

    def __init__(self, spare: dict[str, Array], name: str, memory: Array, like: Array) -> None:
        self._spare, self._name, self._memory = spare, name, memory
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": like.shape,
            "typestr": like.dtype.str,
            "data": (memory.ctypes.data, False),
        }

    def __del__(self) -> None:
        self._spare[self._name] = self._memory
