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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from concatc.batch_sizes.data import data_of as sizes_of
from concatc.compiler import Compilation
from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import beside, make_folder_of
from concatc.ir.levels import LEVELS
from concatc.ir.printer import MACHINE
from concatc.lowering import Lowering
from concatc.manifest import (
    FORMAT,
    INIT,
    KERNELS,
    MANIFEST,
    NET,
    SIZES,
    STEP,
    TARGETS,
    UPDATE,
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
    target = compilation.options.target
    if target not in TARGETS:
        raise UsageError(f"the target `{target}` has no object code to write")
    _check_replaceable(directory)
    if not directory.name.isidentifier() or keyword.iskeyword(directory.name):
        name = re.sub(r"\W", "_", directory.name)
        hint = f"{name} would be one" if name.isidentifier() and not keyword.iskeyword(name) else None
        raise UsageError(Diagnostic(f"`{directory.name}` is no name that Python can import", help=hint))
    phases = compilation.phases
    files = {INIT: LOADER.format(name=compilation.name, version=__version__).encode()}
    machine = {"name": "", "features": ""}
    if target == "cuda":
        arches, parts = _cuda_files(compilation, phases)
    else:
        arches, parts = [], {phase: _cpu_files(compilation, phase) for phase in phases}
        machine = {"name": host().name, "features": host().features}
    objects: dict[str, int] = {}
    for part, made in parts.items():
        code = sum(name.endswith((".o", ".cubin")) for name in made)
        objects[part] = code // len(arches) if arches else code
        names = dict.fromkeys((*run_files(part, objects[part], arches), *read_files(part)))
        files.update((name, made[name.removeprefix(f"{part}/")]) for name in names)
    manifest = Manifest(
        FORMAT,
        concatc=__version__,
        net=compilation.name,
        source=compilation.filename,
        dims=dict(compilation.dims),
        dtype=compilation.options.dtype,
        target=target,
        objects=objects,
        cpu=machine,
        arches=arches,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    files[MANIFEST] = manifest.text()
    _write_directory(directory, files)


def _cpu_files(compilation: Compilation, phase: Phase) -> dict[str, bytes]:
    """The files of a phase by their names in its folder."""
    lowering = compilation.phase(phase)
    code, generated = CpuTarget().compile_loops(lowering.loops)
    made = _common_files(lowering, _sizes(compilation, phase))
    made[KERNELS] = generated.text("kernels").encode()
    made[STEP] = "".join(table_text(step_table(lowering.loops), code.symbols, code.grains)).encode()
    made.update((f"code{k}.o", data) for k, data in enumerate(code.objects))
    return made


def _cuda_files(compilation: Compilation, phases: Sequence[Phase]) -> tuple[list[str], dict[str, dict[str, bytes]]]:
    """The architectures, and the files of each phase and of optimizers."""
    from concatc.targets.cuda.target import CudaTarget
    from concatc.written_cuda import phase_code, update_code

    target = compilation.target
    assert isinstance(target, CudaTarget), "the target of these options"
    parts: dict[str, dict[str, bytes]] = {}
    for phase in phases:
        lowering = compilation.phase(phase)
        common = _common_files(lowering, {"reason": "device kernels are made for the sizes of a net"})
        parts[phase] = {**common, **phase_code(lowering, compilation.options, target.arches)}
    update = update_code(compilation.phase("train"), target.arches)
    return list(target.arches), {**parts, **({UPDATE: update} if update else {})}


def _common_files(lowering: Lowering, sizes: Mapping[str, Any]) -> dict[str, bytes]:
    made = {level_file(level): lowering.dump(level, MACHINE).encode() for level in LEVELS}
    made[NET] = (json.dumps(data_of(lowering), indent=1) + "\n").encode()
    made[SIZES] = (json.dumps(sizes) + "\n").encode()
    return made


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
