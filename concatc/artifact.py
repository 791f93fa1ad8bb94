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
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from concatc import __version__
from concatc.compiler import LEVELS, Compilation, Lowering, Options
from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.core import Module
from concatc.ir.parser import parse_module
from concatc.ir.printer import MACHINE
from concatc.loops.plan import Plan
from concatc.loops.plan_text import module_of, plan_of
from concatc.passes.lower_to_loops import LowerToLoops
from concatc.runtime.module import CompiledModule
from concatc.runtime.source import Dim, Phase
from concatc.targets import Executable, Lowered
from concatc.targets.cpu.native import host
from concatc.targets.cpu.target import CpuExecutable, CpuTarget, ObjectCode

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20

LOADER = '''"""The net {name}, compiled by concatc {version}: ``load()`` gives it; its weights are apart."""

from pathlib import Path

import concatc


def load() -> concatc.CompiledModule:
    """The compiled module."""
    return concatc.load(Path(__file__).parent)
'''


def write_module(compilation: Compilation, directory: Path) -> None:
    """Write a module; the directory is filled beside and then renamed.

    Raises :class:`UsageError` where ``directory`` is something else than a written module, and for targets that have no
    object code.
    """
    if compilation.options.target != "cpu":
        raise UsageError(f"the target `{compilation.options.target}` has no object code to write")
    if directory.exists() and not (directory / MANIFEST).is_file():
        raise UsageError(f"{directory} exists and is no written module; it is left alone")
    if not directory.name.isidentifier():
        raise UsageError(f"`{directory.name}` is no name that Python can import")
    phases: list[Phase] = ["train"]
    if compilation.phase("train").graph.main.returned("output"):
        phases.append("infer")
    files = {"__init__.py": LOADER.format(name=compilation.name, version=__version__).encode()}
    for phase in phases:
        files.update(_phase_files(compilation, phase))
    machine = host()
    manifest = {
        "format": FORMAT,
        "concatc": __version__,
        "net": compilation.name,
        "source": compilation.filename,
        "dims": compilation.dims,
        "dtype": compilation.options.dtype,
        "phases": phases,
        "cpu": {"name": machine.name, "features": machine.features},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    _write_directory(directory, files)


def _phase_files(compilation: Compilation, phase: Phase) -> dict[str, bytes]:
    lowering = compilation.phase(phase)
    executable = cast(CpuExecutable, compilation.target.build(lowering))
    files = {f"{phase}/{level}.mlir": lowering.dump(level, MACHINE).encode() for level in LEVELS}
    files[f"{phase}/kernels.py"] = executable.text("kernels").encode()
    files.update((f"{phase}/code{k}.o", data) for k, data in enumerate(executable.code.objects))
    files[f"{phase}/symbols.json"] = json.dumps(executable.code.symbols, indent=2).encode()
    return files


def _write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}", dir=directory.parent))
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}") from None
    try:
        for name, data in files.items():
            path = beside / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        beside.chmod(0o755)
        if directory.exists():
            # A directory cannot be replaced in one step: the old one goes once the new one is whole.
            shutil.rmtree(directory)
        beside.rename(directory)
    except OSError as error:
        raise UsageError(f"cannot write {directory}: {error.strerror}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load_module(directory: Path) -> CompiledModule:
    """Load a written module.

    Raises :class:`UsageError` where it is incomplete, changed, of another version or made for another machine.
    """
    manifest = _manifest(directory)
    _check_machine(directory, manifest)
    files = {name: _file(directory, name, digest) for name, digest in manifest["files"].items()}
    return CompiledModule(WrittenModule(manifest, files))


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise UsageError(f"{path} is too large to be a manifest")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{directory} is no written module: {MANIFEST}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path} is damaged: it is no JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UsageError(
            Diagnostic(f"{directory} is not in format {FORMAT}", help="write it again: `concatc compile NET -o DIR`")
        )
    if manifest["concatc"] != __version__:
        raise UsageError(
            Diagnostic(
                f"{directory} was written by concatc {manifest['concatc']}, this is {__version__}",
                help="write it again: `concatc compile NET -o DIR`",
            )
        )
    return manifest


def _check_machine(directory: Path, manifest: Mapping[str, Any]) -> None:
    needed = {f for f in str(manifest["cpu"]["features"]).split(",") if f.startswith("+")}
    missing = sorted(f.removeprefix("+") for f in needed - set(host().features.split(",")))
    if missing:
        raise UsageError(
            Diagnostic(
                f"{directory} was compiled for {manifest['cpu']['name']}; this CPU lacks {', '.join(missing)}",
                help="compile the net on this machine",
            )
        )


def _file(directory: Path, name: str, digest: str) -> bytes:
    path = directory / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UsageError(f"{directory / MANIFEST} names the file {name} outside the module")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{directory} is incomplete: {name}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise UsageError(f"{path} was changed or damaged after it was written")
    return data


class WrittenModule:
    """The source behind a loaded module: levels from their files, code from its object files, one choice of dims."""

    def __init__(self, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        self.name = str(manifest["net"])
        self.dims: dict[str, Dim] = dict(manifest["dims"])
        self._files = files
        self._options = Options(dtype=manifest["dtype"])
        self._phases: list[str] = list(manifest["phases"])
        self._lowerings: dict[Phase, WrittenLowering] = {}
        self.target = WrittenTarget()

    def phase(self, phase: Phase) -> WrittenLowering:
        """The net in one phase."""
        if phase not in self._phases:
            raise UsageError(f"the module was written without the phase `{phase}`")
        if phase not in self._lowerings:
            like = None if phase == "train" else lambda: self.phase("train").interface
            files = {n.removeprefix(f"{phase}/"): d for n, d in self._files.items() if n.startswith(f"{phase}/")}
            graph = parse_module(files["graph.mlir"].decode(), f"{phase}/graph.mlir")
            self._lowerings[phase] = WrittenLowering(graph, phase, self._options, like, files)
        return self._lowerings[phase]

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
            return CpuTarget().load(lowered.loops, lowered.code)
        return CpuTarget().build(lowered)
