"""Arrays that other libraries hold on a device, as ``__cuda_array_interface__`` says it (PyTorch, CuPy, JAX, Numba).

{"shape": (64, 784), "typestr": "<f4", "data": (address, read_only), "strides": None, "version": 3, "stream": 1}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from concatc.targets.memory import DeviceArray

LEGACY_STREAM = 1  # CU_STREAM_LEGACY, what libraries work on unless they are told otherwise
SAYS_STREAM = 3  # the version from which on an array says whose work it waits for


@dataclass(frozen=True)
class Exported:
    """An array, and the stream whose work must be done before it is read; None where that is done."""

    array: DeviceArray
    stream: int | None


def exported(given: object) -> Exported | None:
    """What an object says of its memory; None where it has none on a device.

    Raises TypeError where its elements do not lie one behind the other.
    """
    if isinstance(given, np.ndarray):
        return None
    if hasattr(given, "detach"):
        given = given.detach()  # a torch tensor that requires gradients does not say where it lies
    said: Any = getattr(given, "__cuda_array_interface__", None)
    if said is None:
        return None
    shape, dtype = tuple(map(int, said["shape"])), np.dtype(said["typestr"])
    strides = said.get("strides")
    if strides is not None and 0 not in shape and not _in_order(shape, strides, dtype.itemsize):
        raise TypeError("its elements do not lie in order on the device; .contiguous() or ascontiguousarray does that")
    stream = said.get("stream") if said.get("version", 0) >= SAYS_STREAM else LEGACY_STREAM
    return Exported(DeviceArray(int(said["data"][0] or 0), shape, dtype, given), stream)


def _in_order(shape: tuple[int, ...], strides: tuple[int, ...], step: int) -> bool:
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True
