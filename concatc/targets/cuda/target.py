"""The ``cuda`` target: from a plan to device kernels, their PTX and device code.

    plan -> Numba-CUDA source, launches -> PTX -> cubin, sass      everything that needs no GPU

It runs on the first NVIDIA device, or on the emulator of the source (``CONCATC_CUDA_EMULATOR=1``); see ``device/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError
from concatc.loops.memory import Array
from concatc.passes.choose_algorithms import Precision
from concatc.stages import stage
from concatc.targets import NOTHING, Beside, Lowered, Peaks
from concatc.targets.call import CallSpec, NativeCall
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.device.call import DeviceCall
from concatc.targets.cuda.device.choice import chosen_driver
from concatc.targets.cuda.device.driver import Driver
from concatc.targets.cuda.device.memory import DeviceMemory, Mirror
from concatc.targets.cuda.device.step import DeviceStep, Images
from concatc.targets.cuda.kernels import gpu_module
from concatc.targets.cuda.launches import GpuModule

ARCHES = ("sm_80", "sm_90")
STEP = ("forward", "backward", "update")
TEXTS = ("kernels", "launches", "ptx", "sass")


@dataclass(frozen=True)
class CudaTarget:
    """Device kernels for the architectures ``arches``, which PTX and device code are made for.

    ``precision`` says how products are computed; see :func:`concatc.targets.cuda.kernels.gpu_module`.
    """

    arches: tuple[str, ...] = ARCHES
    precision: Precision = "high"

    name: str = "cuda"
    runs_plan: bool = True
    serves_sizes: bool = False

    def build(self, lowered: Lowered, beside: Beside = NOTHING) -> CudaExecutable:
        """Generate the source and the launches; what is compiled of them is compiled when it is asked for."""
        beside.meanwhile()
        with stage("emit"):
            return CudaExecutable(gpu_module(lowered.plan, self.precision), self.arches)

    def memory(self) -> DeviceMemory:
        """See :class:`concatc.targets.Target`."""
        return DeviceMemory(chosen_driver)

    def peaks(self, again: bool = False) -> Peaks:
        """See :class:`concatc.targets.Target`."""
        raise UsageError(
            Diagnostic(
                "what a device can do is not measured: the target `cuda` has no roofline",
                help="nsys and ncu profile its kernels, which have the names of `--emit kernels`",
            )
        )


@dataclass(eq=False)
class CudaExecutable:
    """The kernels of a net and their launches."""

    module: GpuModule
    arches: tuple[str, ...]
    images: Images | None = None  # where the code is not the driver's to make
    _step: DeviceStep | None = None

    def thread_bytes(self, threads: int) -> int:
        """Threads of the host have no memory of their own."""
        return 0

    def run(self, bases: Mapping[str, Array], phase: str, threads: int = 1) -> None:
        """Put the launches of a phase on the device's stream; see :class:`concatc.targets.Executable`.

        The bases are of a :class:`DeviceMemory`, which waits for the device where their arrays are read.
        """
        self._on(bases).run(bases, STEP if phase == "step" else (phase,))

    def run_timed(self, bases: Mapping[str, Array], phase: str, clock: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """See :class:`concatc.targets.Executable`; the device's own clock is read, whatever ``clock`` is."""
        taken = self._on(bases).timed(bases, STEP if phase == "step" else (phase,))
        return np.array([0, *(ms * 1e6 for ms in taken)]).astype(np.int64)

    def code(self, driver: Driver) -> Mapping[str, bytes]:
        """What a driver loads, by kernel."""
        return driver.images(self.module) if self.images is None else self.images(driver)

    def _on(self, bases: Mapping[str, Array]) -> DeviceStep:
        """The launches on the device that these bases lie on."""
        memory = _memory_of(bases)
        if self._step is None or self._step.memory is not memory:
            self._step = DeviceStep(self.module, memory, self.code)
        return self._step

    @property
    def launches(self) -> tuple[tuple[str, str], ...]:
        """The kernel and the phase of each launch on the device, in order."""
        return tuple((launch.kernel, launch.phase) for launch in self.module.launches)

    def shared(self, threads: int) -> tuple[float, ...]:
        """Threads of the host share nothing."""
        return (0.0,) * len(self.module.launches)

    def native_call(self, bases: Mapping[str, Array], spec: CallSpec, threads: int = 1) -> NativeCall | None:
        """See :class:`concatc.targets.Executable`.

        There is none where indices lie in states, which the device writes.
        """
        if any(bounds.window not in spec.inputs.values() for bounds in spec.bounds):
            return None
        return DeviceCall(self._on(bases), _memory_of(bases), bases, spec)

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


def _memory_of(bases: Mapping[str, Array]) -> DeviceMemory:
    found = [base.memory for base in bases.values() if isinstance(base, Mirror)]
    assert found, "bases of this target come from its memory()"
    return found[0]
