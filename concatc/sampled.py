"""A phase at any batch size, from what it is at some: graph, plan, loops and slots of samples become polynomials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from concatc.ir.core import FuncOp, Module
from concatc.ir.numbers import numbers_of
from concatc.known_sizes import AtHome, known_sizes
from concatc.loops.bases import Interface
from concatc.loops.plan import Plan
from concatc.loops.polynomials import NotScalableError
from concatc.loops.scaled_plan import PlanSample, ScaledPlan
from concatc.passes.arena import Lifetime, assign_offsets
from concatc.passes.lower_to_loops import scratch_pieces
from concatc.rescale import ScaledPhase
from concatc.scaled_graph import ScaledGraph
from concatc.scaled_weights import ScaledWeights
from concatc.targets.cpu.scaled_step import StepSample, scaled_step
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


def scaled_plan(
    here: Sizes, plan: Plan, interface: Interface, samples: Sequence[tuple[Sizes, SampledPhase]]
) -> ScaledPlan:
    """The plan at any sizes."""
    taken = [PlanSample(dims, phase.stacked, phase.slots.as_planned(phase.stacked)) for dims, phase in samples]
    return ScaledPlan(here, plan, interface, taken, scratch_pieces, _placed)


def _placed(lives: Sequence[tuple[int, int, int]]) -> list[int]:
    return assign_offsets([Lifetime(*life) for life in lives])[0]


def scaled_phase(
    graph: ScaledGraph, home: AtHome, plan: ScaledPlan, loops: Module, samples: Sequence[tuple[Sizes, SampledPhase]]
) -> ScaledPhase:
    """A phase at any sizes, from what it is at ``home``, its plan and its loops there.

    Raises :class:`NotScalableError`.
    """
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
    weights = ScaledWeights.of(graph.here, graph.graph.main, [(dims, phase.graph.main) for dims, phase in samples])
    made = ScaledPhase(graph, plan.slots, plan.layout, scaled_step(graph.here, table, taken), weights, plan.starts)
    if not made.is_at_home(plan.interface, made.step.table, home.signature.loss_weights):
        raise NotScalableError("slots or launches that do not follow from the dims")
    return replace(made, known=known_sizes(graph, home, partial(made.signature_at, home.signature), sizes[-1]))


def _kernels(loops: Module) -> list[FuncOp]:
    return [f for f in loops.functions[1:] if f.declared is None]
