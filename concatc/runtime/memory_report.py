"""How many bytes a compiled module takes, and which are moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from concatc.inspect.machine import beyond_machine
from concatc.inspect.memory import PlanReport, plan_report
from concatc.inspect.memory_text import data_of, overview, picture, remark_lines
from concatc.ir.comments import bytes_text
from concatc.loops.plan import Plan, Remark
from concatc.runtime.source import LoweredPhase, Phase

SHARED = ("params", "grads", "states")  # one block each for all phases
TITLES: Mapping[Phase, str] = {"train": "training", "infer": "inference"}


@dataclass(frozen=True)
class PhaseMemory:
    """Bytes of one phase: what the plan needs, what is moved in a step and why, who lives in the arena and when.

    ``thread_bytes`` is what several threads took besides, since the first step: each one's own scratch memory.
    """

    plan: Plan
    thread_bytes: int = 0

    @cached_property
    def report(self) -> PlanReport:
        """Everything that the plan says."""
        return plan_report(self.plan)

    @property
    def bases(self) -> dict[str, int]:
        """Bytes of each base."""
        return {name: base.size_bytes for name, base in self.plan.bases.items()}

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """Every copy, second store, layout conversion and staging that the plan could not avoid."""
        return tuple(self.plan.remarks)

    @property
    def copied_bytes(self) -> int:
        """Bytes that copies for concat, slice, split and accumulate move."""
        return self.report.moved_bytes["copy"]

    @property
    def stored_twice_bytes(self) -> int:
        """Bytes that kernels store in a second place."""
        return self.report.moved_bytes["second store"]

    @property
    def converted_bytes(self) -> int:
        """Bytes moved to change a layout."""
        return self.report.moved_bytes["layout conversion"]

    @property
    def staged_bytes(self) -> int:
        """Bytes of inputs that are put where the plan reads them, the copy of the caller's arrays included."""
        return self.report.moved_bytes["input staging"]


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of every phase; prints as a table with a picture of the arena.

    ``optimizer_bytes`` is what the optimizers hold that the net was trained with: slots, and the numbers of a step.
    ``spare_bytes`` is memory of results that users let go of, kept for the next ones.
    """

    net: str
    phases: dict[Phase, PhaseMemory]
    optimizer_bytes: int = 0
    spare_bytes: int = 0

    @staticmethod
    def of(
        net: str,
        lowered: Mapping[Phase, LoweredPhase],
        thread_bytes: Mapping[Phase, int] | None = None,
        optimizer_bytes: int = 0,
        spare_bytes: int = 0,
    ) -> MemoryReport:
        """Read the report off the plans."""
        taken = thread_bytes or {}
        phases = {phase: PhaseMemory(levels.plan, taken.get(phase, 0)) for phase, levels in lowered.items()}
        return MemoryReport(net, phases, optimizer_bytes, spare_bytes)

    @property
    def shared_bytes(self) -> int:
        """Parameters, gradients and states: one block for all phases."""
        bases = self.phases["train"].bases
        return sum(bases.get(name, 0) for name in SHARED)

    @property
    def arena_bytes(self) -> int:
        """The arena of the training phase."""
        return self.phases["train"].bases.get("arena", 0)

    def text(self, pictures: bool = True) -> str:
        """The report as text; ``pictures`` shows who lives in each arena, where and when."""
        lines = [f"net {self.net}"]
        for phase, memory in self.phases.items():
            head, *details = overview(TITLES[phase], memory.report)
            beyond = beyond_machine(memory.report.need_bytes)
            lines += [head, *([f"  that is {beyond}"] if beyond is not None else []), *details]
            if memory.thread_bytes:
                lines.append(f"  threads: {bytes_text(memory.thread_bytes)} besides, scratch of each one's own")
            if phase == "train" and self.optimizer_bytes:
                lines.append(f"  optimizers: {bytes_text(self.optimizer_bytes)} besides, kept for each parameter")
            lines += [f"  {line}" for line in remark_lines(memory.remarks)]
            lines += [f"  {line}" for line in picture(memory.report)] if pictures else []
        if self.spare_bytes:
            lines.append(f"results: {bytes_text(self.spare_bytes)} besides, of results that nobody holds any more")
        return "\n".join(lines)

    def data(self) -> dict[str, Any]:
        """The report as plain data, by phase, for tools."""
        return {
            phase: {
                **data_of(memory.report),
                "thread_bytes": memory.thread_bytes,
                "optimizer_bytes": self.optimizer_bytes if phase == "train" else 0,
            }
            for phase, memory in self.phases.items()
        }

    def __str__(self) -> str:
        return self.text()
