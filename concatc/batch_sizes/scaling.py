"""Finds out how a net follows from its batch sizes: looks at it once more, at a very large batch.

    net at n = 64: graph, plan, loops          ->   `rescale.ScaledPhase`, or why there is none
    net at n = 67108859: graph, plan, loops

That look is no shorter than planning the net, so another process may take it meanwhile (`sampling.py`).  Nothing is
compiled at the large batch, and no memory is taken.  With two batch sizes (`x`, `y`) the net is looked at
three more times: with each of them large, and with both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

from concatc.batch_sizes.graph import ScaledGraph, Sizes
from concatc.batch_sizes.known_sizes import AtHome
from concatc.batch_sizes.rescale import ScaledPhase
from concatc.batch_sizes.row_by_row import is_row_by_row
from concatc.batch_sizes.sampled import PhaseSample, SampledPhase, SampleHere, scaled_phase, scaled_plan
from concatc.batch_sizes.store import ScaledStore
from concatc.collector import collector_paused
from concatc.diagnostics import ConcatcError
from concatc.ir.core import Module
from concatc.ir.numbers import digest_of
from concatc.loops.bases import Interface
from concatc.loops.declaration import plain_declaration
from concatc.loops.plan import Plan
from concatc.loops.polynomials import NotScalableError
from concatc.loops.scaled_plan import ScaledPlan
from concatc.runtime.signature import signature_of
from concatc.runtime.source import Dim, Phase
from concatc.stages import stage
from concatc.targets.cache import Cache
from concatc.targets.cpu.step import StepNumbers
from concatc.targets.cpu.step_table import step_table

# Far above every coefficient of a net's numbers, and below what its tensors may hold: the first at which the net can be
# made is taken.  Odd, so that no half of one is an integer.
LARGE = ((67108859, 67108837), (8388593, 8388587), (1048573, 1048571))
MOST_DIMS = 2
Samples = Sequence[tuple[Sizes, PhaseSample]]
L = TypeVar("L")


class LookedAtPhase(SampledPhase, AtHome, Protocol):
    """One phase of the net here, or at other dims."""

    @property
    def interface(self) -> Interface:
        """Where arguments and results live."""
        ...

    @property
    def net_plan(self) -> Plan:
        """Level 05."""
        ...

    @property
    def net_loops(self) -> Module:
        """Level 06."""
        ...


class LookedAt(Protocol):
    """A net at some dims."""

    @property
    def dims(self) -> Mapping[str, Dim]:
        """The value of every dim."""
        ...

    @property
    def settings(self) -> object:
        """What plans depend on besides the graph; its ``repr`` says it all."""
        ...

    def phase(self, phase: Phase) -> LookedAtPhase:
        """One phase."""
        ...

    def decisions(self, phase: Phase) -> list[tuple[Any, ...]]:
        """The numbers that decided something when the net was made (`frontend.cnet.load`)."""
        ...

    def look_at(self, dims: Mapping[str, Dim]) -> LookedAt:
        """The same net at other dims, to be looked at only."""
        ...


class Scaling:
    """How the phases of a net follow from its batch sizes."""

    def __init__(self, net: LookedAt, cache: Cache) -> None:
        self.net = net
        self._cache = cache
        self.reasons: dict[Phase, str] = {}  # why a phase does not follow
        self.entries: dict[Phase, str] = {}  # where the cache holds how a phase follows
        self._phases: dict[Phase, ScaledPhase | None] = {}
        self._plans: dict[Phase, ScaledPlan] = {}
        self._found: dict[Phase, tuple[str, Samples]] = {}
        # What another process finds out, which ends in None where it does not.
        self.asked: dict[Phase, Callable[[], tuple[str, Samples] | None]] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The batch sizes: dims that are axis 0 of an input, alone."""
        inputs = signature_of(self.net.phase("train").graph.main).inputs.values()
        names = dict.fromkeys(spec.dims[0] for spec in inputs if spec.dims and spec.dims[0])
        return tuple(names)[:MOST_DIMS]

    @property
    def here(self) -> dict[str, int]:
        """Their values."""
        return {name: n for name in self.names if isinstance(n := self.net.dims[name], int)}

    def knows(self, phase: Phase) -> bool:
        """Whether the net was looked at for a phase."""
        return phase in self._phases or phase in self._found

    def phase(self, phase: Phase) -> ScaledPhase | None:
        """The phase at any batch size; None where it must be compiled for each, and :attr:`reasons` says why."""
        if phase not in self._phases:
            try:
                with stage("other batch sizes"), collector_paused():
                    self._phases[phase] = self._scaled(phase)
            except (NotScalableError, ConcatcError) as error:
                self.reasons[phase] = str(error)
                self._phases[phase] = None
        return self._phases[phase]

    def plan(self, phase: Phase) -> ScaledPlan:
        """The plan at any batch size."""
        if phase not in self._plans:
            mine = self.net.phase(phase)
            plan = replace(mine.net_plan, net=_plain(mine.net_plan))
            self._plans[phase] = scaled_plan(self.here, plan, mine.interface, self._samples(phase)[1])
        return self._plans[phase]

    def _scaled(self, phase: Phase) -> ScaledPhase:
        if not self.names:
            raise NotScalableError("no dim is the first axis of an input")
        mine, (decisions, samples) = self.net.phase(phase), self._samples(phase)
        if decisions != decisions_of(phase, [self.net] * len(samples)):
            raise NotScalableError("the net decides something by its batch size")
        graph = ScaledGraph.of(self.here, mine.graph, [(dims, sample.graph) for dims, sample in samples])
        table = StepNumbers.of(step_table(mine.net_loops))
        graphs = [graph.numbers.at(list(self.here.values())).tolist(), *(sample.graph for _, sample in samples)]
        store = ScaledStore(self._cache, (phase, self.net.settings, self.here, graphs, mine.interface.slots))
        self.entries[phase] = store.key
        known = store.load(graph, mine.interface, table, mine.signature.loss_weights)
        if known is not None:
            return known
        try:
            made = scaled_phase(graph, mine, self.plan(phase), mine.net_loops, samples)
            if phase == "infer" and len(self.names) == 1:
                made = replace(made, by_rows=is_row_by_row(mine.graph.main, self.names[0]))
        except NotScalableError as error:
            store.save(str(error))
            raise
        store.save(made)
        return made

    def _samples(self, phase: Phase) -> tuple[str, Samples]:
        if phase not in self._found:
            asked = self.asked.pop(phase, None)
            self._found[phase] = (asked() if asked is not None else None) or samples_of(phase, self.looked_at)
        return self._found[phase]

    @cached_property
    def looked_at(self) -> list[tuple[Sizes, LookedAt]]:
        """The net at large values of each dim alone, and of all where there are several."""
        return at_large(self.here, lambda dims: self.net.look_at({**self.net.dims, **dims}))


def at_large(here: Mapping[str, int], look_at: Callable[[Mapping[str, int]], L]) -> list[tuple[Sizes, L]]:
    """A net at large values of each of its batch sizes alone, and of all where there are several."""

    def look(values: Sequence[int]) -> list[tuple[Sizes, L]]:
        large = dict(zip(here, values, strict=False))
        choices = [{**here, name: large[name]} for name in here]
        if len(here) > 1:
            choices.append(large)
        return [(dims, look_at(dims)) for dims in choices]

    for values in LARGE[:-1]:
        try:
            return look(values)
        except ConcatcError:
            continue  # it has a tensor that is too large
    return look(LARGE[-1])


def samples_of(phase: Phase, looked_at: Sequence[tuple[Sizes, LookedAt]]) -> tuple[str, Samples]:
    """What decided when these nets were made, and what they say of a phase."""
    samples: Samples = [(dims, SampleHere(net.phase(phase))) for dims, net in looked_at]
    return decisions_of(phase, [net for _, net in looked_at]), samples


def decisions_of(phase: Phase, nets: Sequence[LookedAt]) -> str:
    """A digest of the numbers that decided something when a phase of each of these was made."""
    return digest_of([net.decisions(phase) for net in nets])


def _plain(plan: Plan) -> Any:
    return plain_declaration(plan.net) if plan.net is not None else None
