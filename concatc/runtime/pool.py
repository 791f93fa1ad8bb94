"""Memory of a phase: inputs, outputs and arena, one block each, shared by all batch sizes of the phase."""

from __future__ import annotations

from collections.abc import Mapping

from concatc.loops.memory import Array, allocate, allocate_all
from concatc.targets.memory import HOST, Memory

BLOCKS = "inputs, outputs and arena"
THREADS = "threads"  # what each of several threads has of its own


class Pool:
    """Blocks by name that grow to the largest plan that ran; only one plan of a phase is live at a time."""

    def __init__(self, memory: Memory = HOST) -> None:
        self.memory = memory
        self.bases: dict[str, Array] = {}
        self.version = 0
        self._threads = allocate(0)

    def reserve(self, size_bytes: Mapping[str, int]) -> None:
        """Let every block have at least that size; arrays that view an outgrown block keep it alive.

        Raises :class:`UsageError` where there is no memory for them; the blocks are then as before.
        """
        grown = self._grown(size_bytes)
        if grown:
            self.bases.update(self.memory.allocate_all(grown, BLOCKS))
            self.version += 1

    def check_free(self, size_bytes: Mapping[str, int], why: str) -> None:
        """Raise :class:`UsageError` where :meth:`reserve` would find no memory; ``why`` says what needs it."""
        grown = self._grown(size_bytes)
        if grown:
            self.memory.check_free(grown, BLOCKS, (why,))

    def _grown(self, size_bytes: Mapping[str, int]) -> dict[str, int]:
        return {name: n for name, n in size_bytes.items() if name not in self.bases or self.bases[name].nbytes < n}

    def of_threads(self, size_bytes: int) -> Array:
        """A block of at least that size for what each of several threads has of its own.

        Raises :class:`UsageError` where there is no memory for it.
        """
        if self._threads.nbytes < size_bytes:
            self._threads = allocate_all({THREADS: size_bytes}, "what each thread has of its own")[THREADS]
        return self._threads

    @property
    def thread_bytes(self) -> int:
        """The size of that block."""
        return self._threads.nbytes
