"""The ``cuda`` target: from a plan to device kernels, their PTX and device code.

    plan -> Numba-CUDA source, launches -> PTX -> cubin, sass      everything that needs no GPU

It runs on the emulator of the source (``CONCATC_CUDA_EMULATOR=1``): launches on a device are not there yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError
from concatc.loops.memory import Array, allocate
from concatc.stages import stage
from concatc.targets import Lowered, Peaks
from concatc.targets.call import CallSpec, NativeCall
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.emulator.program import Program
from concatc.targets.cuda.emulator.run import run_launch
from concatc.targets.cuda.kernels import gpu_module
from concatc.targets.cuda.launches import SCRATCH, GpuModule

EMULATOR = "CONCATC_CUDA_EMULATOR"
ARCHES = ("sm_80", "sm_90")
TEXTS = ("kernels", "launches", "ptx", "sass")


@dataclass(frozen=True)
class CudaTarget:
    """Device kernels for the architectures ``arches``, which PTX and device code are made for."""

    arches: tuple[str, ...] = ARCHES

    name: str = "cuda"
    runs_plan: bool = True
    serves_sizes: bool = False

    def build(self, lowered: Lowered, meanwhile: Callable[[], object] = lambda: None) -> CudaExecutable:
        """Generate the source and the launches; what is compiled of them is compiled when it is asked for."""
        with stage("emit"):
            return CudaExecutable(gpu_module(lowered.plan), self.arches)

    def peaks(self, again: bool = False) -> Peaks:
        """See :class:`concatc.targets.Target`."""
        raise UsageError(_no_device("it cannot be measured"))


@dataclass(eq=False)
class CudaExecutable:
    """The kernels of a net and their launches."""

    module: GpuModule
    arches: tuple[str, ...]
    _scratch: Array = field(init=False)

    def __post_init__(self) -> None:
        self._scratch = allocate(self.module.bases.get(SCRATCH, 0))

    @cached_property
    def _program(self) -> Program:
        return Program(self.module.source)

    def thread_bytes(self, threads: int) -> int:
        """Threads of the host have no memory of their own."""
        return 0

    def run(self, bases: Mapping[str, Array], phase: str, threads: int = 1) -> None:
        """Run the launches of a phase on the emulator; see :class:`concatc.targets.Executable`.

        Raises :class:`UsageError` where the emulator is not asked for.
        """
        if os.environ.get(EMULATOR) != "1":
            raise UsageError(_no_device("it does not run nets yet"))
        memory = {**bases, SCRATCH: self._scratch}
        for launch in self.module.launches:
            if phase in ("step", launch.phase):
                run_launch(self._program, launch, memory, self.module.signatures[launch.kernel])

    def run_timed(self, bases: Mapping[str, Array], phase: str, clock: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """See :class:`concatc.targets.Executable`."""
        raise UsageError(_no_device("its launches cannot be timed"))

    @property
    def launches(self) -> tuple[tuple[str, str], ...]:
        """The kernel and the phase of each launch on the device, in order."""
        return tuple((launch.kernel, launch.phase) for launch in self.module.launches)

    def shared(self, threads: int) -> tuple[float, ...]:
        """Threads of the host share nothing."""
        return (0.0,) * len(self.module.launches)

    def native_call(self, bases: Mapping[str, Array], spec: CallSpec, threads: int = 1) -> NativeCall | None:
        """There is none."""
        return None

    def text(self, what: str) -> str:
        """``kernels`` (the source), ``launches``, ``ptx`` or ``sass``; see :class:`concatc.targets.Executable`."""
        match what:
            case "kernels":
                return self.module.source
            case "launches":
                return self.module.launch_list()
            case "ptx":
                return "".join(text for arch in self.arches for text in self._ptx(arch).values())
            case "sass":
                from concatc.targets.cuda.ptx import sass_of

                return "".join(sass_of(cubin) for cubin in self.cubins().values())
        raise UsageError(f"the cuda target emits {', '.join(TEXTS)} and cubin, not `{what}`")

    def cubins(self) -> dict[str, bytes]:
        """Device code by the name of a file: a kernel and an architecture."""
        from concatc.targets.cuda.ptx import cubin_of

        return {
            f"{name}.{arch}.cubin": cubin_of(text, Arch.of(arch))[0]
            for arch in self.arches
            for name, text in self._ptx(arch).items()
        }

    def _ptx(self, arch: str) -> dict[str, str]:
        from concatc.targets.cuda.ptx import ptx_of

        return ptx_of(self.module, Arch.of(arch))


def _no_device(what: str) -> Diagnostic:
    return Diagnostic(
        f"the target `cuda` makes kernels, launches and device code; {what}",
        help=f"{EMULATOR}=1 runs its kernels on an emulator (slowly); --target cpu runs nets",
    )
