"""A phase at any batch size, from what it is at some: graph, plan, loops and slots of samples become polynomials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

from concatc.batch_sizes.graph import ScaledGraph
from concatc.batch_sizes.known_sizes import AtHome, known_sizes
from concatc.batch_sizes.rescale import ScaledPhase
from concatc.batch_sizes.weights import ScaledWeights, made_of_dims
from concatc.ir.core import FuncOp, Module
from concatc.ir.numbers import Numbered, digest_of, numbers_of
from concatc.loops.bases import Interface
from concatc.loops.plan import Plan
from concatc.loops.polynomials import NotScalableError
from concatc.loops.scaled_plan import PlanSample, ScaledPlan
from concatc.loss_weights import Terms
from concatc.passes.arena import Lifetime, assign_offsets
from concatc.passes.lower_to_loops import scratch_pieces
from concatc.targets.cpu.scaled_step import StepSample, scaled_step
from concatc.targets.cpu.step_table import step_table

Sizes = Mapping[str, int]


class SampledPhase(Protocol):
    """One phase of a net at dims at which it is looked at, as a compilation has it."""

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


class PhaseSample(Protocol):
    """What one phase at some dims says of how the net follows from its dims.

    ``code`` is a digest of its kernels.  What is read raises :class:`NotScalableError` where it says nothing.
    """

    @property
    def graph(self) -> Numbered:
        """Level 00."""
        ...

    @property
    def weights(self) -> Mapping[str, Terms]:
        """The weights of losses that are made of dims."""
        ...

    @property
    def plan(self) -> PlanSample:
        """Level 05."""
        ...

    @property
    def code(self) -> str:
        """The kernels of level 06."""
        ...

    @property
    def step(self) -> StepSample:
        """The step of level 06."""
        ...


class SampleHere:
    """The sample of a phase that this process makes, as far as somebody asks."""

    def __init__(self, phase: SampledPhase) -> None:
        self._phase = phase

    @cached_property
    def graph(self) -> Numbered:
        """Level 00."""
        return Numbered.of(self._phase.graph.functions)

    @property
    def weights(self) -> Mapping[str, Terms]:
        """The weights of losses that are made of dims."""
        return made_of_dims(self._phase.graph.main)

    @cached_property
    def plan(self) -> PlanSample:
        """Level 05."""
        stacked = self._phase.stacked
        return PlanSample.of(stacked, self._phase.slots.as_planned(stacked), scratch_pieces)

    @cached_property
    def code(self) -> str:
        """The kernels of level 06."""
        return _code_of(self._phase.stacked_loops)

    @cached_property
    def step(self) -> StepSample:
        """The step of level 06."""
        table = step_table(self._phase.stacked_loops)
        return StepSample.of(table, self._phase.stacked_chunked, self._phase.stacked.launches, self.plan.blocks)


@dataclass(frozen=True)
class SampleData:
    """A sample that another process made."""

    graph: Numbered
    weights: Mapping[str, Terms]
    plan: PlanSample
    code: str
    step: StepSample


def scaled_plan(
    here: Sizes, plan: Plan, interface: Interface, samples: Sequence[tuple[Sizes, PhaseSample]]
) -> ScaledPlan:
    """The plan at any sizes."""
    taken = [(dims, sample.plan) for dims, sample in samples]
    return ScaledPlan(here, plan, interface, taken, scratch_pieces, _placed)


def _placed(lives: Sequence[tuple[int, int, int]]) -> list[int]:
    return assign_offsets([Lifetime(*life) for life in lives])[0]


def scaled_phase(
    graph: ScaledGraph, home: AtHome, plan: ScaledPlan, loops: Module, samples: Sequence[tuple[Sizes, PhaseSample]]
) -> ScaledPhase:
    """A phase at any sizes, from what it is at ``home``, its plan and its loops there.

    Raises :class:`NotScalableError`.
    """
    code = _code_of(loops)
    if any(sample.code != code for _, sample in samples):
        raise NotScalableError("other code at other sizes")
    sizes = [[dims[name] for name in graph.here] for dims, _ in samples]
    taken = [(dims, sample.step, plan.layout.at(at).scratch) for (dims, sample), at in zip(samples, sizes, strict=True)]
    step = scaled_step(graph.here, step_table(loops), plan.plan.launches, taken)
    weights = ScaledWeights.of(graph.here, graph.graph.main, [(dims, sample.weights) for dims, sample in samples])
    made = ScaledPhase(graph, plan.slots, plan.layout, step, weights, plan.starts)
    if not made.is_at_home(plan.interface, made.step.table, home.signature.loss_weights):
        raise NotScalableError("slots or launches that do not follow from the dims")
    return replace(made, known=known_sizes(graph, home, partial(made.signature_at, home.signature), sizes[-1]))


def _code_of(loops: Module) -> str:
    kernels: list[FuncOp] = [f for f in loops.functions[1:] if f.declared is None]
    return digest_of(numbers_of(kernels))
