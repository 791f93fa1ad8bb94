"""How many bytes a compiled module takes, and which are copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from concatc.loops.plan import Remark
from concatc.runtime.source import LoweredPhase, Phase

SHARED = ("params", "grads", "states")  # one block each for all phases
OWN = ("inputs", "outputs", "arena")  # one block each a phase


@dataclass(frozen=True)
class PhaseMemory:
    """Bytes of one phase: what the plan owns, what it copies in a step, and why."""

    bases: dict[str, int]
    staged_bytes: int  # inputs, copied from the user's arrays
    remarks: tuple[Remark, ...]

    @property
    def copied_bytes(self) -> int:
        """Bytes moved by copies that the plan could not avoid."""
        return sum(remark.bytes for remark in self.remarks)


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of every base of every phase; prints as a table."""

    net: str
    phases: dict[Phase, PhaseMemory]

    @staticmethod
    def of(net: str, lowered: Mapping[Phase, LoweredPhase]) -> MemoryReport:
        """Read the report off the plans."""
        phases = {}
        for phase, levels in lowered.items():
            slots = levels.interface.slots
            staged = sum(w.end_bytes - w.offset_bytes for key, w in slots.items() if key.startswith("input:"))
            bases = {name: base.size_bytes for name, base in levels.plan.bases.items()}
            phases[phase] = PhaseMemory(bases, staged, tuple(levels.plan.remarks))
        return MemoryReport(net, phases)

    @property
    def shared_bytes(self) -> int:
        """Parameters, gradients and states: one block for all phases."""
        bases = self.phases["train"].bases
        return sum(bases.get(name, 0) for name in SHARED)

    @property
    def arena_bytes(self) -> int:
        """The arena of the training phase."""
        return self.phases["train"].bases.get("arena", 0)

    def __str__(self) -> str:
        shared = self.phases["train"].bases
        lines = [f"net {self.net}", f"shared: {_listed(shared, SHARED)}"]
        for phase, memory in self.phases.items():
            lines.append(f"{phase}: {_listed(memory.bases, OWN)}")
            lines.append(f"  copied in a step: {readable(memory.copied_bytes)}; inputs {readable(memory.staged_bytes)}")
            lines += [f"  {_where(remark)}{remark.message}: {readable(remark.bytes)}" for remark in memory.remarks]
        return "\n".join(lines)


def readable(n: int) -> str:
    """``1536`` -> ``1.5 KiB``."""
    if n < 1024:
        return f"{n} B"
    if n < 1024**2:
        return f"{n / 1024:.1f} KiB"
    return f"{n / 1024**2:.1f} MiB"


def _listed(bases: Mapping[str, int], names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {readable(bases[name])}" for name in names if bases.get(name, 0))


def _where(remark: Remark) -> str:
    return f"{remark.loc}: " if remark.loc else ""
