"""A net at another batch size: a new plan over the same code, without compiling and without a parser.

    net at n = 64: slots, table of launches    ->    net at n = 7: the same kernels with other numbers

A net is planned twice: at its own dims, and at a batch so large that every number shows how it follows from the dims
(`scaling.py`, `loops/polynomials.py`).  Where both are one plan of two sizes, every number is a polynomial, and memory
is laid out anew for any size (`loops/scaled_layout.py`).  Where they are not (a net that decides by its batch size, an
order that pays off for large batches only) the net is compiled for each size as if it were another one.

What runs needs no graph, no op and no pass at the sizes of `known_sizes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, cast

from concatc.batch_sizes.graph import ScaledGraph, Sizes
from concatc.batch_sizes.in_portions import in_portions
from concatc.batch_sizes.known_sizes import KnownSizes, index_checks_at, signature_at
from concatc.batch_sizes.weights import ScaledWeights
from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.loops.bases import Interface
from concatc.loops.polynomials import Ints, NotScalableError
from concatc.loops.scaled_layout import Addresses, Layout
from concatc.loops.scaled_slots import ScaledSlots
from concatc.runtime.index_check import IndexCheck
from concatc.runtime.signature import Signature, signature_of
from concatc.runtime.source import Dim, LoweredPhase, Phase, Source, Update
from concatc.targets import Executable, Target
from concatc.targets.cpu.scaled_step import ScaledStep
from concatc.targets.cpu.step import StepNumbers

if TYPE_CHECKING:
    from concatc.ir.core import Module
    from concatc.ir.printer import Style
    from concatc.loops.plan import Plan
    from concatc.loops.scaled_plan import ScaledPlan


@dataclass(frozen=True)
class ScaledPhase:
    """All that running one phase of a net at other sizes needs.

    ``starts`` are where its blocks lie here, ``known`` the sizes at which its graph need not be looked at.
    ``by_rows``: each row of its results is made of the same row of its inputs alone (`row_by_row.py`).
    """

    graph: ScaledGraph
    slots: ScaledSlots
    layout: Layout
    step: ScaledStep
    weights: ScaledWeights
    starts: Ints
    known: KnownSizes | None = None
    by_rows: bool = False

    def is_at_home(self, interface: Interface, table: StepNumbers, loss_weights: Mapping[str, float]) -> bool:
        """Whether slots, table and weights of losses here are these."""
        here = list(self.here.values())
        at_here = replace(self.layout.at(here), starts=self.starts)
        slots = self.slots.at(here, at_here)
        if (slots.slots, slots.bases) != (interface.slots, interface.bases):
            return False
        return self.step.is_at(here, at_here, table) and self.weights.are_at(here, loss_weights)

    def interface_at(self, sizes: Sequence[int]) -> Interface:
        """Where arguments and results lie."""
        return self.slots.at(sizes, self.layout.at(sizes))

    def knows(self, dims: Sizes) -> bool:
        """Whether nobody has to look at the graph at these dims."""
        return self.known is not None and self.known.holds([dims[name] for name in self.here])

    def signature_at(self, signature: Signature, sizes: Sequence[int]) -> Signature:
        """What the net takes and gives, where ``signature`` says it here."""
        return signature_at(signature, self.interface_at(sizes), self.weights.at(sizes))

    @property
    def here(self) -> Sizes:
        """The dims that may vary, as they are."""
        return self.graph.here


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


class RescaledPhase:
    """One phase at other dims.  What is run is there at once; levels are made when they are asked for.

    Raises :class:`ConcatcError` where an op does not take these sizes.
    """

    def __init__(self, source: Rescaled, phase: Phase, scaled: ScaledPhase) -> None:
        self.phase = phase
        self.update: Plan | None = None
        self._source = source
        self._scaled = scaled
        self._at = {name: source.sizes[name] for name in scaled.here}
        self._sizes = list(self._at.values())
        self._is_known = scaled.knows(self._at)
        self._loss_weights = scaled.weights.at(self._sizes)  # which may have no value here
        if not self._is_known:
            _ = self.graph, self.interface  # which have no sizes that the numbers of a launch do not hold

    @cached_property
    def graph(self) -> Module:
        """Level 00."""
        return self._scaled.graph.at(self._sizes)

    @cached_property
    def signature(self) -> Signature:
        """What the net takes and gives."""
        if self._is_known:
            return signature_at(self._home.signature, self.interface, self._loss_weights)
        return signature_of(self.graph.main)

    @cached_property
    def index_checks(self) -> Sequence[IndexCheck]:
        """What labels and indices must be."""
        if self._is_known:
            return index_checks_at(self._home.index_checks, self._home.signature, self.signature)
        from concatc.runtime.bounds import index_checks  # it knows ops, which what is known does not need

        return index_checks(self.graph.main)

    @property
    def _home(self) -> LoweredPhase:
        return self._source.base.phase(self.phase)

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
        from concatc.loops.declaration import declare_staged
        from concatc.runtime.index_check import state_index_checks

        plan = self._source.base.scaled_plan(self.phase).at(self._source.sizes, self.addresses)
        if plan.net is not None:
            declare_staged(plan.net, self.interface)
            state_index_checks(plan.net, self.index_checks)
        return plan

    @property
    def loops(self) -> Module:
        """Level 06: the code that is run, at the sizes that it was compiled with."""
        return self._home.loops

    @property
    def joint(self) -> Module:
        """Level 02, as the net has it when it is compiled for these dims."""
        return self._source.compiled.phase(self.phase).joint

    @property
    def kernels(self) -> Module:
        """Level 04, as the net has it when it is compiled for these dims."""
        return self._source.compiled.phase(self.phase).kernels

    def dump(self, level: str, style: Style | None = None, blob: str | None = None) -> str:
        """The text of a level: plan and loops as they are run, the others as they are compiled for these dims."""
        from concatc.inspect.memory import plan_report
        from concatc.inspect.memory_text import comments
        from concatc.loops.plan_text import module_of
        from concatc.passes.dumps import READING, dump_text

        style = style or READING
        if blob is None and level in ("plan", "05"):
            head = comments(plan_report(self.plan)) if style.comments else ""
            return head + dump_text(module_of(self.plan), style)
        if blob is None and level in ("loops", "06"):
            dims = [", ".join(f"{name} = {n}" for name, n in at.items()) for at in (self._scaled.here, self._at)]
            head = f"// the code of {dims[0]}, which runs at {dims[1]} with the numbers of that plan\n"
            return (head if style.comments else "") + dump_text(self.loops, style)
        return self._source.compiled.phase(self.phase).dump(level, blob=blob)


def rescaled(net: Scalable, dims: Mapping[str, Dim], phase: Phase) -> Rescaled | None:
    """The net at other batch sizes, on the same code; None where it must be compiled."""
    changed = {name: n for name, n in dims.items() if net.dims.get(name) != n}
    if any(type(n) is not int or n < 1 for n in changed.values()):
        return None
    scaled = net.scaled(phase)
    return Rescaled(net, dims) if scaled is not None and changed.keys() <= scaled.here.keys() else None


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
            code = built or self.compiled.executable(phase, update)
            if built is not None:
                scaled, home = self.base.scaled, self.phase(phase)
                code = in_portions(code, phase, lambda: scaled(phase), lambda: home.interface)
            self._executables[key] = code
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
            if scaled is not None and not scaled.knows(self.sizes):
                _ = scaled.graph.graph  # it is read: that it is damaged is no reason to compile it
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
