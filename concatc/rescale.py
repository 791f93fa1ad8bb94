"""A net at another batch size: a new plan over the same code, without compiling and without a parser.

    net at n = 64: graph, slots, table of launches    ->    net at n = 7: the same kernels with other numbers

A net is planned twice: at its own dims, and at a batch so large that every number shows how it follows from the dims
(`scaling.py`, `loops/polynomials.py`).  Where both are one plan of two sizes, every number is a polynomial, and memory
is laid out anew for any size (`loops/scaled_layout.py`).  Where they are not (a net that decides by its batch size, an
order that pays off for large batches only) the net is compiled for each size as if it were another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, cast

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.inspect.memory import plan_report
from concatc.inspect.memory_text import comments
from concatc.ir.core import FuncOp, Module
from concatc.ir.numbers import numbers_of, with_numbers
from concatc.ir.printer import Style
from concatc.loops.bases import Interface
from concatc.loops.declaration import declare_staged
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of
from concatc.loops.polynomials import Ints, NotScalableError, Polynomials, polynomials
from concatc.loops.scaled_layout import Addresses, Layout
from concatc.loops.scaled_plan import PlanSample, ScaledPlan
from concatc.loops.scaled_slots import ScaledSlots
from concatc.passes.arena import Lifetime, assign_offsets
from concatc.passes.dumps import READING, dump_text
from concatc.passes.lower_to_loops import scratch_pieces
from concatc.passes.verify import verify
from concatc.runtime.index_check import state_index_checks
from concatc.runtime.phases import OfGraph
from concatc.runtime.source import Dim, LoweredPhase, Phase, Source, Update
from concatc.targets import Executable, Target
from concatc.targets.cpu.scaled_step import ScaledStep, StepSample, scaled_step
from concatc.targets.cpu.step import StepNumbers
from concatc.targets.cpu.step_table import step_table

Sizes = Mapping[str, int]


class SampledPhase(Protocol):
    """One phase of a net at dims at which it is looked at."""

    @property
    def graph(self) -> Module:
        """Level 00."""
        ...

    @property
    def slots(self) -> Interface:
        """Where arguments and results live if no input is staged elsewhere."""
        ...

    @property
    def stacked(self) -> Plan:
        """The plan without reuse of memory."""
        ...

    @property
    def stacked_loops(self) -> Module:
        """The loops of that plan."""
        ...

    @property
    def stacked_chunked(self) -> Sequence[tuple[int, int]]:
        """For each launch of them the extent of its outermost loop, and how many iterations are a chunk."""
        ...


@dataclass(frozen=True)
class ScaledGraph:
    """A graph at any sizes of the dims ``here``."""

    here: Sizes
    graph: Module
    numbers: Polynomials

    @staticmethod
    def of(here: Sizes, graph: Module, samples: Sequence[tuple[Sizes, Module]]) -> ScaledGraph:
        """Raises :class:`NotScalableError` where the samples are other graphs."""
        numbers, rest = numbers_of(graph.functions)
        found = [(dims, *numbers_of(sample.functions)) for dims, sample in samples]
        if any(r != rest for _, _, r in found):
            raise NotScalableError("another graph at other sizes")
        made = ScaledGraph(here, graph, polynomials(here, [(dims, n) for dims, n, _ in found], numbers))
        if not made.is_at_home():
            raise NotScalableError("sizes that do not follow from the dims")
        return made

    def is_at_home(self) -> bool:
        """Whether the numbers here are those of the graph."""
        return self.numbers.at(list(self.here.values())).tolist() == numbers_of(self.graph.functions)[0]

    def at(self, sizes: Sequence[int]) -> Module:
        """The graph; raises :class:`ConcatcError` where an op does not take these sizes."""
        functions = with_numbers(self.graph.functions, self.numbers.at(sizes).tolist())
        module = Module(self.graph.sym_name, functions, self.graph.attributes)
        verify(module)
        return module


@dataclass(frozen=True)
class ScaledPhase:
    """All that running one phase of a net at other sizes needs.  ``starts`` are where its blocks lie here."""

    graph: ScaledGraph
    slots: ScaledSlots
    layout: Layout
    step: ScaledStep
    starts: Ints

    def is_at_home(self, interface: Interface, table: StepNumbers) -> bool:
        """Whether slots and table here are these."""
        here = list(self.here.values())
        at_here = replace(self.layout.at(here), starts=self.starts)
        slots = self.slots.at(here, at_here)
        if (slots.slots, slots.bases) != (interface.slots, interface.bases):
            return False
        return self.step.is_at(here, at_here, table)

    @property
    def here(self) -> Sizes:
        """The dims that may vary, as they are."""
        return self.graph.here


def scaled_plan(
    here: Sizes, plan: Plan, interface: Interface, samples: Sequence[tuple[Sizes, SampledPhase]]
) -> ScaledPlan:
    """The plan at any sizes."""
    taken = [PlanSample(dims, phase.stacked, phase.slots.as_planned(phase.stacked)) for dims, phase in samples]
    return ScaledPlan(here, plan, interface, taken, scratch_pieces, _placed)


def _placed(lives: Sequence[tuple[int, int, int]]) -> list[int]:
    return assign_offsets([Lifetime(*life) for life in lives])[0]


def scaled_phase(
    graph: ScaledGraph, plan: ScaledPlan, loops: Module, samples: Sequence[tuple[Sizes, SampledPhase]]
) -> ScaledPhase:
    """A phase at any sizes, from its plan and loops here; raises :class:`NotScalableError`."""
    kernels = numbers_of(_kernels(loops))
    if any(numbers_of(_kernels(phase.stacked_loops)) != kernels for _, phase in samples):
        raise NotScalableError("other code at other sizes")
    sizes = [[dims[name] for name in graph.here] for dims, _ in samples]
    taken = [
        StepSample(
            dims,
            step_table(phase.stacked_loops),
            phase.stacked_chunked,
            phase.stacked.launches,
            blocks,
            plan.layout.at(at).scratch,
        )
        for (dims, phase), blocks, at in zip(samples, plan.blocks, sizes, strict=True)
    ]
    table = step_table(loops)
    made = ScaledPhase(graph, plan.slots, plan.layout, scaled_step(graph.here, table, taken), plan.starts)
    if not made.is_at_home(plan.interface, made.step.table):
        raise NotScalableError("slots or launches that do not follow from the dims")
    return made


def _kernels(loops: Module) -> list[FuncOp]:
    return [f for f in loops.functions[1:] if f.declared is None]


class TableExecutable(Executable, Protocol):
    """Code that runs a table of launches."""

    table: StepNumbers

    def with_table(self, table: StepNumbers) -> Executable:
        """The same code with another table, of the same kernels."""
        ...


class Scalable(Source, Protocol):
    """A net that says how it is at other sizes."""

    def scaled(self, phase: Phase) -> ScaledPhase | None:
        """The phase at any sizes; None where it must be compiled for each."""
        ...

    def scaled_plan(self, phase: Phase) -> ScaledPlan:
        """The plan at any sizes, of a phase that is scaled; to be read, not to be run."""
        ...


class RescaledPhase(OfGraph):
    """One phase at other dims.  What is run is there at once; levels are made when they are asked for."""

    def __init__(self, source: Rescaled, phase: Phase, scaled: ScaledPhase) -> None:
        self.phase = phase
        self.update: Plan | None = None
        self._source = source
        self._scaled = scaled
        self._at = {name: source.sizes[name] for name in scaled.here}
        self._sizes = list(self._at.values())
        self._graph = scaled.graph.at(self._sizes)

    @property
    def graph(self) -> Module:
        """Level 00."""
        return self._graph

    @cached_property
    def addresses(self) -> Addresses:
        """Where values lie."""
        return self._scaled.layout.at(self._sizes)

    @cached_property
    def table(self) -> StepNumbers:
        """The launches, with the numbers of these dims."""
        return self._scaled.step.at(self._sizes, self.addresses)

    @cached_property
    def interface(self) -> Interface:
        """Where arguments and results live."""
        return self._scaled.slots.at(self._sizes, self.addresses)

    @property
    def arena_bytes(self) -> int:
        """The size of the arena."""
        return self.addresses.size_bytes["arena"]

    @cached_property
    def plan(self) -> Plan:
        """Level 05: what is run."""
        plan = self._source.base.scaled_plan(self.phase).at(self._source.sizes, self.addresses)
        if plan.net is not None:
            declare_staged(plan.net, self.interface)
            state_index_checks(plan.net, self.index_checks)
        return plan

    @property
    def loops(self) -> Module:
        """Level 06: the code that is run, at the sizes that it was compiled with."""
        return self._source.base.phase(self.phase).loops

    @property
    def joint(self) -> Module:
        """Level 02, as the net has it when it is compiled for these dims."""
        return self._source.compiled.phase(self.phase).joint

    @property
    def kernels(self) -> Module:
        """Level 04, as the net has it when it is compiled for these dims."""
        return self._source.compiled.phase(self.phase).kernels

    def dump(self, level: str, style: Style = READING, blob: str | None = None) -> str:
        """The text of a level: plan and loops as they are run, the others as they are compiled for these dims."""
        if blob is None and level in ("plan", "05"):
            head = comments(plan_report(self.plan)) if style.comments else ""
            return head + dump_text(module_of(self.plan), style)
        if blob is None and level in ("loops", "06"):
            dims = [", ".join(f"{name} = {n}" for name, n in at.items()) for at in (self._scaled.here, self._at)]
            head = f"// the code of {dims[0]}, which runs at {dims[1]} with the numbers of that plan\n"
            return (head if style.comments else "") + dump_text(self.loops, style)
        return self._source.compiled.phase(self.phase).dump(level, blob=blob)


class Rescaled:
    """A net at other dims, on the code that another source compiled."""

    def __init__(self, base: Scalable, dims: Mapping[str, Dim]) -> None:
        self.base = base
        self.dims: dict[str, Dim] = {**base.dims, **dims}
        self.name = base.name
        self._phases: dict[Phase, RescaledPhase | None] = {}
        self._executables: dict[tuple[Phase, tuple[object, ...] | None], Executable] = {}
        self._compiled_apart: set[tuple[Phase, tuple[object, ...] | None]] = set()  # code that is not the base's

    @property
    def sizes(self) -> dict[str, int]:
        """The dims that are integers."""
        return {name: n for name, n in self.dims.items() if isinstance(n, int) and not isinstance(n, bool)}

    @property
    def target(self) -> Target:
        """What runs it."""
        return self.base.target

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that can be run."""
        return self.base.phases

    @property
    def no_inference(self) -> Diagnostic | None:
        """Why the net has no inference, if so."""
        return self.base.no_inference

    @cached_property
    def compiled(self) -> Source:
        """The net compiled for these dims."""
        return self.base.with_dims(self.dims)

    def phase(self, phase: Phase) -> LoweredPhase:
        """The net in one phase: rescaled, or compiled where that cannot be (an error then says why not)."""
        return self._rescaled(phase) or self.compiled.phase(phase)

    def executable(self, phase: Phase, update: Update | None) -> Executable:
        """The code of the base with another table; with an update, the rows of the base's update behind it."""
        key = (phase, update.key if update is not None else None)
        if key not in self._executables:
            built = self._built(phase, update)
            if built is None:
                self._compiled_apart.add(key)
            self._executables[key] = built or self.compiled.executable(phase, update)
        return self._executables[key]

    def interface(self, phase: Phase, update: Update | None) -> Interface:
        """Where that code has arguments and results."""
        self.executable(phase, update)
        if (phase, update.key if update is not None else None) in self._compiled_apart:
            return self.compiled.interface(phase, update)
        return self.phase(phase).interface

    def at(self, dims: Mapping[str, Dim], phase: Phase) -> Source | None:
        """The same net at yet other dims."""
        return self.base.at(dims, phase)

    def with_dims(self, dims: Mapping[str, Dim]) -> Source:
        """The same net compiled for other dims."""
        return self.base.with_dims(dims)

    def _rescaled(self, phase: Phase) -> RescaledPhase | None:
        if phase not in self._phases:
            scaled = self.base.scaled(phase)
            try:
                self._phases[phase] = RescaledPhase(self, phase, scaled) if scaled is not None else None
            except (ConcatcError, NotScalableError):
                self._phases[phase] = None  # compiling it says what is wrong, and where in the source
        return self._phases[phase]

    def _built(self, phase: Phase, update: Update | None) -> Executable | None:
        rescaled = self._rescaled(phase)
        if rescaled is None:
            return None
        # Only targets that run tables are scaled.
        code, table = cast(TableExecutable, self.base.executable(phase, update)), rescaled.table
        count = len(table.kernels)
        names = [name for name, _ in table.bases]
        if code.table.kernels[:count] != table.kernels or [n for n, _ in code.table.bases][: len(names)] != names:
            return None
        return code.with_table(table if update is None else table.followed_by(code.table, "update"))
