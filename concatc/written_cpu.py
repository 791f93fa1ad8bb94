"""The code of a written module of the target ``cpu``: object files, and the tables that run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from concatc.diagnostics import ConcatcError, Diagnostic, UsageError
from concatc.manifest import KERNELS, NET, STEP, Manifest, object_files
from concatc.runtime.source import Phase, Update
from concatc.targets.cpu.executable import CpuExecutable, LoadedCode
from concatc.targets.cpu.lazy_target import LazyCpuTarget
from concatc.targets.cpu.native import host
from concatc.targets.cpu.step_text import TableError, read_table
from concatc.written_files import ReadPhase, WrittenFiles


class WrittenCpu:
    """Loads code of a written module; see :class:`concatc.written.WrittenCode`."""

    def __init__(self, manifest: Manifest, files: WrittenFiles) -> None:
        self.target = LazyCpuTarget()
        self._objects: Mapping[str, int] = manifest.objects
        self._files = files

    @staticmethod
    def check(directory: Path, manifest: Manifest) -> None:
        """Raise :class:`UsageError` where this machine does not run it."""
        needed = {f for f in manifest.cpu["features"].split(",") if f.startswith("+")}
        missing = sorted(f.removeprefix("+") for f in needed - set(host().features.split(",")))
        if missing:
            raise UsageError(
                Diagnostic(
                    f"{directory} was compiled for {manifest.cpu['name']}; this CPU lacks {', '.join(missing)}",
                    help="compile the net on this machine",
                )
            )

    def loaded(self, phase: Phase, written: ReadPhase) -> CpuExecutable:
        """The code of a phase."""
        step = f"{phase}/{STEP}"
        try:
            table, symbols = read_table(self._files.lines(step))
        except TableError as error:
            raise self._files.damaged(step, str(error)) from None
        if table.bases != [(name, base.size_bytes) for name, base in written.bases.items()]:
            raise self._files.damaged(step, f"its bases are not those of {NET}")
        objects = (self._files.read(f"{phase}/{name}") for name in object_files(self._objects[phase]))
        try:
            code = LoadedCode.of(objects, symbols)
        except ConcatcError as error:
            raise self._files.damaged(step, str(error)) from None
        return CpuExecutable(table, code, written.generated)

    def with_update(self, code: CpuExecutable, written: ReadPhase, update: Update) -> CpuExecutable:
        """The code of a phase and an update, which is compiled, behind it."""
        from concatc.passes.lower_to_loops import lower_to_loops
        from concatc.targets.cpu.target import CpuTarget

        plan = update.plan()
        loops = lower_to_loops(replace(plan, bases={**written.bases, **plan.bases}))
        return code.followed_by(CpuTarget().build_loops(loops))

    def text(self, phase: Phase, written: ReadPhase, what: str) -> str:
        """``kernels`` as they were written; ``llvm`` and ``asm`` are generated from the loops."""
        from concatc.targets.cpu.target import CpuTarget

        if what == "kernels":
            return self._files.text(f"{phase}/{KERNELS}")
        return CpuTarget().compile_loops(written.loops)[1].text(what)
