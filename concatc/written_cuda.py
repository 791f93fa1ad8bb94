"""The code of a written module of the target ``cuda``: launches, and device code for some architectures.

    update/updates.json      [{"optimizer": "SGD(..)", "source": "..", "kernel": "update0_sgd", "types": ["*f32", ..],
                               "block": 256}, ..], whose code is update/code0.sm_80.cubin, ..

A driver takes the code that fits its device; the emulator runs the source instead, which it parses and never executes.
Kernels of an optimizer are found by their source: those of other optimizers are compiled, where there is a compiler.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concatc.diagnostics import UsageError
from concatc.manifest import KERNELS, NET, STEP, UPDATE, UPDATES, Manifest
from concatc.options import Options
from concatc.runtime.optimizers import kinds
from concatc.runtime.source import Phase, Update
from concatc.runtime.update_plan import UpdateLayout
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.carried import Carried
from concatc.targets.cuda.device.code import cubins_of
from concatc.targets.cuda.device.driver import Driver
from concatc.targets.cuda.kernels import gpu_module
from concatc.targets.cuda.launch_text import LaunchError, launch_text, read_launches, signature_of
from concatc.targets.cuda.launches import MOST_THREADS, SCRATCH, GpuModule
from concatc.targets.cuda.ptx import largest_blocks
from concatc.targets.cuda.target import CudaExecutable, CudaTarget
from concatc.written_files import ReadPhase, WrittenFiles

if TYPE_CHECKING:
    from concatc.lowering import Lowering

ENTRY = ("optimizer", "source", "kernel", "types", "block")


class WrittenCuda:
    """Loads code of a written module; see :class:`concatc.written.WrittenCode`."""

    def __init__(self, manifest: Manifest, files: WrittenFiles) -> None:
        self._arches = tuple(map(Arch.of, manifest.arches))
        self.target = CudaTarget(tuple(manifest.arches))
        self._objects: Mapping[str, int] = manifest.objects
        self._files = files

    @staticmethod
    def check(directory: Path, manifest: Manifest) -> None:
        """Nothing is known of a device before one is asked for."""

    def loaded(self, phase: Phase, written: ReadPhase) -> CudaExecutable:
        """The code of a phase; device code is read when it first runs."""
        step, source = f"{phase}/{STEP}", self._files.text(f"{phase}/{KERNELS}")
        try:
            module = read_launches(self._files.lines(step), source)
        except LaunchError as error:
            raise self._files.damaged(step, str(error)) from None
        bases = {name: size_bytes for name, size_bytes in module.bases.items() if name != SCRATCH}
        if bases != {name: base.size_bytes for name, base in written.bases.items()}:
            raise self._files.damaged(step, f"its bases are not those of {NET}")
        if len(module.signatures) != self._objects[phase]:
            raise self._files.damaged(step, "its kernels are not those that there is code of")
        carried = self._carried(phase, {kernel: k for k, kernel in enumerate(module.signatures)})
        return CudaExecutable(module, self.target.arches, lambda driver: driver.images(module, carried))

    def with_update(self, code: CudaExecutable, written: ReadPhase, update: Update) -> CudaExecutable:
        """The code of a phase and an update behind it."""
        plan = update.plan()
        module = gpu_module(replace(plan, bases={**written.bases, **plan.bases}))
        entries = self._updates()
        there = {(e["source"], e["kernel"], tuple(e["types"])): (k, e["block"]) for k, e in enumerate(entries)}
        blocks = largest_blocks(module.launches)
        found = {kernel: there.get((module.source, kernel, types)) for kernel, types in module.signatures.items()}
        numbers = {kernel: at[0] for kernel, at in found.items() if at is not None and at[1] >= blocks[kernel]}
        carried = self._carried(UPDATE, numbers) if numbers.keys() == found.keys() else None

        def images(driver: Driver) -> dict[str, bytes]:
            here = code.code(driver)
            try:
                return {**here, **driver.images(module, carried)}
            except UsageError as error:
                if carried is not None:
                    raise
                known = "no optimizer" if not there else ", ".join(dict.fromkeys(e["optimizer"] for e in entries))
                note = f"the module carries the kernels of {known}; those of others are compiled"
                raise UsageError([replace(d, notes=(*d.notes, note)) for d in error.diagnostics]) from None

        return CudaExecutable(code.module.followed_by(module), self.target.arches, images)

    def text(self, phase: Phase, written: ReadPhase, what: str) -> str:
        """``kernels`` and ``launches`` as they were written; source that was read is compiled to nothing."""
        if what not in ("kernels", "launches"):
            raise UsageError(f"a written module of the target cuda has kernels and launches as text, not `{what}`")
        return self.loaded(phase, written).text(what)

    def _carried(self, phase: str, numbers: Mapping[str, int]) -> Carried:
        def read(kernel: str, arch: Arch) -> bytes:
            return self._files.read(f"{phase}/code{numbers[kernel]}.{arch}.cubin")

        return Carried(str(self._files.directory), self._arches, read)

    def _updates(self) -> list[dict[str, Any]]:
        file = f"{UPDATE}/{UPDATES}"
        if UPDATE not in self._objects:
            return []
        try:
            entries = json.loads(self._files.read(file))
        except (ValueError, RecursionError):
            raise self._files.damaged(file, "it is no JSON") from None
        if not isinstance(entries, list) or len(entries) != self._objects[UPDATE] or not all(map(_is_entry, entries)):
            raise self._files.damaged(file, "it is no list of kernels, each with its code")
        return entries


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != set(ENTRY):
        return False
    try:
        signature_of(value["types"])
    except ValueError:
        return False
    texts = all(isinstance(value[key], str) for key in ("optimizer", "source", "kernel"))
    return texts and type(value["block"]) is int and 0 < value["block"] <= MOST_THREADS


# -- to be written -----------------------------------------------------------------------------------------------------
def phase_code(lowering: Lowering, options: Options, arches: Iterable[str]) -> dict[str, bytes]:
    """The files of a phase that hold its kernels and launches, by their names in the folder of the phase.

    Raises :class:`UsageError` where there is no compiler.
    """
    module = gpu_module(lowering.plan, options.precision)
    made = {KERNELS: module.source.encode(), STEP: "".join(launch_text(module)).encode()}
    return {**made, **_cubins([module], arches)}


def update_code(lowering: Lowering, arches: Iterable[str]) -> dict[str, bytes]:
    """The files with the kernels of optimizers; none for a net that has nothing to train."""
    modules: list[GpuModule] = []
    entries: list[dict[str, Any]] = []
    for optimizer in kinds():
        layout = UpdateLayout.of(optimizer, lowering.signature, lowering.interface)
        if not layout.ranges or not lowering.signature.loss_weights:
            return {}
        plan = layout.plan(optimizer)
        module = gpu_module(replace(plan, bases={**lowering.plan.bases, **plan.bases}))
        blocks = largest_blocks(module.launches)
        modules.append(module)
        for kernel, types in module.signatures.items():
            values = (repr(optimizer), module.source, kernel, types, blocks[kernel])
            entries.append(dict(zip(ENTRY, values, strict=True)))
    return {UPDATES: (json.dumps(entries, indent=1) + "\n").encode(), **_cubins(modules, arches)}


def _cubins(modules: Iterable[GpuModule], arches: Iterable[str]) -> dict[str, bytes]:
    """Device code of all kernels of modules, numbered in their order."""
    made: dict[str, bytes] = {}
    for arch in arches:
        codes = [code for module in modules for code in cubins_of(module, Arch.of(arch)).values()]
        made.update((f"code{k}.{arch}.cubin", code) for k, code in enumerate(codes))
    return made
