"""Written modules, read: what :func:`concatc.load` makes of a directory that ``concatc compile -o DIR`` wrote.

    net.json, step.jsonl, code0.o, ..   ->   a module that runs;    graph.mlir, .., loops.mlir   only when asked for

Every file is compared with its hash in the manifest: what runs when the module is loaded and again when it is read, a
level when it is read.  What the files say is checked besides (`runtime/runnable.py`, `targets/cpu/step_text.py`), as
far as it says anything about memory.  That finds damage, not malice: a written module is code, and object code that
somebody changed together with its hash runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from concatc.batch_sizes.in_portions import in_portions
from concatc.diagnostics import Diagnostic, UsageError
from concatc.loops.bases import Interface
from concatc.loops.plan import Base
from concatc.manifest import (
    INIT,
    MANIFEST,
    NET,
    SIZES,
    WRITE_AGAIN,
    Manifest,
    level_file,
    read_files,
    read_manifest,
    run_files,
)
from concatc.runtime.module import CompiledModule
from concatc.runtime.phases import ByLevel, OfRunnable
from concatc.runtime.runnable import DataError, Runnable, from_data
from concatc.runtime.source import PHASES, Dim, Phase, Source, Update
from concatc.runtime.store import SHARED_BASES
from concatc.targets import Executable, Target
from concatc.version import __version__
from concatc.written_files import WrittenFiles

if TYPE_CHECKING:
    from concatc.batch_sizes.rescale import ScaledPhase, TableExecutable
    from concatc.ir.core import Module
    from concatc.loops.plan import Plan
    from concatc.loops.scaled_plan import ScaledPlan
    from concatc.written_cpu import WrittenCpu
    from concatc.written_cuda import WrittenCuda

NOT_OF_THIS_NET = "it is not of this net"


def load_module(directory: Path, threads: int | None = None) -> CompiledModule:
    """Load a written module, to be run by so many threads; raises what :func:`open_module` does."""
    return CompiledModule(open_module(directory), threads)


def open_module(directory: Path) -> WrittenModule:
    """A written module as the source of a module.

    Raises :class:`UsageError` where it is incomplete, changed, of another version or made for another machine.
    """
    manifest = read_manifest(directory)
    if manifest.concatc != __version__:
        raise UsageError(
            Diagnostic(
                f"{directory} was written by concatc {manifest.concatc}, this is {__version__}", help=WRITE_AGAIN
            )
        )
    kind = _code_of(manifest)
    kind.check(directory, manifest)
    files = WrittenFiles(directory, manifest.files)
    arches = manifest.arches
    to_run = [INIT, *(name for phase, count in manifest.objects.items() for name in run_files(phase, count, arches))]
    to_read = [name for phase in manifest.objects for name in read_files(phase)]
    absent = [name for name in (*to_run, *to_read) if name not in manifest.files]
    if absent:
        raise UsageError(
            Diagnostic(f"{directory / MANIFEST} is damaged: it does not list {', '.join(absent)}", help=WRITE_AGAIN)
        )
    files.check(to_run)
    files.check_there(to_read)
    return WrittenModule(manifest, files, kind(manifest, files))


class WrittenCode(Protocol):
    """What is a target's of a written module."""

    @property
    def target(self) -> Target:
        """What runs it."""
        ...

    def loaded(self, phase: Phase, written: WrittenPhase) -> Executable:
        """The code of a phase, as it was written."""
        ...

    def with_update(self, code: Any, written: WrittenPhase, update: Update) -> Executable:
        """Code that :meth:`loaded` gave, and an optimizer's update behind it."""
        ...

    def text(self, phase: Phase, written: WrittenPhase, what: str) -> str:
        """The generated code of a phase as text."""
        ...


def _code_of(manifest: Manifest) -> type[WrittenCpu] | type[WrittenCuda]:
    """What is imported is what the module needs."""
    if manifest.target == "cuda":
        from concatc.written_cuda import WrittenCuda

        return WrittenCuda
    from concatc.written_cpu import WrittenCpu

    return WrittenCpu


class WrittenModule:
    """The source behind a loaded module: data and object code from files, levels too where somebody asks for them."""

    def __init__(self, manifest: Manifest, files: WrittenFiles, code: WrittenCode) -> None:
        self.name = manifest.net
        self.dims: dict[str, Dim] = dict(manifest.dims)
        self.phases: tuple[Phase, ...] = tuple(phase for phase in PHASES if phase in manifest.objects)
        self.target = code.target
        self._code = code
        self._files = files
        self._executables: dict[tuple[Phase, tuple[object, ...] | None], Executable] = {}
        self._phases: dict[Phase, WrittenPhase] = {}
        self._scaled: dict[Phase, ScaledPhase | None] = {}
        self._reasons: dict[Phase, str] = {}

    @property
    def no_inference(self) -> Diagnostic | None:
        """What was written can be run."""
        return None

    @property
    def checked(self) -> list[tuple[Phase, str]]:
        """Its plans were made, and checked where that was asked for, when it was written."""
        return []

    def phase(self, phase: Phase) -> WrittenPhase:
        """The net in one phase."""
        if phase not in self.phases:
            raise UsageError(f"the module was written without the phase `{phase}`")
        if phase not in self._phases:
            train = None if phase == "train" else self.phase("train")
            self._phases[phase] = WrittenPhase(self._files, self._code, phase, train)
        return self._phases[phase]

    def executable(self, phase: Phase, update: Update | None) -> Executable:
        """The code of a phase, as it was written; an optimizer's update runs behind it."""
        key = (phase, update.key if update is not None else None)
        if key not in self._executables:
            home = self.phase(phase)
            if update is None:
                code = self._code.loaded(phase, home)
            else:
                code = self._code.with_update(self.executable(phase, None), home, update)
            self._executables[key] = in_portions(code, phase, lambda: self.scaled(phase), lambda: home.interface)
        return self._executables[key]

    def interface(self, phase: Phase, update: Update | None) -> Interface:
        """Where that code has arguments and results; no update changes it."""
        return self.phase(phase).interface

    def at(self, dims: Mapping[str, Dim], phase: Phase) -> Source | None:
        """The same net at other batch sizes, on the same code; None where it must be compiled."""
        from concatc.batch_sizes.rescale import rescaled

        return rescaled(self, dims, phase)

    def scaled(self, phase: Phase) -> ScaledPhase | None:
        """The phase at any batch size, as it was written; None where it must be compiled for each."""
        if phase not in self._scaled:
            self._scaled[phase] = self._read_scaled(phase)
        return self._scaled[phase]

    def scaled_plan(self, phase: Phase) -> ScaledPlan:
        """Plans at other sizes are not written: what runs there are launches."""
        raise UsageError(
            Diagnostic("a written module holds its plan and levels for its own dims only", help="compile the net there")
        )

    def with_dims(self, dims: Mapping[str, Dim]) -> WrittenModule:
        """What does not follow from what was written is not compiled here."""
        batches = {name for p in self.phases if (scaled := self.scaled(p)) is not None for name in scaled.here}
        wrong = [f"`{n}` is {dims[n]}" for n in dims if n in batches and not _is_batch(dims[n])]
        if wrong:
            message = f"{', '.join(wrong)}, but a written module runs batches of 1 or more rows"
            raise UsageError(Diagnostic(message, help="leave empty batches out, or compile the net: it takes them"))
        at = ", ".join(f"{name}={value}" for name, value in self.dims.items())
        notes = tuple(
            f"why no other size follows from it: {reason}" for reason in dict.fromkeys(self._reasons.values())
        )
        raise UsageError(
            Diagnostic(f"the module was written for {at}", notes=notes, help="compile the net anew for other sizes")
        )

    def _read_scaled(self, phase: Phase) -> ScaledPhase | None:
        from concatc.batch_sizes.data import from_data
        from concatc.loops.polynomials import NotScalableError

        file, written = f"{phase}/{SIZES}", self.phase(phase)
        try:
            data = json.loads(self._files.read(file))
            if "reason" in data:
                self._reasons[phase] = str(data["reason"])
                return None
            table = cast("TableExecutable", self.executable(phase, None)).table
            scaled = from_data(data, lambda: self._graph(phase), table)
            if not scaled.is_at_home(written.interface, table, written.signature.loss_weights):
                raise ValueError
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, NotScalableError):
            raise self._files.damaged(file, NOT_OF_THIS_NET) from None
        return scaled

    def _graph(self, phase: Phase) -> Module:
        """Level 00, which other sizes must be of; nothing that runs at the sizes that they know reads it."""
        graph, scaled = self.phase(phase).graph, self._scaled[phase]
        if scaled is None or not scaled.graph.is_of(graph):
            raise self._files.damaged(f"{phase}/{SIZES}", NOT_OF_THIS_NET)
        return graph


def _is_batch(size: Dim) -> bool:
    return type(size) is int and size >= 1


class WrittenPhase(ByLevel, OfRunnable):
    """One phase of a written module.  What is run is there at once; levels are read when they are asked for."""

    def __init__(self, files: WrittenFiles, code: WrittenCode, phase: Phase, train: WrittenPhase | None) -> None:
        self.name = phase
        self._code = code
        self.update: Plan | None = None
        self._files = files
        self._levels: dict[str, Module] = {}
        OfRunnable.__init__(self, self._read(train))

    @property
    def bases(self) -> dict[str, Base]:
        """What its launches read and write."""
        return {**self.interface.bases, "arena": Base("arena", self.arena_bytes)}

    @property
    def graph(self) -> Module:
        """Level 00."""
        return self.level("graph")

    @cached_property
    def plan(self) -> Plan:
        """Level 05 as data."""
        from concatc.loops.plan_text import plan_of

        return plan_of(self.level("plan"))

    @property
    def loops(self) -> Module:
        """Level 06."""
        return self.level("loops")

    def level(self, name: str) -> Module:
        """The module of a level, as it was written."""
        from concatc.ir.parser import parse_module

        if name not in self._levels:
            file = f"{self.name}/{level_file(name)}"
            self._levels[name] = parse_module(self._files.text(file), file)
        return self._levels[name]

    def dump(self, level: str, *, blob: str | None = None) -> str:
        """The text of a level, by name (``split``) or number (``01``), or of one blob's path in it."""
        from concatc.inspect.level_text import level_text
        from concatc.passes.dumps import READING

        return level_text(self, level, READING, blob)

    def generated(self, what: str) -> str:
        """``kernels`` as they were written; other texts are generated from a level."""
        return self._code.text(self.name, self, what)

    def _read(self, train: WrittenPhase | None) -> Runnable:
        file = f"{self.name}/{NET}"
        try:
            runnable = from_data(json.loads(self._files.read(file)))
        except (ValueError, RecursionError):
            raise self._files.damaged(file, "it is no JSON") from None
        except DataError as error:
            raise self._files.damaged(file, str(error)) from None
        bases = runnable.interface.bases
        if train is not None and any(bases[name] != train.bases[name] for name in SHARED_BASES):
            raise self._files.damaged(file, "its parameters and states are not those of training")
        return runnable
