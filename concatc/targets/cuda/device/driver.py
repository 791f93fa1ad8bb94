"""What running a net asks of a device, and no more; :mod:`cuda_driver` does it, :mod:`emulated_driver` plays it.

    allocate, upload, load, [capture: launch, launch, ..] -> graph, launch_graph, download, synchronize

Addresses and handles are numbers.  Work is put on a stream, and done in its order at some time before `synchronize`
returns; a fault of a kernel shows there, or at any call behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.loops.memory import Array
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.carried import Carried
from concatc.targets.cuda.launches import GpuModule

OUT_OF_MEMORY = 2
FAULTS = range(700, 800)  # of a kernel, told by whatever call comes next
SYNC = "CONCATC_CUDA_SYNC"
NO_BINARY_FOR_GPU, INVALID_PTX, UNSUPPORTED_PTX = 209, 218, 222


class DriverError(ConcatcError):
    """A call of the driver that failed: ``code`` and ``name`` are the driver's (700, CUDA_ERROR_ILLEGAL_ADDRESS)."""

    def __init__(self, call: str, code: int, name: str, text: str) -> None:
        self.call, self.code, self.name, self.text = call, code, name, text
        help = f"{SYNC}=1 says which kernel it was, and of which line" if code in FAULTS else None
        super().__init__(Diagnostic(f"{call} failed with {name} ({code}): {text}", help=help))


_CELLS = {"f32": "<f4", "f64": "<f8", "i1": "u1", "i8": "i1", "i32": "<i4", "i64": "<i8"}


@dataclass(frozen=True)
class Parameters:
    """The arguments of a launch as a driver reads them: a cell of eight bytes each, which begins with the value."""

    cells: Array
    types: tuple[str, ...]

    @staticmethod
    def of(values: Sequence[int | float], types: Sequence[str]) -> Parameters:
        """``types`` are those of a signature (``*f32``, ``i32``, ``i1``); a pointer's value is an address."""
        cells = np.zeros(len(values), np.uint64)
        for k, (value, type) in enumerate(zip(values, types, strict=True)):
            dtype = np.dtype("<u8" if type.startswith("*") else _CELLS[type])
            cells[k : k + 1].view(dtype)[0] = value
        return Parameters(cells, tuple(types))

    def values(self) -> list[int | float]:
        """The values, read back."""
        dtypes = [np.dtype("<u8" if type.startswith("*") else _CELLS[type]) for type in self.types]
        return [self.cells[k : k + 1].view(dtype)[0].item() for k, dtype in enumerate(dtypes)]


class Driver(Protocol):
    """One device."""

    @property
    def device(self) -> str:
        """Its name."""
        ...

    @property
    def arch(self) -> Arch:
        """Its architecture."""
        ...

    def images(self, module: GpuModule, carried: Carried | None = None) -> dict[str, bytes]:
        """What :meth:`load` takes, by kernel: code that is there, if any, or what is made of the module."""
        ...

    def entered(self) -> AbstractContextManager[None]:
        """The device's context is this thread's in here; all calls below are made in one."""
        ...

    def memory_info(self) -> tuple[int, int]:
        """Bytes that are free, and bytes in all."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """The address of so many bytes, a multiple of 256; their content is anything."""
        ...

    def free(self, address: int) -> None:
        """Give memory back, at any time and from any thread; says nothing where there is no device any more."""
        ...

    def allocate_host(self, size_bytes: int) -> Array:
        """Pinned host memory, given back when no array needs it any more."""
        ...

    def stream(self) -> int:
        """A stream."""
        ...

    def free_stream(self, stream: int) -> None:
        """Give a stream back, as :meth:`free` does."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until all that was put on the stream is done."""
        ...

    def upload(self, address: int, host: Array, stream: int) -> None:
        """Copy from the host; pinned memory is read later, and must stay as it is until then."""
        ...

    def download(self, host: Array, address: int, stream: int) -> None:
        """Copy to the host."""
        ...

    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy within the device."""
        ...

    def clear(self, address: int, size_bytes: int, stream: int) -> None:
        """Write zeros."""
        ...

    def load(self, image: bytes, kernel: str) -> int:
        """A kernel of device code."""
        ...

    def unload(self, functions: Sequence[int]) -> None:
        """Give kernels back, as :meth:`free` does, when those that run are done."""
        ...

    def launch(self, function: int, grid: int, block: int, parameters: Parameters, stream: int) -> None:
        """Launch a kernel."""
        ...

    def begin_capture(self, stream: int) -> None:
        """What is put on the stream from here on is recorded."""
        ...

    def end_capture(self, stream: int) -> int:
        """A graph of what was recorded, ready to launch."""
        ...

    def launch_graph(self, graph: int, stream: int) -> None:
        """Run what was recorded, with the arguments of then."""
        ...

    def free_graph(self, graph: int) -> None:
        """Give a graph back, as :meth:`free` does."""
        ...

    def event(self) -> int:
        """A mark that may be put on a stream."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Put it there."""
        ...

    def elapsed_ms(self, first: int, last: int) -> float:
        """Milliseconds from one mark to another; both were passed."""
        ...

    def free_event(self, event: int) -> None:
        """Give a mark back."""
        ...

    def wait_for(self, stream: int, other: int) -> None:
        """What is put on ``stream`` from here on waits for all that is on another one, a caller's, now."""
        ...

    def holds(self, address: int) -> bool:
        """Whether an address is of memory of this device."""
        ...
