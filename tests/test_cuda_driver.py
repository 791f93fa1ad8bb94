"""The calls of the CUDA driver: as `cuda.h` declares them, and what is said where they cannot be made."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.targets.cuda.device import cuda_driver
from concatc.targets.cuda.device.cuda_driver import CALLS, CudaDriver, Library
from concatc.targets.cuda.device.driver import DriverError, Parameters

HEADERS = [path for entry in sys.path for path in Path(entry).glob("nvidia/*/include/cuda.h")]
# How the header writes each type; a type that ends in `*`, and every handle, is a pointer.
WRITTEN = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "unsigned long long": ctypes.c_ulonglong,
    "unsigned char": ctypes.c_ubyte,
    "CUdeviceptr": ctypes.c_uint64,
    "CUdevice": ctypes.c_int,
    "CUresult": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUpointer_attribute": ctypes.c_int,
    "CUstreamCaptureMode": ctypes.c_int,
}
HANDLES = {"CUcontext", "CUmodule", "CUfunction", "CUstream", "CUgraph", "CUgraphExec", "CUevent"}
HELD = {  # what the driver is given as numbers
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": cuda_driver.CAPABILITY_MAJOR,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": cuda_driver.CAPABILITY_MINOR,
    "CU_MEMHOSTALLOC_PORTABLE": cuda_driver.PORTABLE,
    "CU_STREAM_NON_BLOCKING": cuda_driver.NON_BLOCKING,
    "CU_STREAM_CAPTURE_MODE_RELAXED": cuda_driver.RELAXED,
    "CU_POINTER_ATTRIBUTE_MEMORY_TYPE": cuda_driver.MEMORY_TYPE,
    "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL": cuda_driver.DEVICE_ORDINAL,
    "CU_MEMORYTYPE_DEVICE": cuda_driver.ON_DEVICE,
}
# Of these the header of CUDA 13 means another version, and the library has the older one as well.
OLDER = {"cuEventElapsedTime": "cuEventElapsedTime_v2"}


def parameter_type(written: str) -> type:
    """The ctypes type of a parameter as the header has it: type and name."""
    words = written.replace("const ", "").strip()
    type = re.sub(r"\w+$", "", words).strip()
    if type == "char *" and written.strip().startswith("const"):
        return ctypes.c_char_p
    if type.endswith("*") or type in HANDLES:
        return ctypes.c_void_p
    return WRITTEN[type]


@pytest.mark.cuda
@pytest.mark.skipif(not HEADERS, reason="cuda.h comes with the extra `cuda`")
def test_calls_are_those_of_the_header() -> None:
    header = HEADERS[0].read_text(encoding="utf-8", errors="replace")
    renamed = dict(re.findall(r"^\s*#define (cu\w+)\s+(?:__CUDA_API_PT[DS]Z\()?(\w+)\)?$", header, re.MULTILINE))
    for name, types in CALLS.items():
        base = re.sub(r"_v\d+$", "", name)
        assert renamed.get(base, base) == OLDER.get(name, name), name
        # The header writes the name that is renamed to this one.
        written_as = next((old for old, new in renamed.items() if new == name), base)
        declared = re.search(rf"CUresult CUDAAPI {written_as}\((.*?)\);", header, re.DOTALL)
        assert declared is not None, name
        written = [" ".join(part.split()) for part in declared[1].split(",")]
        written = [] if written == ["void"] else written
        assert [parameter_type(part) for part in written] == list(types), f"{name}: {written}"


@pytest.mark.cuda
@pytest.mark.skipif(not HEADERS, reason="cuda.h comes with the extra `cuda`")
def test_numbers_are_those_of_the_header() -> None:
    header = HEADERS[0].read_text(encoding="utf-8", errors="replace")
    for name, value in HELD.items():
        found = re.search(rf"\b{name}\s*=?\s*(0x[0-9a-fA-F]+|\d+)", header)
        assert found is not None, name
        assert int(found[1], 0) == value, name


class PlayedLibrary:
    """Functions of the driver that note their arguments, write nothing and succeed, but for those of ``fails``."""

    def __init__(self, fails: dict[str, int] | None = None, lacks: str = "") -> None:
        self.called: list[str] = []
        self._fails, self._lacks = fails or {}, lacks

    def __getattr__(self, name: str) -> object:
        if name == self._lacks:
            raise AttributeError(name)
        kinds = {"p": ctypes.c_void_p}
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *(kinds.get(t._type_, t) for t in CALLS[name]))

        def call(*arguments: object) -> int:
            self.called.append(name)
            return self._fails.get(name, 0)

        return prototype(call)


def test_every_call_takes_what_it_is_given() -> None:
    """Through ctypes, with its types: a wrong count or type of arguments raises."""
    played = PlayedLibrary()
    driver = CudaDriver(Library(played))  # type: ignore[arg-type]
    array = np.zeros(16, np.uint8)
    with driver.entered():
        driver.memory_info()
        driver.allocate(64)
        driver.upload(1, array, 2)
        driver.download(array, 1, 2)
        driver.copy(1, 2, 16, 3)
        driver.clear(1, 16, 3)
        driver.synchronize(driver.stream())
        driver.wait_for(1, 2)
        function = driver.load(b"code", "k0")
        driver.begin_capture(1)
        driver.launch(function, 2, 64, Parameters.of([1 << 40, 3, 0.5, True], ("*f32", "i32", "f32", "i1")), 1)
        driver.launch_graph(driver.end_capture(1), 1)
        first, last = driver.event(), driver.event()
        driver.record(first, 1)
        driver.elapsed_ms(first, last)
        driver.free_event(first)
        driver.holds(1 << 40)
    driver.free(1)
    driver.free_graph(1)
    driver.free_stream(1)
    driver.unload([function])
    of_others = {
        "cuInit",
        "cuDeviceGetCount",
        "cuMemHostAlloc",
        "cuMemFreeHost",
        "cuGetErrorName",
        "cuGetErrorString",
    }
    assert set(played.called) == set(CALLS) - of_others


def test_pinned_memory_is_given_back_with_the_last_array(monkeypatch: pytest.MonkeyPatch) -> None:
    played, block = PlayedLibrary(), ctypes.create_string_buffer(64)
    driver = CudaDriver(Library(played))  # type: ignore[arg-type]
    monkeypatch.setattr(driver, "_out", lambda *arguments: ctypes.addressof(block))
    array = driver.allocate_host(64)
    array[...] = 7
    assert block.raw == bytes([7]) * 64
    part = array[8:].view(np.float32)
    del array
    gc.collect()
    assert "cuMemFreeHost" not in played.called
    del part
    gc.collect()
    assert played.called.count("cuMemFreeHost") == 1


def test_a_call_that_fails_says_what_it_was() -> None:
    calls = Library(PlayedLibrary({"cuInit": 700}))  # type: ignore[arg-type]
    with pytest.raises(DriverError, match=r"cuInit failed with .* \(700\).*\nhelp: CONCATC_CUDA_SYNC=1 says which"):
        calls("cuInit", 0)


def test_an_old_driver_is_refused() -> None:
    with pytest.raises(concatc.UsageError, match="has no cuGraphInstantiateWithFlags: it is too old\nhelp: CUDA 12"):
        Library(PlayedLibrary(lacks="cuGraphInstantiateWithFlags"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fails", "message"),
    [({}, "the NVIDIA driver sees no device"), ({"cuInit": 100}, r"the NVIDIA driver cannot be used: .* \(100\)")],
)
def test_no_device_is_said(monkeypatch: pytest.MonkeyPatch, fails: dict[str, int], message: str) -> None:
    monkeypatch.setattr(cuda_driver, "library", lambda: PlayedLibrary(fails))
    cuda_driver.cuda_driver.cache_clear()
    with pytest.raises(concatc.UsageError, match=message):
        cuda_driver.cuda_driver()


def test_arguments_lie_as_the_driver_reads_them() -> None:
    types = ("*f32", "i32", "f32", "f64", "i1", "i64", "i8")
    values = [0x7F0000000200, -3, 0.5, 0.1, True, -(1 << 40), -7]
    made = Parameters.of(values, types)
    assert made.values() == values
    raw = made.cells.tobytes()
    assert raw[:8] == (0x7F0000000200).to_bytes(8, "little")
    assert raw[8:12] == (-3).to_bytes(4, "little", signed=True)
    assert raw[16:20] == np.float32(0.5).tobytes()
    assert raw[32] == 1
