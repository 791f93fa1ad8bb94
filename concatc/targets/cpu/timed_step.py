"""The native step with a clock: the rows of a table one by one, and when each was done.

    stamp; run row 0; stamp; run row 1; stamp; ..        n rows, n + 1 stamps, nothing between them but the row

The loop calls the function that runs tables (`step.py`) with one row at a time, so what is timed is what runs.  It is
code of its own, and costs nothing where nobody asks for it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable

import numpy as np

from concatc.targets.cache import Cache, default_directory, digest
from concatc.targets.cpu.native import Library, build_id, host, object_code
from concatc.targets.cpu.step import Ints

TIMED = "run_timed"
SECOND_NS = 10**9

# A stamp is a `struct timespec`: seconds and nanoseconds.
TIMED_IR = """
%stamp = type { i64, i64 }

declare i32 @clock_gettime(i32, ptr)

define i32 @run_timed(ptr %run, ptr %bases, ptr %table, i64 %row_bytes, i64 %rows, ptr %stamps, i32 %clock) nounwind {
entry:
  %began = call i32 @clock_gettime(i32 %clock, ptr %stamps)
  br label %head
head:
  %k = phi i64 [ 0, %entry ], [ %next, %after ]
  %more = icmp slt i64 %k, %rows
  br i1 %more, label %body, label %done
body:
  %at = mul i64 %k, %row_bytes
  %row = getelementptr i8, ptr %table, i64 %at
  %status = call i32 %run(ptr %bases, ptr %row, i64 1)
  %ok = icmp eq i32 %status, 0
  br i1 %ok, label %after, label %fail
after:
  %next = add i64 %k, 1
  %stamp = getelementptr %stamp, ptr %stamps, i64 %next
  %now = call i32 @clock_gettime(i32 %clock, ptr %stamp)
  br label %head
fail:
  %number = trunc i64 %k to i32
  %failed = add i32 %number, 1
  ret i32 %failed
done:
  ret i32 0
}
"""

_TIMED = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    *(ctypes.c_void_p,) * 3,
    *(ctypes.c_int64,) * 2,
    ctypes.c_void_p,
    ctypes.c_int32,
)


def timed_rows(runner: int, bases: int, table: Ints, clock: int) -> tuple[int, Ints]:
    """Run the rows of a table: the status as of the runner, and the stamps in nanoseconds.

    ``runner`` and ``bases`` are addresses: of the function that runs tables, and of the addresses of the bases;
    ``clock`` is a number that ``clock_gettime`` takes.
    """
    stamps = np.zeros((len(table) + 1, 2), np.int64)
    run = _function()
    row_bytes = table.strides[0] if len(table) else 0
    status = run(runner, bases, table.ctypes.data, row_bytes, len(table), stamps.ctypes.data, clock)
    return int(status), stamps[:, 0] * SECOND_NS + stamps[:, 1]


def compiled(key: str, text: str, names: Iterable[str]) -> Library:
    """LLVM IR of this package, with functions ``names``, as code in memory; from the cache where that holds it."""
    cache, machine = Cache(default_directory()), host()
    key = digest(key, build_id(machine))
    code = cache.load(key)
    if code is None:
        code = object_code(text, machine)
        cache.store(key, code)
    return Library([code], names)


@functools.cache
def _function() -> Callable[..., int]:
    library = compiled("timed step", TIMED_IR, [TIMED])
    function = _TIMED(library.address(TIMED))
    return lambda *arguments, library=library: function(*arguments)  # the code lives as long as the function
