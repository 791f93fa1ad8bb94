"""Native calls: the record that the entry (`entry_ir.py`) reads, and the callable that CPython makes of both.

    CallSpec  +  bases  +  rows of a step    ->    call({"a": array, ..}) -> {"loss": 0.7, ..}

CPython calls the entry directly (`PyCFunction_NewEx`, ``METH_O``); a call through ctypes costs several times as much.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from concatc.diagnostics import ConcatcError
from concatc.ir.types import ELEMENT_BYTES, INTEGERS, NUMPY_DTYPES
from concatc.loops.memory import Array
from concatc.loops.plan import Window
from concatc.targets.call import Bounds, CallSpec
from concatc.targets.cpu.record import C_CONTIGUOUS, DESCR, HEADER, NATIVE, BoundsWord, InputWord, ResultWord, Word
from concatc.targets.cpu.step import Launches

METH_O = 0x0008
FUNCTIONS = {
    Word.DICT_SIZE: "PyDict_Size",
    Word.DICT_GET: "PyDict_GetItemWithError",
    Word.DICT_NEW: "PyDict_New",
    Word.DICT_SET: "PyDict_SetItem",
    Word.FLOAT_NEW: "PyFloat_FromDouble",
    Word.LONG_NEW: "PyLong_FromLong",
    Word.INC_REF: "Py_IncRef",
    Word.DEC_REF: "Py_DecRef",
    Word.ERR_OCCURRED: "PyErr_Occurred",
    Word.SAVE_THREAD: "PyEval_SaveThread",
    Word.RESTORE_THREAD: "PyEval_RestoreThread",
}


class _Method(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class Entry:
    """A native call.  It holds all that its record and its code refer to; ``code`` is the entry and what keeps it."""

    def __init__(
        self, spec: CallSpec, bases: Mapping[str, Array], launches: Launches, code: tuple[int, object]
    ) -> None:
        self._kernels = launches.kernels
        self._held: list[object] = [dict(bases), launches, code, spec]
        record = np.zeros(len(Word), np.int64)
        checked = {bounds.window for bounds in spec.bounds}
        inputs = sorted(spec.inputs.items(), key=lambda item: item[1] not in checked)
        ranges = [(b, r) for b in spec.bounds for r in b.ranges]
        self._table(record, Word.INPUTS, [self._input(name, at, bases) for name, at in inputs])
        self._table(record, Word.BOUNDS, [_bounds_row(b, r, bases) for b, r in ranges])
        self._table(record, Word.RESULTS, [self._result(name, at, bases) for name, at in spec.results.items()])
        record[Word.CHECKED] = sum(at in checked for _, at in inputs)
        if spec.guarded is not None:
            guarded = bases[spec.guarded]
            record[Word.GUARDED_BEGIN] = _address(guarded)
            record[Word.GUARDED_END] = _address(guarded) + guarded.nbytes
        record[Word.NDARRAY], record[Word.NONE] = id(np.ndarray), id(None)
        record[Word.RUNNER] = launches.runner
        record[Word.BASES], record[Word.TABLE] = _address(launches.bases), _address(launches.table)
        record[Word.ROWS] = len(launches.table)
        for word, name in FUNCTIONS.items():
            record[word] = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0
        method = _Method(b"entry", code[0], METH_O, None)
        self._held += [record, method]
        made = _new_function()(ctypes.addressof(method), record, None)
        self.call: Callable[[dict[str, object]], dict[str, float] | int | None] = made

    def failure(self, status: int) -> ConcatcError:
        """See :class:`concatc.targets.call.NativeCall`."""
        return ConcatcError(f"the kernel {self._kernels[status - 1]} failed")

    def _table(self, record: Array, word: Word, rows: Sequence[Sequence[int]]) -> None:
        """Write a table's length to ``word`` and its address behind it."""
        table = np.array(rows, np.int64)
        self._held.append(table)
        record[word], record[word + 1] = len(rows), _address(table)

    def _input(self, name: str, window: Window, bases: Mapping[str, Array]) -> list[int]:
        dtype, shape = np.dtype(NUMPY_DTYPES[window.dtype]), np.array(window.shape, np.int64)
        key = sys.intern(name)
        runs = runs_of(window)
        assert runs is not None
        self._held += [dtype, shape, key]
        row = [0] * len(InputWord)
        row[InputWord.KEY], row[InputWord.DESCR], row[InputWord.NUMBER] = id(key), id(dtype), dtype.num
        row[InputWord.RANK], row[InputWord.SHAPE_AT] = len(shape), _address(shape)
        row[InputWord.BYTES] = int(np.prod(window.shape, dtype=np.int64)) * dtype.itemsize
        row[InputWord.TO] = _address(bases[window.base]) + window.offset_bytes
        row[InputWord.RUNS], row[InputWord.RUN_BYTES], row[InputWord.STEP] = runs
        return row

    def _result(self, name: str, window: Window, bases: Mapping[str, Array]) -> list[int]:
        key = sys.intern(name)
        self._held.append(key)
        row = [0] * len(ResultWord)
        row[ResultWord.KEY], row[ResultWord.BYTES] = id(key), ELEMENT_BYTES[window.dtype]
        row[ResultWord.AT] = _address(bases[window.base]) + window.offset_bytes
        return row


def _new_function() -> Any:
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return prototype(("PyCFunction_NewEx", ctypes.pythonapi))


def can_enter(spec: CallSpec) -> bool:
    """Whether an entry can be made of a call, here: with this Python, this NumPy, and these windows."""
    return (
        layout_is_known()
        and all(runs_of(window) is not None for window in spec.inputs.values())
        and all(b.extent > 0 and b.window.dtype in INTEGERS and _is_dense(b.window) for b in spec.bounds)
        and all(window.dtype in ("f32", "f64") for window in spec.results.values())
    )


def runs_of(window: Window) -> tuple[int, int, int] | None:
    """A window as runs of bytes in the order of its elements: how many, bytes of each, bytes from one to the next.

    None where they are not equally far apart.
    """
    item = ELEMENT_BYTES[window.dtype]
    axes = [(n, s) for n, s in zip(window.shape, window.strides, strict=True) if n != 1]
    if any(n == 0 for n, _ in axes):
        return 0, 0, 0
    run = 1
    while axes and axes[-1][1] == run:
        run *= axes.pop()[0]
    if not axes:
        return 1, run * item, 0
    count, step = axes.pop()
    while axes and axes[-1][1] == count * step:
        count *= axes.pop()[0]
    return None if axes else (count, run * item, step * item)


@functools.cache
def layout_is_known() -> bool:
    """Whether headers of NumPy arrays are here as the entry reads them: tried on arrays whose every field is known."""
    if sys.implementation.name != "cpython" or object.__basicsize__ != 16 or np.ndarray.__basicsize__ < 80:
        return False
    base = np.zeros((3, 5, 2), np.float32)
    swapped = np.zeros(1, np.dtype(np.int64).newbyteorder())
    tried = (base, base[1:], base.T, base[:, ::2], np.zeros((), np.int32), np.zeros((2, 0)), swapped)
    return all(_is_as_read(array) for array in tried)


def _is_as_read(array: Array) -> bool:
    start, descr = id(array), id(array.dtype)

    def word(offset: int) -> int:
        return ctypes.c_int64.from_address(start + offset).value

    shape = [ctypes.c_int64.from_address(word(HEADER["shape"]) + 8 * axis).value for axis in range(array.ndim)]
    flags = ctypes.c_int32.from_address(start + HEADER["flags"]).value
    return (
        word(HEADER["type"]) == id(type(array))
        and word(HEADER["data"]) == _address(array)
        and ctypes.c_int32.from_address(start + HEADER["rank"]).value == array.ndim
        and word(HEADER["descr"]) == descr
        and flags == array.flags.num
        and bool(flags & C_CONTIGUOUS) == array.flags.c_contiguous
        and shape == list(array.shape)
        and ctypes.c_int32.from_address(descr + DESCR["number"]).value == array.dtype.num
        and ctypes.c_uint8.from_address(descr + DESCR["byte_order"]).value == ord(array.dtype.byteorder)
        and (array.dtype.byteorder == chr(NATIVE)) == array.dtype.isnative
    )


def _is_dense(window: Window) -> bool:
    runs = runs_of(window)
    return runs is not None and runs[0] <= 1


def _bounds_row(bounds: Bounds, range: tuple[int, int, int], bases: Mapping[str, Array]) -> list[int]:
    item, (begin, end, step) = ELEMENT_BYTES[bounds.window.dtype], range
    most = 1 << (8 * item - 1)
    row = [0] * len(BoundsWord)
    row[BoundsWord.AT] = _address(bases[bounds.window.base]) + bounds.window.offset_bytes + begin * item
    row[BoundsWord.BYTES], row[BoundsWord.COUNT], row[BoundsWord.STEP] = item, -(-(end - begin) // step), step
    row[BoundsWord.EXTENT] = min(bounds.extent, most if item == 4 else most - 1)
    # 0 is valid anyhow; so is what the type cannot hold.
    ignored = bounds.ignored
    row[BoundsWord.IGNORED] = ignored if ignored is not None and -most <= ignored < most else 0
    return row


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
