"""A driver without a device: addresses are made up, kernels run on the emulator of their source.

Nothing that is put on a stream is done before the stream is synchronised, but for what a device does at once, too:
copies from and to memory that is not pinned.  Fresh memory is NaN.  So what runs on it runs a net as on a device, and
forgotten waits, uploads and downloads give wrong numbers.
"""

from __future__ import annotations

import functools
import itertools
import json
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from concatc.loops.memory import Array
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.carried import Carried
from concatc.targets.cuda.device.driver import OUT_OF_MEMORY, DriverError, Parameters
from concatc.targets.cuda.emulator.program import Program
from concatc.targets.cuda.emulator.run import run_launch
from concatc.targets.cuda.launches import Argument, GpuLaunch, GpuModule, Pointer

FIRST_ADDRESS = 0x7F00_0000_0000
STEP = 1 << 16  # addresses of blocks are multiples of it, with a gap behind each
FRESH = 0xFF  # of every byte: floats are NaN
TOTAL_BYTES = 1 << 34
INVALID_VALUE, STREAM_CAPTURE_UNSUPPORTED = 1, 900
Work = Callable[[], None]


@dataclass
class _Stream:
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None


class EmulatedDriver:
    """Runs launches on NumPy arrays."""

    device = "the emulator"
    arch = Arch(0, 0)

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        self._total = total_bytes
        self._lock = threading.RLock()  # work of several streams is done one after the other, and memory taken
        self._blocks: dict[int, Array] = {}
        self._starts: list[int] = []
        self._next = FIRST_ADDRESS
        self._handles = itertools.count(1)
        self._pinned: dict[int, int] = {}
        self._streams: dict[int, _Stream] = {}
        self._functions: dict[int, tuple[str, Program]] = {}
        self._programs: dict[str, Program] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._marks: set[int] = set()

    def images(self, module: GpuModule, carried: Carried | None = None) -> dict[str, bytes]:
        """The source; see :class:`Driver`."""
        return dict.fromkeys(module.signatures, json.dumps(module.source).encode())

    @contextmanager
    def entered(self) -> Iterator[None]:
        """See :class:`Driver`."""
        yield

    # -- memory --------------------------------------------------------------------------------------------------------
    def memory_info(self) -> tuple[int, int]:
        """See :class:`Driver`."""
        return self._total - sum(block.nbytes for block in list(self._blocks.values())), self._total

    def allocate(self, size_bytes: int) -> int:
        """See :class:`Driver`."""
        if not size_bytes:
            raise self._error("allocate", INVALID_VALUE, "INVALID_VALUE", "no bytes are asked for")
        with self._lock:
            if size_bytes > self.memory_info()[0]:
                raise self._error("allocate", OUT_OF_MEMORY, "OUT_OF_MEMORY", "out of memory")
            address = self._next
            self._next += -(-size_bytes // STEP) * STEP + STEP
            self._blocks[address] = np.full(size_bytes, FRESH, np.uint8)
            self._starts = sorted(self._blocks)
            return address

    def free(self, address: int) -> None:
        """See :class:`Driver`; waits, as a device does."""
        self._finish()
        with self._lock:
            del self._blocks[address]
            self._starts = sorted(self._blocks)

    def allocate_host(self, size_bytes: int) -> Array:
        """See :class:`Driver`."""
        array = np.zeros(size_bytes, np.uint8)
        self._pinned[array.ctypes.data] = size_bytes
        weakref.finalize(array, self._pinned.pop, array.ctypes.data)
        return array

    def holds(self, address: int) -> bool:
        """See :class:`Driver`."""
        return self._block(address) is not None

    def bytes_at(self, address: int, size_bytes: int) -> Array:
        """Memory of the device."""
        found = self._block(address)
        if found is None or address - found[0] + size_bytes > found[1].nbytes:
            raise self._error(
                "access", INVALID_VALUE, "INVALID_VALUE", f"{size_bytes} bytes at {address:#x} are none of this device"
            )
        start, block = found
        return block[address - start : address - start + size_bytes]

    def _block(self, address: int) -> tuple[int, Array] | None:
        starts = self._starts  # as it is now: other threads free theirs
        k = bisect_right(starts, address) - 1
        block = self._blocks.get(starts[k]) if k >= 0 else None
        return (starts[k], block) if block is not None and address <= starts[k] + block.nbytes else None

    # -- streams -------------------------------------------------------------------------------------------------------
    def stream(self) -> int:
        """See :class:`Driver`."""
        handle = next(self._handles)
        self._streams[handle] = _Stream()
        return handle

    def free_stream(self, stream: int) -> None:
        """See :class:`Driver`."""
        self._finish()
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        """See :class:`Driver`."""
        if self._streams[stream].captured is not None:
            raise self._error("synchronize", STREAM_CAPTURE_UNSUPPORTED, "STREAM_CAPTURE_UNSUPPORTED", "a capture runs")
        with self._lock:
            queue, self._streams[stream].queue = self._streams[stream].queue, []
            for work in queue:
                work()

    def upload(self, address: int, host: Array, stream: int) -> None:
        """See :class:`Driver`."""
        source = host if self._is_pinned(host) else host.copy()
        self._put(stream, lambda: self._store(address, source))

    def download(self, host: Array, address: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._put(stream, lambda: np.copyto(host, self.bytes_at(address, host.nbytes)))
        if not self._is_pinned(host):
            self.synchronize(stream)

    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._put(stream, lambda: self._store(to, self.bytes_at(source, size_bytes)))

    def clear(self, address: int, size_bytes: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._put(stream, lambda: self._store(address, np.zeros(size_bytes, np.uint8)))

    def wait_for(self, stream: int, other: int) -> None:
        """See :class:`Driver`."""
        if other in self._streams:
            self._put(stream, lambda: self.synchronize(other))

    def _finish(self) -> None:
        """Do all that was put on streams, as a device does before it gives back what that may use."""
        for stream, on in list(self._streams.items()):
            with suppress(DriverError):
                if on.captured is None:
                    self.synchronize(stream)

    def _put(self, stream: int, work: Work) -> None:
        on = self._streams[stream]
        (on.queue if on.captured is None else on.captured).append(work)

    def _store(self, address: int, values: Array) -> None:
        self.bytes_at(address, values.nbytes)[...] = values

    def _is_pinned(self, host: Array) -> bool:
        at = host.ctypes.data
        return any(start <= at and at + host.nbytes <= start + size for start, size in list(self._pinned.items()))

    # -- kernels -------------------------------------------------------------------------------------------------------
    def load(self, image: bytes, kernel: str) -> int:
        """See :class:`Driver`."""
        source = json.loads(image)
        with self._lock:  # threads that parse at a time hinder each other in CPython 3.11
            if source not in self._programs:
                self._programs[source] = Program(source)
        handle = next(self._handles)
        self._functions[handle] = kernel, self._programs[source]
        return handle

    def unload(self, functions: Sequence[int]) -> None:
        """See :class:`Driver`."""
        self._finish()
        for function in functions:
            del self._functions[function]

    def launch(self, function: int, grid: int, block: int, parameters: Parameters, stream: int) -> None:
        """See :class:`Driver`."""
        held = Parameters(parameters.cells.copy(), parameters.types)
        self._put(stream, lambda: self._run(function, grid, block, held))

    def _run(self, function: int, grid: int, block: int, parameters: Parameters) -> None:
        kernel, program = self._functions[function]
        memory: dict[str, Array] = {}
        arguments: list[Argument] = []
        for type, value in zip(parameters.types, parameters.values(), strict=True):
            arguments.append(
                self._pointer(type, int(value), memory) if type.startswith("*") else _argument(type, value)
            )
        run_launch(program, GpuLaunch(kernel, grid, block, tuple(arguments), "", kernel), memory, parameters.types)

    def _pointer(self, type: str, address: int, memory: dict[str, Array]) -> Pointer:
        """A kernel may touch all of the block that it points into: more is not known of an address."""
        found = self._block(address)
        if found is None:
            raise self._error("launch", INVALID_VALUE, "INVALID_VALUE", f"{address:#x} is no address of this device")
        start, held = found
        memory[f"{start:#x}"] = held
        return Pointer(f"{start:#x}", address - start, type[1:], 0, held.nbytes)

    def begin_capture(self, stream: int) -> None:
        """See :class:`Driver`."""
        self._streams[stream].captured = []

    def end_capture(self, stream: int) -> int:
        """See :class:`Driver`."""
        captured, self._streams[stream].captured = self._streams[stream].captured, None
        assert captured is not None, "a capture that was not begun"
        handle = next(self._handles)
        self._graphs[handle] = captured
        return handle

    def launch_graph(self, graph: int, stream: int) -> None:
        """See :class:`Driver`."""
        for work in self._graphs[graph]:
            self._put(stream, work)

    def free_graph(self, graph: int) -> None:
        """See :class:`Driver`."""
        del self._graphs[graph]

    # -- marks ---------------------------------------------------------------------------------------------------------
    def event(self) -> int:
        """See :class:`Driver`."""
        return next(self._handles)

    def record(self, event: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._put(stream, lambda: self._marks.add(event))

    def elapsed_ms(self, first: int, last: int) -> float:
        """See :class:`Driver`; no time passes here."""
        if not {first, last} <= self._marks:
            raise self._error("elapsed_ms", 600, "NOT_READY", "a mark was not passed")
        return 0.0

    def free_event(self, event: int) -> None:
        """See :class:`Driver`."""
        self._marks.discard(event)

    @staticmethod
    def _error(call: str, code: int, name: str, text: str) -> DriverError:
        return DriverError(call, code, f"CUDA_ERROR_{name}", text)


def _argument(type: str, value: float) -> int | float | bool:
    return bool(value) if type == "i1" else value


@functools.cache
def emulated_driver() -> EmulatedDriver:
    """The one of this process."""
    return EmulatedDriver()
