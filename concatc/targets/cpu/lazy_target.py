"""The ``cpu`` target where code is there already: what generates code is imported when something is compiled."""

from __future__ import annotations

from dataclasses import dataclass

from concatc.targets import NOTHING, Beside, Executable, Lowered, Peaks
from concatc.targets.memory import HOST, HostMemory


@dataclass(frozen=True)
class LazyCpuTarget:
    """What runs written modules and nets that the cache holds.  It compiles only what is not there."""

    name: str = "cpu"
    runs_plan: bool = True
    serves_sizes: bool = True

    def build(self, lowered: Lowered, beside: Beside = NOTHING) -> Executable:
        """Compile a net from its loops."""
        from concatc.targets.cpu.target import CpuTarget

        return CpuTarget().build(lowered, beside)

    def memory(self) -> HostMemory:
        """See :class:`concatc.targets.Target`."""
        return HOST

    def peaks(self, again: bool = False) -> Peaks:
        """What the machine can do."""
        from concatc.targets.cpu.peaks import machine_peaks

        return machine_peaks(again)
