"""Memory of a phase: inputs, outputs and arena, one block each, shared by all batch sizes of the phase."""

from __future__ import annotations

from collections.abc import Mapping

from concatc.loops.memory import Array, allocate_all


class Pool:
    """Blocks by name that grow to the largest plan that ran; only one plan of a phase is live at a time."""

    def __init__(self) -> None:
        self.bases: dict[str, Array] = {}
        self.version = 0

    def reserve(self, size_bytes: Mapping[str, int]) -> None:
        """Let every block have at least that size; arrays that view an outgrown block keep it alive.

        Raises :class:`UsageError` where there is no memory for them; the blocks are then as before.
        """
        grown = {name: n for name, n in size_bytes.items() if name not in self.bases or self.bases[name].nbytes < n}
        if grown:
            self.bases.update(allocate_all(grown, "inputs, outputs and arena"))
            self.version += 1
