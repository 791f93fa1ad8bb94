"""The CUDA driver through ctypes: the calls of :class:`Driver` on ``libcuda.so.1``, and nothing else of CUDA.

Types are those of ``cuda.h``, names those of the library (``cuMemAlloc`` is ``cuMemAlloc_v2`` there);
``tests/test_cuda_driver.py`` compares both with the header.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError
from concatc.loops.memory import Array
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.carried import Carried
from concatc.targets.cuda.device.code import device_code
from concatc.targets.cuda.device.driver import DriverError, Parameters
from concatc.targets.cuda.launches import GpuModule

LIBRARY = "libcuda.so.1"
# The type of each argument: a number, a handle or pointer (``pointer``), an address on the device, a C string.
INT, UINT, SIZE, ADDRESS = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_uint64
POINTER, TEXT, BYTE, FLAGS = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ubyte, ctypes.c_ulonglong
CALLS: dict[str, tuple[type, ...]] = {
    "cuInit": (UINT,),
    "cuGetErrorName": (INT, POINTER),
    "cuGetErrorString": (INT, POINTER),
    "cuDeviceGetCount": (POINTER,),
    "cuDeviceGet": (POINTER, INT),
    "cuDeviceGetName": (POINTER, INT, INT),
    "cuDeviceGetAttribute": (POINTER, INT, INT),
    "cuDevicePrimaryCtxRetain": (POINTER, INT),
    "cuCtxPushCurrent_v2": (POINTER,),
    "cuCtxPopCurrent_v2": (POINTER,),
    "cuCtxSynchronize": (),
    "cuMemGetInfo_v2": (POINTER, POINTER),
    "cuMemAlloc_v2": (POINTER, SIZE),
    "cuMemFree_v2": (ADDRESS,),
    "cuMemHostAlloc": (POINTER, SIZE, UINT),
    "cuMemFreeHost": (POINTER,),
    "cuMemcpyHtoDAsync_v2": (ADDRESS, POINTER, SIZE, POINTER),
    "cuMemcpyDtoHAsync_v2": (POINTER, ADDRESS, SIZE, POINTER),
    "cuMemcpyDtoDAsync_v2": (ADDRESS, ADDRESS, SIZE, POINTER),
    "cuMemsetD8Async": (ADDRESS, BYTE, SIZE, POINTER),
    "cuPointerGetAttribute": (POINTER, INT, ADDRESS),
    "cuModuleLoadData": (POINTER, POINTER),
    "cuModuleUnload": (POINTER,),
    "cuModuleGetFunction": (POINTER, POINTER, TEXT),
    "cuLaunchKernel": (POINTER, UINT, UINT, UINT, UINT, UINT, UINT, UINT, POINTER, POINTER, POINTER),
    "cuStreamCreate": (POINTER, UINT),
    "cuStreamDestroy_v2": (POINTER,),
    "cuStreamSynchronize": (POINTER,),
    "cuStreamWaitEvent": (POINTER, POINTER, UINT),
    "cuStreamBeginCapture_v2": (POINTER, INT),
    "cuStreamEndCapture": (POINTER, POINTER),
    "cuGraphInstantiateWithFlags": (POINTER, POINTER, FLAGS),
    "cuGraphLaunch": (POINTER, POINTER),
    "cuGraphDestroy": (POINTER,),
    "cuGraphExecDestroy": (POINTER,),
    "cuEventCreate": (POINTER, UINT),
    "cuEventRecord": (POINTER, POINTER),
    "cuEventElapsedTime": (POINTER, POINTER, POINTER),
    "cuEventDestroy_v2": (POINTER,),
}
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_..
PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
# What this thread does meanwhile is not forbidden: garbage may be collected, and memory freed (.._MODE_RELAXED).
RELAXED = 2
MEMORY_TYPE, DEVICE_ORDINAL, ON_DEVICE = 2, 9, 2  # CU_POINTER_ATTRIBUTE_.., CU_MEMORYTYPE_DEVICE
_HELP = "CONCATC_CUDA_EMULATOR=1 runs the kernels on an emulator (slowly); --target cpu runs nets"


class Library:
    """The driver's functions; a call that fails raises :class:`DriverError`."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self._functions = {}
        for name, types in CALLS.items():
            try:
                function = getattr(loaded, name)
            except AttributeError:
                message = f"the NVIDIA driver has no {name}: it is too old"
                raise UsageError(Diagnostic(message, help="CUDA 12 or newer is needed")) from None
            function.argtypes, function.restype = types, ctypes.c_int
            self._functions[name] = function

    def __call__(self, name: str, *arguments: object) -> None:
        status = self._functions[name](*arguments)
        if status:
            raise DriverError(
                name, status, self._said("cuGetErrorName", status), self._said("cuGetErrorString", status)
            )

    def status(self, name: str, *arguments: object) -> int:
        """The same where a failure says something, or nothing of interest."""
        return int(self._functions[name](*arguments))

    def _said(self, name: str, status: int) -> str:
        text = ctypes.c_char_p()
        if self._functions[name](status, ctypes.byref(text)) or text.value is None:
            return "an error that this driver does not know"
        return text.value.decode(errors="replace")


class CudaDriver:
    """A device of the CUDA driver, by its number; its primary context is shared with whoever else uses that."""

    def __init__(self, calls: Library, number: int = 0) -> None:
        self._calls = calls
        self._number = number
        self._modules: dict[int, int] = {}  # of a function
        self._device = self._out(ctypes.c_int, "cuDeviceGet", number)
        context = ctypes.c_void_p()
        calls("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._context = context
        name = ctypes.create_string_buffer(256)
        calls("cuDeviceGetName", name, len(name), self._device)
        self.device = name.value.decode(errors="replace")
        major, minor = (
            self._out(ctypes.c_int, "cuDeviceGetAttribute", attribute, self._device)
            for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
        )
        self.arch = Arch(major, minor)

    def _out(self, kind: type, name: str, *arguments: object) -> int:
        """What a call writes to its first argument."""
        found = kind()
        self._calls(name, ctypes.byref(found), *arguments)
        return int(found.value or 0)

    def images(self, module: GpuModule, carried: Carried | None = None) -> dict[str, bytes]:
        """See :class:`Driver`."""
        if carried is not None:
            return carried.images(module.signatures, self.device, self.arch)
        return device_code(module, self.arch)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """See :class:`Driver`."""
        self._calls("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._calls.status("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    # -- memory --------------------------------------------------------------------------------------------------------
    def memory_info(self) -> tuple[int, int]:
        """See :class:`Driver`."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._calls("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size_bytes: int) -> int:
        """See :class:`Driver`."""
        return self._out(ctypes.c_uint64, "cuMemAlloc_v2", size_bytes)

    def free(self, address: int) -> None:
        """See :class:`Driver`."""
        self._give_back("cuMemFree_v2", address)

    def allocate_host(self, size_bytes: int) -> Array:
        """See :class:`Driver`."""
        address = self._out(ctypes.c_void_p, "cuMemHostAlloc", size_bytes, PORTABLE)
        block = (ctypes.c_uint8 * size_bytes).from_address(address)
        weakref.finalize(block, self._give_back, "cuMemFreeHost", address)
        return np.frombuffer(memoryview(block).cast("B"), np.uint8)

    def _give_back(self, name: str, handle: int) -> None:
        # At the end of a process, or behind a fault, there is nothing left to give back to.
        with contextlib.suppress(DriverError), self.entered():
            self._calls.status(name, handle)

    def holds(self, address: int) -> bool:
        """See :class:`Driver`."""
        kind, number = ctypes.c_uint(), ctypes.c_int()
        known = self._calls.status("cuPointerGetAttribute", ctypes.byref(kind), MEMORY_TYPE, address) == 0
        known &= self._calls.status("cuPointerGetAttribute", ctypes.byref(number), DEVICE_ORDINAL, address) == 0
        return known and kind.value == ON_DEVICE and number.value == self._number

    # -- streams -------------------------------------------------------------------------------------------------------
    def stream(self) -> int:
        """See :class:`Driver`."""
        return self._out(ctypes.c_void_p, "cuStreamCreate", NON_BLOCKING)

    def free_stream(self, stream: int) -> None:
        """See :class:`Driver`."""
        self._give_back("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuStreamSynchronize", stream)

    def upload(self, address: int, host: Array, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuMemcpyHtoDAsync_v2", address, host.ctypes.data, host.nbytes, stream)

    def download(self, host: Array, address: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuMemcpyDtoHAsync_v2", host.ctypes.data, address, host.nbytes, stream)

    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuMemcpyDtoDAsync_v2", to, source, size_bytes, stream)

    def clear(self, address: int, size_bytes: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuMemsetD8Async", address, 0, size_bytes, stream)

    def wait_for(self, stream: int, other: int) -> None:
        """See :class:`Driver`."""
        event = self.event()
        self.record(event, other)
        self._calls("cuStreamWaitEvent", stream, event, 0)
        self.free_event(event)  # the driver keeps it until it was passed

    # -- kernels -------------------------------------------------------------------------------------------------------
    def load(self, image: bytes, kernel: str) -> int:
        """See :class:`Driver`."""
        module = self._out(ctypes.c_void_p, "cuModuleLoadData", image)
        function = self._out(ctypes.c_void_p, "cuModuleGetFunction", module, kernel.encode())
        self._modules[function] = module
        return function

    def unload(self, functions: Sequence[int]) -> None:
        """See :class:`Driver`."""
        with contextlib.suppress(DriverError), self.entered():
            self._calls.status("cuCtxSynchronize")  # whoever gives code back may have launched it just now
        for function in functions:
            self._give_back("cuModuleUnload", self._modules.pop(function))

    def launch(self, function: int, grid: int, block: int, parameters: Parameters, stream: int) -> None:
        """See :class:`Driver`."""
        cells = parameters.cells
        places = cells.ctypes.data + np.arange(len(cells), dtype=np.uint64) * np.uint64(cells.itemsize)
        self._calls("cuLaunchKernel", function, grid, 1, 1, block, 1, 1, 0, stream, places.ctypes.data, None)

    def begin_capture(self, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuStreamBeginCapture_v2", stream, RELAXED)

    def end_capture(self, stream: int) -> int:
        """See :class:`Driver`."""
        graph = ctypes.c_void_p()
        self._calls("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            return self._out(ctypes.c_void_p, "cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._calls.status("cuGraphDestroy", graph)

    def launch_graph(self, graph: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        """See :class:`Driver`."""
        self._give_back("cuGraphExecDestroy", graph)

    # -- marks ---------------------------------------------------------------------------------------------------------
    def event(self) -> int:
        """See :class:`Driver`."""
        return self._out(ctypes.c_void_p, "cuEventCreate", 0)

    def record(self, event: int, stream: int) -> None:
        """See :class:`Driver`."""
        self._calls("cuEventRecord", event, stream)

    def elapsed_ms(self, first: int, last: int) -> float:
        """See :class:`Driver`."""
        found = ctypes.c_float()
        self._calls("cuEventElapsedTime", ctypes.byref(found), first, last)
        return found.value

    def free_event(self, event: int) -> None:
        """See :class:`Driver`."""
        self._calls.status("cuEventDestroy_v2", event)


def library() -> ctypes.CDLL:
    """The driver's library; raises :class:`UsageError` where it is missing."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        message = f"nets of the target `cuda` run on an NVIDIA GPU, and this machine has no NVIDIA driver ({LIBRARY})"
        raise UsageError(Diagnostic(message, help=_HELP)) from None


@functools.cache
def cuda_driver() -> CudaDriver:
    """The first device that the environment lets be seen (``CUDA_VISIBLE_DEVICES``).

    Raises :class:`UsageError` where there is no driver or no device.
    """
    calls = Library(library())
    count = ctypes.c_int()
    try:
        calls("cuInit", 0)
        calls("cuDeviceGetCount", ctypes.byref(count))
    except DriverError as error:
        message = f"the NVIDIA driver cannot be used: {error.name} ({error.code}), {error.text}"
        raise UsageError(Diagnostic(message, help=_HELP)) from None
    if not count.value:
        raise UsageError(Diagnostic("the NVIDIA driver sees no device", help=f"see CUDA_VISIBLE_DEVICES; {_HELP}"))
    return CudaDriver(calls)
