"""Modules on disk: what ``concatc compile -o DIR`` writes and :func:`concatc.load` reads.

    DIR/__init__.py      import DIR; net = DIR.load()
    DIR/manifest.json    version, dims, the CPU that it is for, a hash of every file
    DIR/train/           graph.mlir, joint.mlir, .., loops.mlir, kernels.py (to read), symbols.json, code0.o, ..
    DIR/infer/           the same for inference

A written module is for the dims that it was compiled with, and runs native code: load only what you trust.  Hashes find
damage, not malice.  Weights are apart (``net.save``, ``net.load``).
"""

from __future__ import annotations

import hashlib
import json
import keyword
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from concatc.compiler import LEVELS, Compilation, Lowering, Options
from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import beside
from concatc.ir.core import Module
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of, plan_of
from concatc.manifest import FORMAT, MANIFEST, WRITE_AGAIN, Manifest, read_manifest
from concatc.passes.lower_to_loops import LowerToLoops
from concatc.runtime.module import CompiledModule
from concatc.runtime.source import PHASES, Dim, Phase, Source, Update
from concatc.targets import Executable, Lowered
from concatc.targets.cpu.executable import CpuExecutable, LoadedCode, ObjectCode
from concatc.targets.cpu.native import host
from concatc.targets.cpu.step import StepNumbers, step_table
from concatc.targets.cpu.target import CpuTarget
from concatc.version import __version__

PYCACHE = "__pycache__"

LOADER = '''"""The net {name}, compiled by concatc {version}: ``load()`` gives it; its weights are apart."""

from pathlib import Path

import concatc


def load() -> concatc.CompiledModule:
    """The compiled module."""
    return concatc.load(Path(__file__).parent)
'''


def write_module(compilation: Compilation, directory: Path) -> None:
    """Write a module; the directory is filled beside and then renamed.

    Raises :class:`UsageError` where ``directory`` is something else than a written module or holds more than one, and
    for targets that have no object code.
    """
    if compilation.options.target != "cpu":
        raise UsageError(f"the target `{compilation.options.target}` has no object code to write")
    _check_replaceable(directory)
    if not directory.name.isidentifier() or keyword.iskeyword(directory.name):
        name = re.sub(r"\W", "_", directory.name)
        hint = f"{name} would be one" if name.isidentifier() and not keyword.iskeyword(name) else None
        raise UsageError(Diagnostic(f"`{directory.name}` is no name that Python can import", help=hint))
    phases = compilation.phases
    files = {"__init__.py": LOADER.format(name=compilation.name, version=__version__).encode()}
    objects: dict[str, int] = {}
    for phase in phases:
        written = _phase_files(compilation, phase)
        objects[phase] = sum(name.endswith(".o") for name in written)
        files.update(written)
    machine = host()
    manifest = Manifest(
        FORMAT,
        concatc=__version__,
        net=compilation.name,
        source=compilation.filename,
        dims=dict(compilation.dims),
        dtype=compilation.options.dtype,
        objects=objects,
        cpu={"name": machine.name, "features": machine.features},
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    files[MANIFEST] = manifest.text()
    _write_directory(directory, files)


def _phase_files(compilation: Compilation, phase: Phase) -> dict[str, bytes]:
    lowering = compilation.phase(phase)
    code, generated = CpuTarget().compile_loops(lowering.loops)
    made = {f"{level}.mlir": lowering.dump(level, MACHINE).encode() for level in LEVELS}
    made["kernels.py"] = generated.text("kernels").encode()
    made.update((f"code{k}.o", data) for k, data in enumerate(code.objects))
    made["symbols.json"] = json.dumps(code.symbols, indent=2).encode()
    return {name: made[name.removeprefix(f"{phase}/")] for name in _names(phase, len(code.objects))}


def _names(phase: str, objects: int) -> list[str]:
    """The files of a phase."""
    code = [f"code{k}.o" for k in range(objects)]
    return [f"{phase}/{n}" for n in (*(f"{level}.mlir" for level in LEVELS), "kernels.py", *code, "symbols.json")]


def _check_replaceable(directory: Path) -> None:
    """Nothing that somebody else made may be lost: a written module makes way, and only if it holds nothing else."""
    if directory.is_symlink():
        raise UsageError(f"{directory} is a symbolic link; it is left alone")
    if not directory.exists():
        return
    try:
        listed = {MANIFEST, *read_manifest(directory).files}
        foreign = [str(path.relative_to(directory)) for path in _foreign(directory, directory, listed)]
    except UsageError as error:
        raise UsageError(f"{directory} exists and is no written module; it is left alone") from error
    except OSError as error:
        raise UsageError(f"cannot read {directory}: {error.strerror}") from None
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise UsageError(
            Diagnostic(
                f"{directory} holds what is no part of a written module; it is left alone",
                notes=(f"in the way: {shown}",),
                help="move these files, or choose another directory",
            )
        )


def _foreign(root: Path, directory: Path, listed: Iterable[str]) -> Iterator[Path]:
    """What lies in the directory besides the listed files, the directories that they need, and Python's own cache."""
    for path in sorted(directory.iterdir()):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield path
        elif path.is_file():
            if name not in listed and not (directory.name == PYCACHE and path.suffix == ".pyc"):
                yield path
        elif path.name == PYCACHE or any(file.startswith(f"{name}/") for file in listed):
            yield from _foreign(root, path, listed)
        else:
            yield path


def _write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    new, old = beside(directory, "new"), beside(directory, "old")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if directory.exists():
            # A directory cannot be replaced in one step: at every moment there is a whole module, here or beside.
            directory.rename(old)
        try:
            new.rename(directory)
        except BaseException:
            if old.exists():
                old.rename(directory)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def load_module(directory: Path) -> CompiledModule:
    """Load a written module.

    Raises :class:`UsageError` where it is incomplete, changed, of another version or made for another machine.
    """
    manifest = read_manifest(directory)
    if manifest.concatc != __version__:
        raise UsageError(
            Diagnostic(
                f"{directory} was written by concatc {manifest.concatc}, this is {__version__}", help=WRITE_AGAIN
            )
        )
    _check_machine(directory, manifest)
    needed = ["__init__.py", *(name for phase, count in manifest.objects.items() for name in _names(phase, count))]
    absent = [name for name in needed if name not in manifest.files]
    if absent:
        raise UsageError(
            Diagnostic(f"{directory / MANIFEST} is damaged: it does not list {', '.join(absent)}", help=WRITE_AGAIN)
        )
    return CompiledModule(WrittenModule(manifest, {n: _file(directory, n, manifest.files[n]) for n in needed}))


def _check_machine(directory: Path, manifest: Manifest) -> None:
    needed = {f for f in manifest.cpu["features"].split(",") if f.startswith("+")}
    missing = sorted(f.removeprefix("+") for f in needed - set(host().features.split(",")))
    if missing:
        raise UsageError(
            Diagnostic(
                f"{directory} was compiled for {manifest.cpu['name']}; this CPU lacks {', '.join(missing)}",
                help="compile the net on this machine",
            )
        )


def _file(directory: Path, name: str, digest: str) -> bytes:
    path = directory / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(Diagnostic(f"{directory} is incomplete: {name}: {error.strerror}", help=WRITE_AGAIN)) from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise UsageError(Diagnostic(f"{path} was changed or damaged after it was written", help=WRITE_AGAIN))
    return data


class WrittenModule:
    """The source behind a loaded module: levels from their files, code from its object files, one choice of dims."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        self.name = manifest.net
        self.dims: dict[str, Dim] = dict(manifest.dims)
        self._files = files
        self._options = Options(dtype=manifest.dtype)
        self.phases: tuple[Phase, ...] = tuple(phase for phase in PHASES if phase in manifest.objects)
        self._lowerings: dict[Phase, WrittenLowering] = {}
        self._executables: dict[tuple[Phase, tuple[object, ...] | None], Executable] = {}
        self.target = WrittenTarget()

    @property
    def no_inference(self) -> Diagnostic | None:
        """What was written can be run."""
        return None

    def phase(self, phase: Phase) -> WrittenLowering:
        """The net in one phase."""
        if phase not in self.phases:
            raise UsageError(f"the module was written without the phase `{phase}`")
        if phase not in self._lowerings:
            like = None if phase == "train" else lambda: self.phase("train").interface
            files = {n.removeprefix(f"{phase}/"): d for n, d in self._files.items() if n.startswith(f"{phase}/")}
            graph = parse_module(files["graph.mlir"].decode(), f"{phase}/graph.mlir")
            self._lowerings[phase] = WrittenLowering(graph, phase, self._options, like, files)
        return self._lowerings[phase]

    def executable(self, phase: Phase, update: Update | None) -> Executable:
        """The code of a phase, as it was written; an optimizer's update is compiled."""
        key = (phase, update.key if update is not None else None)
        if key not in self._executables:
            lowering = self.phase(phase)
            self._executables[key] = self.target.build(
                lowering if update is None else lowering.with_update(update.plan())
            )
        return self._executables[key]

    def at(self, dims: Mapping[str, Dim], phase: Phase) -> Source | None:
        """A written module has one choice of dims."""
        return None

    def with_dims(self, dims: Mapping[str, Dim]) -> WrittenModule:
        """A written module has one choice of dims."""
        at = ", ".join(f"{name}={value}" for name, value in self.dims.items())
        raise UsageError(Diagnostic(f"the module was written for {at}", help="compile the net anew for other sizes"))


class WrittenLowering(Lowering):
    """Levels are read, not made."""

    def __init__(self, graph: Module, phase: Phase, options: Options, like: Any, files: Mapping[str, bytes]) -> None:
        super().__init__(graph, phase, options, like)
        self.files = files

    def level(self, name: str) -> Module:
        """The module of a level, as it was written."""
        if self.update is not None and name in ("plan", "loops"):
            return module_of(self.plan) if name == "plan" else self.loops
        if name not in self._levels:
            self._levels[name] = parse_module(self.files[f"{name}.mlir"].decode(), f"{self.phase}/{name}.mlir")
        return self._levels[name]

    @cached_property
    def net_plan(self) -> Plan:
        """The plan as it was written."""
        return plan_of(self.level("plan"))

    @cached_property
    def loops(self) -> Module:
        """The loops as they were written; with an optimizer's update they are made."""
        return self.level("loops") if self.update is None else LowerToLoops().run(self.plan)

    @property
    def code(self) -> ObjectCode:
        """The object code, in order."""
        objects = [data for name, data in self.files.items() if name.endswith(".o")]
        return ObjectCode(objects, json.loads(self.files["symbols.json"]))


@dataclass(frozen=True)
class WrittenTarget:
    """Loads object code; compiles only what was not written (the update of an optimizer)."""

    name: str = "cpu"
    runs_plan: bool = True

    def build(self, lowered: Lowered) -> Executable:
        """Load the code of a phase."""
        if isinstance(lowered, WrittenLowering) and lowered.update is None:
            table = StepNumbers.of(step_table(lowered.loops.main))
            return CpuExecutable(table, LoadedCode.of(lowered.code), lambda what: "")
        return CpuTarget().build(lowered)
