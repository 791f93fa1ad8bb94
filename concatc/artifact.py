"""Modules on disk: what ``concatc compile -o DIR`` writes (`manifest.py` lists it) and :func:`concatc.load` reads.

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
from pathlib import Path
from typing import Any

from concatc.batch_sizes.data import data_of as sizes_of
from concatc.compiler import Compilation
from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import beside, make_folder_of
from concatc.ir.levels import LEVELS
from concatc.ir.printer import MACHINE
from concatc.manifest import (
    FORMAT,
    INIT,
    KERNELS,
    MANIFEST,
    NET,
    SIZES,
    STEP,
    Manifest,
    level_file,
    read_files,
    read_manifest,
    run_files,
)
from concatc.runtime.runnable import data_of
from concatc.runtime.source import Phase
from concatc.targets.cpu.native import host
from concatc.targets.cpu.step_table import step_table
from concatc.targets.cpu.step_text import table_text
from concatc.targets.cpu.target import CpuTarget
from concatc.version import __version__

PYCACHE = "__pycache__"

LOADER = '''"""The net {name}, compiled by concatc {version}: ``load()`` gives it; its weights are apart."""

from pathlib import Path

import concatc


def load(*, threads: int | None = None) -> concatc.CompiledModule:
    """The compiled module, to be run by so many threads."""
    return concatc.load(Path(__file__).parent, threads=threads)
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
    files = {INIT: LOADER.format(name=compilation.name, version=__version__).encode()}
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
    made = {level_file(level): lowering.dump(level, MACHINE).encode() for level in LEVELS}
    made[KERNELS] = generated.text("kernels").encode()
    made[NET] = (json.dumps(data_of(lowering), indent=1) + "\n").encode()
    made[SIZES] = (json.dumps(_sizes(compilation, phase)) + "\n").encode()
    made[STEP] = "".join(table_text(step_table(lowering.loops), code.symbols, code.grains)).encode()
    made.update((f"code{k}.o", data) for k, data in enumerate(code.objects))
    names = (*run_files(phase, len(code.objects)), *read_files(phase))
    return {name: made[name.removeprefix(f"{phase}/")] for name in names}


def _sizes(compilation: Compilation, phase: Phase) -> dict[str, Any]:
    """How the phase follows from its batch sizes, or why it does not."""
    scaled = compilation.scaled(phase)
    if scaled is not None:
        return sizes_of(scaled)
    if compilation.options.max_memory is not None:
        return {"reason": "a memory budget is met size by size"}
    return {"reason": compilation.scaling.reasons[phase]}


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
    make_folder_of(directory)
    try:
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
