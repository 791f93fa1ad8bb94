"""One phase of a net through the levels: each is made from the one before when it is first asked for.

The passes of each level stand in :data:`PIPELINES`; `docs/ARCHITECTURE.md` says what each level holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

from concatc.collector import collector_paused
from concatc.diagnostics import Diagnostic, UsageError
from concatc.inspect.level_text import level_text
from concatc.inspect.over_budget import over_budget
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.ir.levels import LEVELS
from concatc.ir.passes import Pass, PassManager, Timing
from concatc.ir.printer import Style
from concatc.loops.bases import Interface, interface_of
from concatc.loops.declaration import declaration_of, plain_declaration
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of
from concatc.options import Options
from concatc.passes.average_first import AverageFirst
from concatc.passes.avoid_copies import AvoidCopies
from concatc.passes.canonicalize import Canonicalize
from concatc.passes.check_plan import verify_plan
from concatc.passes.choose_algorithms import ChooseAlgorithms, has_algorithms
from concatc.passes.choose_recompute import ChooseRecompute
from concatc.passes.concat_algebra import ConcatAlgebra
from concatc.passes.cse import Cse
from concatc.passes.dce import Dce
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.dumps import READING
from concatc.passes.fit_budget import Candidate, Search, budget_attribute, fit_budget, planned_bytes
from concatc.passes.fold_batch_norm import FoldBatchNorm
from concatc.passes.freeze import frozen
from concatc.passes.fuse import Fuse
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.join_rows import JoinRows
from concatc.passes.keep_outputs import KeepOutputs
from concatc.passes.lower_to_loops import LowerToLoops, lower_to_loops
from concatc.passes.merge_branches import MergeBranches
from concatc.passes.order_kernels import OrderKernels
from concatc.passes.placement import may_stage_inputs
from concatc.passes.plan_memory import PlanMemory
from concatc.passes.stats_grad_of_sums import StatsGradOfSums
from concatc.passes.stats_over_concat import StatsOverConcat
from concatc.passes.verify import verify
from concatc.plan_trial import try_plan, try_update
from concatc.runtime.index_check import state_index_checks
from concatc.runtime.phases import ByLevel, OfGraph
from concatc.runtime.source import Phase

R = TypeVar("R")
RUN_PLANS = ("cpu",)

SIMPLIFY: tuple[Pass, ...] = (Canonicalize(), ConcatAlgebra(), Cse(), Dce())


def pipeline(options: Options, graph: Module) -> dict[str, tuple[Pass, ...]]:
    """The passes that make each graph level of the training phase from the one before."""
    net = graph.main
    derive = DeriveBackward(options.output_grads, options.input_grads, frozen(net))
    has_backward = bool(net.returned("total")) or bool(options.output_grads)
    # Branches of one blob would need copies of weights and a third more memory, for 2% of time (docs/PASSES.md).
    join = JoinRows(), MergeBranches(branches=False)
    return {
        "graph": (),
        "split": (InsertSplits(),),
        "joint": (*SIMPLIFY, AverageFirst(), *join, StatsOverConcat(), derive) if has_backward else (),
        # Behind every cse, which would merge what is recomputed with what it stands for.
        "optimized": (*SIMPLIFY, StatsGradOfSums(), ChooseRecompute(options.recompute)),
        "kernels": (Fuse(), OrderKernels(), AvoidCopies(), *_algorithms(options)),
    }


def _algorithms(options: Options) -> tuple[Pass, ...]:
    """The choice of algorithms; none for a target that computes ops as they are."""
    if options.target not in RUN_PLANS:
        return ()
    return (ChooseAlgorithms(options.precision),)


def inference_pipeline(options: Options, graph: Module) -> dict[str, tuple[Pass, ...]]:
    """The same for the inference phase: forward only, and only what the outputs depend on."""
    joint = (*SIMPLIFY, AverageFirst(), FoldBatchNorm(), JoinRows(keeps=False))
    return {**pipeline(options, graph), "graph": (KeepOutputs(),), "joint": joint, "optimized": SIMPLIFY}


PIPELINES = {"train": pipeline, "infer": inference_pipeline}


class Lowering(ByLevel, OfGraph):
    """One phase of a net at every level; a level is made from the one before when it is first asked for."""

    def __init__(self, graph: Module, phase: Phase, options: Options, like: Callable[[], Interface] | None) -> None:
        self.phase = phase
        self.update: Plan | None = None
        self._options = options
        self._like = like
        self._passes = PIPELINES[phase](options, graph)
        self.timings: list[Timing] = []
        self.stacked_chunked: list[tuple[int, int]] = []
        self.checked: list[str] = []  # what was checked of plans, where that is asked for
        self._update_bytes = 0  # what an optimizer holds
        self._is_settled = options.max_memory is None
        self._refusal: Diagnostic | None = None  # why no plan keeps the budget
        self._levels: dict[str, Module] = {"graph": graph}
        self._run(graph, self._passes["graph"])

    @property
    def graph(self) -> Module:
        """Level 00."""
        return self._levels["graph"]

    @property
    def pass_names(self) -> list[str]:
        """The passes of the pipeline, in order, each once."""
        return list(dict.fromkeys(step.name for passes in self._passes.values() for step in passes))

    @cached_property
    def interface(self) -> Interface:
        """Where arguments and results live; inputs that the plan has in concats lie there."""
        return self.slots.as_planned(self.net_plan) if self._stages else self.slots

    @cached_property
    def slots(self) -> Interface:
        """Where arguments and results live if no input is a part of something else."""
        return interface_of(self.joint.main, self._like() if self._like is not None else None)

    @cached_property
    def _stages(self) -> bool:
        """Whether inputs may lie outside of their slots: where a plan is run."""
        return self._options.target in RUN_PLANS and may_stage_inputs(self.joint.main)

    @cached_property
    def plan(self) -> Plan:
        """Level 05 as data."""
        if self.update is None:
            return self.net_plan
        plan = merge_plans(self.net_plan, self.update)
        if self._options.verify_plan:
            self.checked.append(try_update(plan))
        return plan

    @property
    def launch_counts(self) -> tuple[int, int]:
        """How many launches a step has, and of how many kernels."""
        return len(self.plan.launches), len(self.plan.kernels)

    @cached_property
    def net_plan(self) -> Plan:
        """The plan without an update.  Raises :class:`UsageError` where no plan keeps the budget."""
        if not self._is_settled:
            self._settle()
            return self.net_plan
        kernels = self.kernels
        plan = self._timed(PlanMemory.name, lambda: self._planned(kernels))
        plan.net = declaration_of(self.kernels.main, self.slots.as_planned(plan))
        state_index_checks(plan.net, self.index_checks)
        if self._options.verify_each:
            verify_plan(plan, self.kernels.main)
        if self._options.verify_plan:
            self.checked.append(try_plan(plan, kernels.main, self.index_checks))
        return plan

    @cached_property
    def loops(self) -> Module:
        """Level 06."""
        return self.net_loops if self.update is None else self._lowered(self.plan)

    @cached_property
    def net_loops(self) -> Module:
        """The loops without an update."""
        return self._lowered(self.net_plan)

    @property
    def arena_bytes(self) -> int:
        """The size of the arena."""
        arena = self.plan.bases.get("arena")
        return arena.size_bytes if arena is not None else 0

    @cached_property
    def stacked(self) -> Plan:
        """The plan without reuse of memory, which tells its blocks apart."""
        plan = PlanMemory(self.slots, reuse=False, stage=self._stages).plan(self.kernels)
        plan.net = plain_declaration(declaration_of(self.kernels.main, self.slots.as_planned(plan)))
        return plan

    @cached_property
    def stacked_loops(self) -> Module:
        """The loops of that plan."""
        self.stacked_chunked.clear()
        return lower_to_loops(self.stacked, self.stacked_chunked)

    def level(self, name: str) -> Module:
        """The module of a level."""
        if name == "plan":
            return module_of(self.plan)
        if name == "loops":
            return self.loops
        if name in ("optimized", "kernels"):
            self._settle()
        if name not in self._levels:
            module = clone_module(self.level(LEVELS[LEVELS.index(name) - 1]))
            self._run(module, self._passes[name])
            self._levels[name] = module
        return self._levels[name]

    def with_update(self, update: Plan) -> Lowering:
        """The same net; its plan ends in the launches of ``update``."""
        lowering = copy(self)  # shares the levels
        lowering.update = update
        lowering.__dict__.pop("plan", None)
        lowering.__dict__.pop("loops", None)
        limit = self._options.max_memory
        if limit is None:
            return lowering
        lowering._update_bytes = planned_bytes(lowering.plan) - planned_bytes(self.net_plan)
        if planned_bytes(lowering.plan) > limit:
            # Another choice leaves room for what the optimizer holds.
            lowering._choose(PIPELINES[self.phase](self._options, self.graph))
            lowering._is_settled = False
            lowering._refusal = None
        return lowering

    def dump(self, level: str, style: Style = READING, blob: str | None = None) -> str:
        """The text of a level, by name (``split``) or number (``01``), or of one blob's path in it."""
        return level_text(self, level, style, blob)

    def _lowered(self, plan: Plan) -> Module:
        step = LowerToLoops()
        return self._timed(step.name, lambda: step.run(plan))

    def _planned(self, kernels: Module) -> Plan:
        return PlanMemory(self.slots, stage=self._stages).plan(kernels)

    def _settle(self) -> None:
        """Choose what keeps the budget: sums as written, then more recomputation and another order; once."""
        limit = self._options.max_memory
        if self._refusal is not None:
            raise UsageError(self._refusal)
        if self._is_settled or limit is None:
            return
        self._is_settled = True
        default_bytes = planned_bytes(self.net_plan) + self._update_bytes
        need_bytes, chosen = default_bytes, None
        if default_bytes > limit and has_algorithms(self.kernels):
            # What they need besides is scratch memory: without them nothing is computed again.
            self._choose(_as_written(self._passes))
            need_bytes = planned_bytes(self._planned(self.kernels)) + self._update_bytes
        if need_bytes > limit:
            search = self._search(limit - self._update_bytes)
            chosen = search.chosen
            if chosen is None:
                self._refusal = over_budget(self.graph.main, limit, self._update_bytes, self.net_plan, search.least)
                self._choose(self._passes)  # the plan over the budget is forgotten
                self._is_settled = False
                raise UsageError(self._refusal)
            self._choose(_with_choice(self._passes, chosen))
            need_bytes = chosen.need_bytes + self._update_bytes
        noted = budget_attribute(limit, default_bytes, need_bytes, chosen)
        self.kernels.main.attributes["cnet.budget"] = noted
        if "net_plan" in self.__dict__ and self.net_plan.net is not None:  # the plan as it is, made without the note
            self.net_plan.net.attributes["cnet.budget"] = noted

    def _search(self, limit: int) -> Search:
        passes = self._passes["optimized"]
        recompute = next((p for p in passes if isinstance(p, ChooseRecompute)), None)
        graph = clone_module(self.level("joint"))
        for step in passes:
            if step is not recompute:
                step.run(graph)
        order = next(k for k, p in enumerate(self._passes["kernels"]) if isinstance(p, OrderKernels))
        behind = self._passes["kernels"][order + 1 :]

        def plan(kernels: Module) -> Plan:
            for step in behind:
                step.run(kernels)
            return self._planned(kernels)

        return fit_budget(graph, recompute, limit, plan)

    def _choose(self, passes: dict[str, tuple[Pass, ...]]) -> None:
        """Other passes behind level 02; what was made without them is forgotten."""
        self._passes = passes
        self._levels = {name: made for name, made in self._levels.items() if name not in ("optimized", "kernels")}
        for made in ("net_plan", "plan", "net_loops", "loops", "interface"):
            self.__dict__.pop(made, None)

    def _run(self, module: Module, passes: Sequence[Pass]) -> None:
        options = self._options
        manager = PassManager(
            passes,
            verify=verify,
            verify_each=options.verify_each,
            print_after=[p.name for p in passes if p.name in options.print_after],
            print_after_all=options.print_after_all,
            style=READING,
        )
        manager.run(module)
        self.timings += manager.timings

    def _timed(self, name: str, make: Callable[[], R]) -> R:
        start = time.perf_counter_ns()
        with collector_paused():
            made = make()
        self.timings.append(Timing(name, time.perf_counter_ns() - start))
        return made


def _as_written(passes: dict[str, tuple[Pass, ...]]) -> dict[str, tuple[Pass, ...]]:
    """The pipeline without a choice of algorithms."""
    return {**passes, "kernels": tuple(p for p in passes["kernels"] if not isinstance(p, ChooseAlgorithms))}


def _with_choice(passes: dict[str, tuple[Pass, ...]], chosen: Candidate) -> dict[str, tuple[Pass, ...]]:
    """The pipeline that recomputes and orders as a budget chose."""
    optimized = [p for p in passes["optimized"] if not isinstance(p, ChooseRecompute)]
    if chosen.recompute is not None:
        optimized.append(chosen.recompute)
    kernels = [OrderKernels(chosen.order) if isinstance(p, OrderKernels) else p for p in passes["kernels"]]
    return {**passes, "optimized": tuple(optimized), "kernels": tuple(kernels)}


def merge_plans(plan: Plan, update: Plan) -> Plan:
    """The plan, then the launches of an optimizer's update."""
    return replace(
        plan,
        bases={**plan.bases, **update.bases},
        kernels={**plan.kernels, **update.kernels},
        launches=[*plan.launches, *update.launches],
    )
