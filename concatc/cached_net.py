"""A net behind the cache: what was compiled before is read, everything else is compiled, and noted.

    concatc.compile("net.cnet")   ->   name, parameters, table of launches, object code, read off the cache
    net.ir("plan"), net.memory    ->   the same text compiled, as far as that level

A net that the cache holds runs without the front end, the passes and Numba; what comes out is the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from concatc.batch_sizes.in_portions import in_portions
from concatc.collector import collector_paused
from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.frontend.source import SourceFiles
from concatc.loops.bases import Interface
from concatc.net_cache import Import, KnownNet, NetCache
from concatc.options import Options
from concatc.runtime.phases import ByLevel, OfRunnable
from concatc.runtime.runnable import Runnable
from concatc.runtime.source import Dim, LoweredPhase, Phase, Source, Update
from concatc.stages import stage
from concatc.targets import Executable, Target
from concatc.targets.cpu.executable import CpuExecutable, LoadedCode
from concatc.targets.cpu.lazy_target import LazyCpuTarget

if TYPE_CHECKING:
    from concatc.batch_sizes.rescale import ScaledPhase
    from concatc.compiler import Compilation
    from concatc.ir.core import Module
    from concatc.loops.plan import Plan
    from concatc.loops.scaled_plan import ScaledPlan


def cached_net(text: str, filename: str, options: Options, files: SourceFiles | None = None) -> CachedNet:
    """A net to be run on the target ``cpu``: what the cache holds of it is read off there.

    ``files`` holds its imports, if they were read before: what is compiled later is of these texts.
    Raises :class:`ConcatcError` with all errors of the text, and :class:`UsageError` where no plan keeps the budget.
    """
    cache = NetCache(text, filename, options)
    files = files or SourceFiles(filename)
    known = cache.load(files)
    compilation = None if known else _compiled(text, filename, options, files)
    return CachedNet(text, filename, options, files, cache, known, compilation)


def _compiled(text: str, filename: str, options: Options, files: SourceFiles) -> Compilation:
    with stage("imports"):
        from concatc.compiler import compile_to_run

    return compile_to_run(text, filename, options, files)


class CachedNet:
    """The source behind a module: a net that the cache holds, or that is compiled and then held."""

    def __init__(
        self,
        text: str,
        filename: str,
        options: Options,
        files: SourceFiles,
        cache: NetCache,
        known: KnownNet | None,
        compilation: Compilation | None,
    ) -> None:
        self.text = text
        self.filename = filename
        self.options = options
        self._files = files
        self._cache = cache
        self._known = known
        self._compilation = compilation
        self._phases: dict[Phase, CachedPhase] = {}
        self._executables: dict[tuple[Phase, tuple[object, ...] | None], CpuExecutable] = {}
        self._scaled: dict[Phase, ScaledPhase | None] = {}
        if known is not None:
            self._phases["train"] = CachedPhase(self, "train", known.train)

    @property
    def name(self) -> str:
        """The net's name."""
        return self._known.name if self._known is not None else self.compilation.name

    @property
    def dims(self) -> dict[str, Dim]:
        """Every dim of the net and its value."""
        return dict(self._known.dims) if self._known is not None else self.compilation.dims

    @property
    def warnings(self) -> Sequence[Diagnostic]:
        """What is probably not meant."""
        return self._known.warnings if self._known is not None else self.compilation.warnings

    @property
    def checked(self) -> list[tuple[Phase, str]]:
        """Who wants plans checked has them made (`opening.py`)."""
        return []

    @property
    def target(self) -> Target:
        """What runs it."""
        return LazyCpuTarget()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that can be run."""
        return ("train", "infer") if self._cached("infer") is not None else self.compilation.phases

    @property
    def no_inference(self) -> Diagnostic | None:
        """A net has inference as far as it has outputs."""
        return None

    @property
    def compilation(self) -> Compilation:
        """The net at every level; its text is parsed when something of it is first asked for."""
        if self._compilation is None:
            self._compilation = _compiled(self.text, self.filename, self.options, self._files)
        return self._compilation

    def phase(self, phase: Phase) -> LoweredPhase:
        """The net in one phase; levels are made when they are asked for."""
        return self._cached(phase) or self.compilation.phase(phase)

    def executable(self, phase: Phase, update: Update | None) -> Executable:
        """The code of a phase, off the cache or compiled."""
        key = (phase, update.key if update is not None else None)
        if key not in self._executables:
            with collector_paused():
                code = self._loaded(phase, update) or self._built(phase, update)
                home = self.phase(phase)
                self._executables[key] = in_portions(code, phase, lambda: self.scaled(phase), lambda: home.interface)
        return self._executables[key]

    def interface(self, phase: Phase, update: Update | None) -> Interface:
        """Where that code has arguments and results."""
        if update is not None and self._may_move_inputs(phase):
            return self.compilation.interface(phase, update)
        return self.phase(phase).interface

    def at(self, dims: Mapping[str, Dim], phase: Phase) -> Source | None:
        """The same net at other batch sizes, on the same code; None where it must be compiled."""
        from concatc.batch_sizes.rescale import rescaled

        return rescaled(self, dims, phase)

    def with_dims(self, dims: Mapping[str, Dim]) -> Source:
        """The same net compiled for other dims, or read off the cache."""
        return cached_net(self.text, self.filename, replace(self.options, dims=dict(dims)), self._files)

    def scaled(self, phase: Phase) -> ScaledPhase | None:
        """The phase at any batch size; None where it must be compiled for each."""
        if phase not in self._scaled:
            with collector_paused():
                self._scaled[phase] = self._read_scaled(phase)
        return self._scaled[phase]

    def scaled_plan(self, phase: Phase) -> ScaledPlan:
        """The plan at any batch size."""
        return self.compilation.scaled_plan(phase)

    def _cached(self, phase: Phase) -> CachedPhase | None:
        if phase not in self._phases and self._known is not None:
            runnable = self._cache.load_phase(phase)
            if runnable is not None:
                self._phases[phase] = CachedPhase(self, phase, runnable)
        return self._phases.get(phase)

    def _may_move_inputs(self, phase: Phase) -> bool:
        """Whether an update may have inputs elsewhere: the cache does not say where."""
        return self.options.max_memory is not None and bool(self.phase(phase).interface.staged)

    def _loaded(self, phase: Phase, update: Update | None) -> CpuExecutable | None:
        """The code that the cache holds; None where a part of it is not there."""
        cached = self._cached(phase)
        key = update.key if update is not None else None
        known = self._cache.load_code(phase, key) if cached is not None else None
        if known is None or (update is not None and self._may_move_inputs(phase)):
            return None

        def generated(what: str) -> str:
            return self.compilation.executable(phase, update).text(what)

        with stage("load"):
            objects = [self._cache.cache.load(key) for key in known.names.units]
            if None in objects:
                return None
            try:
                code = LoadedCode.of(cast(list[bytes], objects), known.names.symbols)
            except ConcatcError:
                return None
            return CpuExecutable(known.table, code, generated, known.names)

    def _built(self, phase: Phase, update: Update | None) -> CpuExecutable:
        compilation = self.compilation
        executable = compilation.executable(phase, update)
        assert isinstance(executable, CpuExecutable)
        key = update.key if update is not None else None
        if self._known is None:
            imports = [Import(i.name, i.place, i.sha256) for i in compilation.imports]
            train = compilation.phase("train")
            self._cache.save(compilation.name, compilation.dims, compilation.warnings, imports, train)
        if phase != "train":
            self._cache.save_phase(phase, compilation.phase(phase))
        self._cache.save_code(phase, key, executable)
        if self.options.max_memory is None and phase in (entries := compilation.scaling.entries):
            scaled = compilation.scaled(phase)
            self._cache.save_sizes(phase, entries[phase], None if scaled is None else scaled.step.table)
        return executable

    def _read_scaled(self, phase: Phase) -> ScaledPhase | None:
        cached = self._cached(phase)
        known = self._cache.load_sizes(phase) if cached is not None else None
        if cached is None or known is None:
            return self.compilation.scaled(phase)
        data, table = known
        if table is None:
            return None
        from concatc.batch_sizes.data import from_data
        from concatc.loops.polynomials import NotScalableError

        try:
            scaled = from_data(data, lambda: cached.graph, table)
            if scaled.is_at_home(cached.interface, table, cached.signature.loss_weights):
                return scaled
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, NotScalableError):
            pass  # of another net: found out anew
        return self.compilation.scaled(phase)


class CachedPhase(ByLevel, OfRunnable):
    """One phase of a net that the cache holds.  What is run is there at once; levels are compiled on demand."""

    def __init__(self, net: CachedNet, phase: Phase, runnable: Runnable) -> None:
        self.update: Plan | None = None
        self._net = net
        self._phase = phase
        OfRunnable.__init__(self, runnable)

    @property
    def graph(self) -> Module:
        """Level 00."""
        return self._net.compilation.phase(self._phase).graph

    def level(self, name: str) -> Module:
        """The module of a level."""
        return self._net.compilation.phase(self._phase).level(name)

    @property
    def plan(self) -> Plan:
        """Level 05."""
        return self._net.compilation.phase(self._phase).plan

    @property
    def loops(self) -> Module:
        """Level 06."""
        return self._net.compilation.phase(self._phase).loops

    def dump(self, level: str, *, blob: str | None = None) -> str:
        """The text of a level, or of one blob's path in it."""
        return self._net.compilation.phase(self._phase).dump(level, blob=blob)
