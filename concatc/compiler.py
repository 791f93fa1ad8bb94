"""The compiler: from the text of a net to its phases, and from there to code that runs.

text  --frontend-->  graph  --`lowering.py`-->  .., plan, loops  --target-->  executable
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from concatc.batch_sizes.in_portions import in_portions
from concatc.batch_sizes.rescale import ScaledPhase, rescaled
from concatc.batch_sizes.sampling import LEAST_OPS, followed, found_in, recipe_of
from concatc.batch_sizes.scaling import Scaling
from concatc.collector import collector_paused
from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.frontend.source import SourceFiles
from concatc.ir.core import Attr, Module
from concatc.loops.bases import Interface
from concatc.loops.scaled_plan import ScaledPlan
from concatc.lowering import Lowering
from concatc.options import Options as Options
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.freeze import freeze
from concatc.runtime.source import Dim, Phase, Source, Update
from concatc.stages import stage
from concatc.targets import Aside, Beside, Executable, Target


def target_of(options: Options) -> Target:
    """The target that options ask for; its code is imported when it is asked for."""
    if options.target == "reference":
        from concatc.targets.reference.target import ReferenceTarget

        return ReferenceTarget()
    if options.target == "cuda":
        from concatc.targets.cuda.target import CudaTarget

        return CudaTarget(precision=options.precision)
    from concatc.targets.cpu.target import CpuTarget

    return CpuTarget()


if TYPE_CHECKING:
    from concatc.frontend.cnet.project import Imported


class Compilation:
    """A net at one choice of dims; phases and levels are made when they are asked for."""

    def __init__(self, text: str, filename: str, options: Options, files: SourceFiles | None = None) -> None:
        self.text = text
        self.filename = filename
        self.files = files or SourceFiles(filename)  # imports, as they were when they were read first
        self.options = options
        self._lowerings: dict[Phase, Lowering] = {}
        self._decisions: dict[Phase, list[tuple[Any, ...]]] = {}
        self.imports: list[Imported] = []  # the files that it imports
        self._executables: dict[tuple[Phase, tuple[object, ...] | None], Executable] = {}
        self._updated: dict[tuple[Phase, tuple[object, ...]], Lowering] = {}
        graph, self.warnings = self._load("train")
        self._lowerings["train"] = Lowering(graph, "train", options, None)

    @property
    def name(self) -> str:
        """The net's name."""
        return self.phase("train").graph.main.sym_name

    @property
    def dims(self) -> dict[str, Dim]:
        """Every dim of the net and its value."""
        dims = self.phase("train").graph.main.attributes.get("cnet.dims", {})
        return {name: cast(Dim, value) for name, value in cast(Mapping[str, Attr], dims).items()}

    @cached_property
    def target(self) -> Target:
        """What runs it."""
        return target_of(self.options)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that can be run: inference where the net has outputs in it."""
        return ("train", "infer") if self.phase("infer").graph.main.returned("output") else ("train",)

    @property
    def no_inference(self) -> Diagnostic | None:
        """A net has inference as far as it has outputs."""
        return None

    def phase(self, phase: Phase) -> Lowering:
        """The net in one phase."""
        if phase not in self._lowerings:
            graph, _ = self._load(phase)
            train = self._lowerings["train"]
            self._check_arguments(graph)
            self._lowerings[phase] = Lowering(graph, phase, self.options, lambda: train.slots)
        return self._lowerings[phase]

    @property
    def checked(self) -> list[tuple[Phase, str]]:
        """What was checked of the plans that were made, where that is asked for."""
        return [(phase, text) for phase, lowering in self._lowerings.items() for text in lowering.checked]

    def with_dims(self, dims: Mapping[str, Dim]) -> Compilation:
        """The same net compiled for other dims."""
        return Compilation(self.text, self.filename, replace(self.options, dims=dict(dims)), self.files)

    def executable(self, phase: Phase, update: Update | None) -> Executable:
        """The code of a phase; with it comes what other batch sizes need."""
        key = (phase, update.key if update is not None else None)
        if key not in self._executables:
            with collector_paused():  # between passes, too: it would visit all that they made
                lowered = self._phase_with(phase, update)
                beside = Beside(lambda ask: self._ask(phase, ask), lambda: self.scaled(phase))
                code = self.target.build(lowered, beside)
                self._executables[key] = in_portions(code, phase, lambda: self.scaled(phase), lambda: lowered.interface)
        return self._executables[key]

    def interface(self, phase: Phase, update: Update | None) -> Interface:
        """Where that code has arguments and results."""
        return self._phase_with(phase, update).interface

    def _phase_with(self, phase: Phase, update: Update | None) -> Lowering:
        if update is None:
            return self.phase(phase)
        key = (phase, update.key)
        if key not in self._updated:
            self._updated[key] = self.phase(phase).with_update(update.plan())
        return self._updated[key]

    # -- other batch sizes ---------------------------------------------------------------------------------------------
    @cached_property
    def scaling(self) -> Scaling:
        """How the net follows from its batch sizes."""
        from concatc.targets.cache import Cache, default_directory

        return Scaling(self, Cache(default_directory()))

    @property
    def settings(self) -> object:
        """What plans depend on besides the graph; its ``repr`` says it all."""
        return self.options

    def scaled(self, phase: Phase) -> ScaledPhase | None:
        """The phase at any batch size; None where it must be compiled for each: budgets are met size by size."""
        if not self.target.serves_sizes or self.options.max_memory is not None:
            return None
        return self.scaling.phase(phase)

    def scaled_plan(self, phase: Phase) -> ScaledPlan:
        """The plan at any batch size."""
        return self.scaling.plan(phase)

    def at(self, dims: Mapping[str, Dim], phase: Phase) -> Source | None:
        """The same net at other batch sizes, on the same code; None where it must be compiled."""
        if any(name not in self.scaling.names for name, n in dims.items() if self.dims.get(name) != n):
            return None  # without a look at the net at several sizes
        return rescaled(self, dims, phase)

    def decisions(self, phase: Phase) -> list[tuple[Any, ...]]:
        """The numbers that decided something when the graph of a phase was made."""
        self.phase(phase)
        return self._decisions[phase]

    def look_at(self, dims: Mapping[str, Dim]) -> Compilation:
        """The same net at other dims, without what is shown and checked on the way."""
        return Compilation(self.text, self.filename, replace(self._quiet, dims=dict(dims)), self.files)

    @property
    def _quiet(self) -> Options:
        return replace(
            self.options, dims=self.dims, verify_each=False, verify_plan=False, print_after=(), print_after_all=False
        )

    def _ask(self, phase: Phase, ask: Aside) -> None:
        """Have another process look at the net at large batches, where that takes long and there is one."""
        if self.options.max_memory is not None or len(self.phase(phase).graph.main.body.ops) < LEAST_OPS:
            return
        if not self.scaling.names or self.scaling.knows(phase):
            return
        asked = ask(__name__, recipe_of(self.text, self.files, self._quiet, phase, self.scaling.here))
        if asked is not None:
            self.scaling.asked[phase] = lambda: found_in(asked())

    def _load(self, phase: Phase) -> tuple[Module, list[Diagnostic]]:
        with stage("imports"):
            from concatc.frontend import cnet  # the parser is not needed where a module was compiled before

        options = self.options
        decisions = self._decisions[phase] = []
        with stage("front end"):
            graph, warnings = cnet.load(
                self.text,
                self.filename,
                net=options.net,
                dims=options.dims,
                phase=phase,
                keep=options.keep if phase == "train" else (),
                dtype=options.dtype,
                decisions=decisions,
                imports=self.imports if phase == "train" else None,
                files=self.files,
            )
        if phase == "train":
            freeze(graph.main, options.freeze)
            DeriveBackward(options.output_grads).given_outputs(graph.main)  # unknown names are found at once
        return graph, warnings

    def _check_arguments(self, graph: Module) -> None:
        """Inference works on the parameters and states of training."""
        problems = []
        for kind, what in (("param", "parameter"), ("state", "state")):
            known = self.phase("train").graph.main.arguments(kind)
            for name, value in graph.main.arguments(kind).items():
                if name not in known:
                    problems.append(Diagnostic(f"{what} `{name}` is there in inference only", graph.main.loc))
                elif known[name].type != value.type:
                    found = f"{value.type} in inference and {known[name].type} in training"
                    problems.append(Diagnostic(f"{what} `{name}` is {found}", graph.main.loc))
        if problems:
            raise ConcatcError(problems, {self.filename: self.text})


def answer(recipe: Mapping[str, Any]) -> bytes:
    """What another process asks this one: see `batch_sizes/sampling.py`."""
    return json.dumps(followed(recipe, Compilation)).encode()


def compile_to_run(text: str, filename: str, options: Options, files: SourceFiles | None = None) -> Compilation:
    """:func:`compile_net`; a budget that no plan of training keeps is an error here, not at the first step.

    ``files`` holds the imports as they were read.
    """
    compilation = Compilation(text, filename, options, files)
    if options.max_memory is not None and compilation.phase("train").graph.main.returned("total"):
        _ = compilation.phase("train").plan
    return compilation


def compile_net(text: str, filename: str, options: Options | None = None) -> Compilation:
    """Parse and check a net; its levels are made when they are asked for.

    Raises :class:`ConcatcError` with all errors of the text.
    """
    return Compilation(text, filename, options or Options())
