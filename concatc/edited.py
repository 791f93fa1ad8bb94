"""A dump as a net: what is edited in it is what runs.

    concatc compile net.cnet --dump-ir dump
    (edit dump/03-optimized.mlir)
    concatc run dump/03-optimized.mlir --data in.npz

A dump of any level can be run; the passes behind its level are run on it.  It has one choice of dims.  Inference is the
part of a graph that its outputs need; a plan or loops are those of training, or of inference (``dump/inference``).

What is read is checked before it becomes code: plans by `check_plan.py`, loops by `check_step.py` and
`loop_bounds.py`, labels and indices as in any net.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

from concatc.compiler import Compilation, Options
from concatc.diagnostics import ConcatcError, Diagnostic, Loc, UsageError
from concatc.ir.core import FuncOp, Module
from concatc.ir.levels import LEVELS
from concatc.loops.append_step import append_step
from concatc.loops.bases import Interface, interface_of, result_keys
from concatc.loops.declaration import DECLARED, declaration_in, declared_interface, net_of, slot_problems
from concatc.loops.plan import Base, Plan, Segment
from concatc.loops.plan_text import STEP, plan_of
from concatc.lowering import Lowering
from concatc.op import is_op
from concatc.passes.check_lattice import overlap
from concatc.passes.check_plan import check_places, check_plan
from concatc.passes.check_step import step_bases, step_calls, written_arguments
from concatc.passes.dumps import load_dump
from concatc.passes.graph import is_backward
from concatc.passes.keep_outputs import KeepOutputs
from concatc.passes.lower_to_loops import LowerToLoops
from concatc.plan_trial import FORM
from concatc.runtime.index_check import distinct, state_index_checks, stated_index_checks
from concatc.runtime.loop_bounds import loop_problems
from concatc.runtime.plan_bounds import plan_index_checks
from concatc.runtime.source import Dim, Phase

STEPS = ("plan", "loops")  # levels whose main function is a step
RUN_STEPS = {"cpu": STEPS, "cuda": ("plan",)}  # of these, what a target reads


def _run_by(target: str) -> list[str]:
    """The levels whose dumps a target runs."""
    return [level for level in LEVELS if level not in STEPS or level in RUN_STEPS.get(target, ())]


def level_of(module: Module) -> str:
    """The level whose invariant a module holds."""
    ops = module.main.ops
    if module.main.sym_name == STEP and "cnet.dims" not in module.main.attributes:
        return "loops" if any(op.name == "func.call" for op in ops) else "plan"
    if any(op.name == "cnet.kernel" for op in ops):
        return "kernels"
    # A joint graph may be simplified already; running what was edited means running no pass on it again.
    if any(is_backward(op) for op in ops):
        return "optimized"
    return "split" if any(is_op(op, "split") for op in ops) else "graph"


class EditedDump(Compilation):
    """The source behind a module that is compiled from a dump."""

    def __init__(self, text: str, filename: str, options: Options) -> None:
        # A dump is read, not elaborated: nothing of a net's text is looked at.
        given = [
            n
            for n in ("dims", "net", "keep", "input_grads", "output_grads", "freeze")
            if getattr(options, n) != getattr(Options(), n)
        ]
        if given:
            raise UsageError(f"{filename} is a dump: {', '.join(given)} are settled in it")
        self.text = text
        self.filename = filename
        self.options = options
        self.warnings = []
        self._executables = {}
        self._updated = {}
        module = load_dump(text, filename)
        self.level = level_of(module)
        if self.level in STEPS and self.level not in RUN_STEPS.get(options.target, ()):
            raise UsageError(
                Diagnostic(
                    f"{filename} is a dump of the level {self.level}, which the target `{options.target}` does not run",
                    help=f"--target cpu runs it; `{options.target}` runs dumps of {', '.join(_run_by(options.target))}",
                )
            )
        if self.level not in ("graph", "split"):
            _check_settled(filename, self.level, options)
        with _shown_in(text, filename):
            self._lowerings = {"train": self._lowering(module, "train")}

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that can be run; a plan is of one phase."""
        if self.level not in STEPS:
            return super().phases
        return ("train", "infer") if self._is_inference else ("train",)

    @property
    def no_inference(self) -> Diagnostic | None:
        """A plan or loops of training: which launches the outputs alone need cannot be told."""
        if self.level not in STEPS or self._is_inference:
            return None
        what = "are the loops" if self.level == "loops" else "is the plan"
        return Diagnostic(
            f"{self.filename} {what} of training, which holds no inference",
            help="run its training phase (--train, or forward()), or the dump of inference (inference/ beside it)",
        )

    @property
    def _is_inference(self) -> bool:
        attrs = self._lowerings["train"].graph.main.result_attrs
        return bool(attrs) and all(given.get("cnet.kind") == "output" for given in attrs)

    def phase(self, phase: Phase) -> Lowering:
        """The dump, or what its outputs need of it."""
        if phase not in self._lowerings:
            if self.no_inference is not None:
                raise UsageError(self.no_inference)
            with _shown_in(self.text, self.filename):
                self._lowerings[phase] = self._lowering(load_dump(self.text, self.filename), phase)
        return self._lowerings[phase]

    def _lowering(self, module: Module, phase: Phase) -> Lowering:
        if self.level == "plan":
            return PlanDump(module, phase, self.options)
        if self.level == "loops":
            return LoopsDump(module, phase, self.options)
        if phase == "train":
            return GraphDump(module, self.level, phase, self.options, None)
        KeepOutputs().run(module)
        return GraphDump(module, self.level, phase, self.options, self._lowerings["train"])

    def scaled(self, phase: Phase) -> None:
        """What was edited is run as it stands."""

    def at(self, dims: Mapping[str, Dim], phase: Phase) -> None:
        """A dump has one choice of dims."""

    def with_dims(self, dims: Mapping[str, Dim]) -> EditedDump:
        """A dump has one choice of dims."""
        at = ", ".join(f"{name}={value}" for name, value in self.dims.items())
        raise UsageError(Diagnostic(f"{self.filename} was made for {at}", help="compile the net for other sizes"))


def _check_settled(filename: str, level: str, options: Options) -> None:
    """What is recomputed, and what keeps a budget, is chosen before the levels behind split; algorithms in kernels."""
    # Device kernels follow it whatever a dump holds.
    is_chosen = options.target != "cuda" and level in ("kernels", *STEPS)
    asked = {
        "a memory budget": options.max_memory is not None,
        "--recompute": options.recompute != Options().recompute,
        "--precision": options.precision != Options().precision and is_chosen,
    }
    for what, is_asked in asked.items():
        if is_asked:
            message = f"{filename} is a dump of the level {level}: what {what} chooses is settled in it"
            raise UsageError(
                Diagnostic(message, help="give it with the net, or with a dump of the levels graph and split")
            )


@contextmanager
def _shown_in(text: str, filename: str) -> Iterator[None]:
    """Errors show the lines of the dump; those without a place are of the whole file."""
    try:
        yield
    except UsageError:
        raise
    except ConcatcError as error:
        found = [d if d.loc is not None else replace(d, loc=Loc(filename, 1, 1)) for d in error.diagnostics]
        raise ConcatcError(found, {**error.sources, filename: text}) from None


class GraphDump(Lowering):
    """Levels from that of the dump on; ``graph`` and ``joint`` stand for the dump where it is behind them."""

    def __init__(self, module: Module, level: str, phase: Phase, options: Options, train: Lowering | None) -> None:
        super().__init__(module, phase, options, None if train is None else lambda: train.slots)
        self._first = level
        self._levels = {level: module}

    @property
    def graph(self) -> Module:
        """The dump."""
        return self._levels[self._first]

    @property
    def joint(self) -> Module:
        """Level 02, or the dump where it is behind it."""
        return self.level("joint") if self._first in ("graph", "split", "joint") else self.graph

    @cached_property
    def slots(self) -> Interface:
        """Where arguments and results live if no input is a part of something else."""
        return interface_of(self.joint.main, self._like() if self._like is not None else None)

    def level(self, name: str) -> Module:
        """The module of a level; raises UsageError for one before the dump's."""
        _check_level(name, self._first)
        return super().level(name)


class PlanDump(Lowering):
    """A plan that was read, and the loops that are made of it."""

    def __init__(self, module: Module, phase: Phase, options: Options) -> None:
        plan = plan_of(module)
        self._net = _declared_net(module, plan.net)
        self._interface = declared_interface(self._net, plan.bases)
        errors = check_plan(plan) or list(_unwritten(plan, self._net, self._interface))
        if errors:
            raise ConcatcError([d if d.loc is not None else replace(d, loc=module.main.loc) for d in errors])
        assert plan.net is not None
        needed = plan_index_checks(plan, self._net, self._interface)
        state_index_checks(plan.net, distinct([*stated_index_checks(self._net), *needed]))
        self._net = net_of(plan.net)
        super().__init__(Module(plan.name, [self._net]), phase, _of_declaration(options), None)
        self._plan = plan
        if options.verify_plan:
            values = "what the bytes hold is not checked, a dump of a plan has no ops of the net"
            self.checked.append(f"{len(plan.launches)} launches: {FORM}; {values}")
        LowerToLoops().run(plan)  # says what scratch lacks

    @cached_property
    def interface(self) -> Interface:
        """Where arguments and results live."""
        return self._interface

    @cached_property
    def net_plan(self) -> Plan:
        """The plan, as it was read."""
        return self._plan

    def level(self, name: str) -> Module:
        """The plan or its loops; raises UsageError for a level before it."""
        _check_level(name, "plan")
        return super().level(name)


class LoopsDump(Lowering):
    """Loops that were read."""

    def __init__(self, module: Module, phase: Phase, options: Options) -> None:
        bases, problems = step_bases(module.main)
        if problems:
            raise ConcatcError(problems)
        net = _declared_net(module, declaration_in(module))
        interface = declared_interface(net, bases)
        problems = [Diagnostic(problem, net.loc) for problem in slot_problems(interface)]
        problems = problems or [replace(problem, loc=net.loc) for problem in check_places(_places(bases, interface))]
        if problems:
            raise ConcatcError(problems)
        calls, problems = step_calls(module, bases)
        problems = problems or loop_problems(calls, net, interface, stated_index_checks(net))
        if problems:
            raise ConcatcError(problems)
        written = [w for c in calls for arg, w in c.windows().items() if arg in written_arguments(c.kernel)]
        for key in result_keys(net):
            slot = interface.slots[key]
            if 0 not in slot.shape and not any(overlap(slot, w) for w in written if w.base == slot.base):
                raise ConcatcError(Diagnostic(f"no call writes {key}, which @{DECLARED} declares", net.loc))
        super().__init__(Module(module.sym_name, [net]), phase, _of_declaration(options), None)
        self._module = module
        if options.verify_plan:
            self.checked.append(f"{len(calls)} calls: each index stays in its window; loops have no plan to check")
        self._bases = bases
        self._interface = interface

    @cached_property
    def interface(self) -> Interface:
        """Where arguments and results live."""
        return self._interface

    @cached_property
    def net_plan(self) -> Plan:
        """What loops say of their plan: its bases."""
        return Plan(self._module.sym_name, bases=dict[str, Base](self._bases))

    @property
    def launch_counts(self) -> tuple[int, int]:
        """The calls of ``@step``, and the kernels."""
        calls = sum(op.name == "func.call" for op in self._module.main.ops)
        return calls, sum(f.declared is None for f in self._module.functions[1:])

    @cached_property
    def loops(self) -> Module:
        """The loops as they were read; the calls of an optimizer's update stand behind them."""
        if self.update is None:
            return self._module
        update = replace(self.update, bases={**self._bases, **self.update.bases})
        return append_step(self._module, LowerToLoops().run(update))

    def level(self, name: str) -> Module:
        """The loops; raises UsageError for a level before them."""
        _check_level(name, "loops")
        return super().level(name)


def _of_declaration(options: Options) -> Options:
    """``verify_each`` is for ops; a declaration has none, and was checked when it was read."""
    return replace(options, verify_each=False)


def _check_level(name: str, first: str) -> None:
    if LEVELS.index(name) < LEVELS.index(first):
        found = f"of the level {first}; it has no {name} graph"
        if first == "optimized":  # `level_of`: whether a graph was simplified cannot be told
            found = "that has a backward half (joint or optimized); the graph that this was made of is not in it"
        raise UsageError(
            Diagnostic(
                f"the net was read from a dump {found}",
                help="take the .cnet file that it was made of, or its dump 00-graph.mlir",
            )
        )


def _declared_net(module: Module, declaration: FuncOp | None) -> FuncOp:
    if declaration is None:
        lacks = f"module @{module.sym_name} has no declaration `func.func private @{DECLARED}(..)` of its net"
        raise ConcatcError(
            Diagnostic(lacks, module.main.loc, help="dump the net anew: `concatc compile net.cnet --dump-ir DIR`")
        )
    return net_of(declaration)


def _places(bases: Mapping[str, Base], interface: Interface) -> Plan:
    """What loops say of their plan: where arguments and results lie."""
    values: dict[str, tuple[Segment, ...]] = {
        key: (Segment((0,) * len(slot.shape), slot),) for key, slot in interface.slots.items()
    }
    return Plan("", bases=dict[str, Base](bases), values=values)


def _unwritten(plan: Plan, net: FuncOp, interface: Interface) -> Iterator[Diagnostic]:
    """Results that no launch writes: they would be what the memory held before."""
    written = [window for launch in plan.launches for window in launch.writes]
    for key in result_keys(net):
        slot = interface.slots[key]
        if 0 not in slot.shape and not any(overlap(slot, window) for window in written if window.base == slot.base):
            yield Diagnostic(f"no launch writes {key}, which @{DECLARED} declares", net.loc)
