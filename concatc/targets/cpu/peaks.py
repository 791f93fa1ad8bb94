"""What this machine can do at most: fused multiply-adds from registers, bytes from each level of memory.

    GFLOP/s   vectors of independent sums  a = a * m + b            2 flops a lane
    GB/s      a block read from end to end; one half of it copied to the other, bytes read and written counted

Measured once, on one thread, the best of many short runs; kept as JSON in the cache, under the CPU's name.
"""

from __future__ import annotations

import ctypes
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from concatc.loops.memory import allocate
from concatc.targets import Bandwidth, Peaks
from concatc.targets.cache import Cache, default_directory, digest
from concatc.targets.cpu.native import Host, Library, host
from concatc.targets.cpu.timed_step import compiled

FORMAT = 1
UNROLL = 8  # vectors that one iteration reads
FLOATS = {"f32": ("float", 4), "f64": ("double", 8)}
# Working sets from what the first-level cache holds to what no cache does.
LEAST_BYTES, MOST_BYTES = 1 << 14, 1 << 27
RUN_NS, RUNS = 2_000_000, 16  # a run is long beside the clock and short beside what else the machine does

_FLOPS = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)
_BYTES = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def machine_peaks(again: bool = False) -> Peaks:
    """The peaks of this machine: as they were measured, or measured now."""
    machine = host()
    name = f"{_model()} ({machine.name})"
    cache = Cache(default_directory())
    key = digest("peaks", str(FORMAT), name, machine.features)
    stored = None if again else cache.load(key)
    if stored is not None:
        data = json.loads(stored)
        return Peaks(data["machine"], data["gflops"], tuple(Bandwidth(**b) for b in data["bandwidths"]))
    peaks = measure(name, machine)
    cache.store(key, json.dumps(asdict(peaks)).encode())
    return peaks


def measure(name: str, machine: Host) -> Peaks:
    """Measure; takes about two seconds."""
    library = compiled("peaks", peaks_ir(machine), [*(f"flops_{dtype}" for dtype in FLOATS), "read", "copy"])
    gflops = {dtype: _gflops(library, dtype, machine) for dtype in FLOATS}
    return Peaks(name, gflops, tuple(_bandwidths(library)))


def _model() -> str:
    """The CPU's name as its maker writes it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()


def _gflops(library: Library, dtype: str, machine: Host) -> float:
    function = _FLOPS(library.address(f"flops_{dtype}"))
    width = FLOATS[dtype][1]
    lanes = machine.vector_bytes // width
    memory = allocate(2 * machine.vector_bytes)
    # Sums go to 1 / (1 - 0.5): neither denormal numbers nor infinities, which some CPUs are slow at.
    memory.view(np.dtype(f"f{width}"))[:] = [0.5] * lanes + [1.0] * lanes
    address = memory.ctypes.data
    return 2 * _sums(machine) * lanes / _least_ns(lambda times: function(times, address))


def _bandwidths(library: Library) -> Iterator[Bandwidth]:
    memory = allocate(MOST_BYTES)
    memory[:] = 0  # pages that were never touched are dear
    address = memory.ctypes.data
    read, copy = (_BYTES(library.address(name)) for name in ("read", "copy"))

    def rate(function: Any, size_bytes: int) -> float:
        return size_bytes / _least_ns(lambda times: function(times, size_bytes, address))

    sizes = [LEAST_BYTES << k for k in range((MOST_BYTES // LEAST_BYTES).bit_length())]
    found = [Bandwidth(size_bytes, rate(read, size_bytes), rate(copy, size_bytes)) for size_bytes in sizes]
    # What is read from a large block can be read from a small one as fast.
    for k, b in enumerate(found):
        yield Bandwidth(b.size_bytes, max(x.read for x in found[k:]), max(x.copy for x in found[k:]))


def _least_ns(run: Callable[[int], Any]) -> float:
    """The least time of one iteration of ``run(iterations)``."""
    times = 1
    while (elapsed_ns := _elapsed_ns(run, times)) < RUN_NS:
        times *= 2
    return min(elapsed_ns, *(_elapsed_ns(run, times) for _ in range(RUNS - 1))) / times


def _elapsed_ns(run: Callable[[int], Any], times: int) -> int:
    start = time.perf_counter_ns()
    run(times)
    return time.perf_counter_ns() - start


def _sums(machine: Host) -> int:
    """How many vectors of sums hide the latency of an addition and still lie in registers."""
    return 24 if machine.registers >= 32 else 12


def peaks_ir(machine: Host) -> str:
    """LLVM IR of what is measured, with the host's vectors."""
    parts = [_flops_ir(dtype, type, machine.vector_bytes // n, machine) for dtype, (type, n) in FLOATS.items()]
    return "\n".join([*parts, _bytes_ir(machine)])


def _flops_ir(dtype: str, element: str, lanes: int, machine: Host) -> str:
    """``flops_f32(iterations, memory)``: the memory holds factors, then addends; the sums are stored over them."""
    vector, count, fma = f"<{lanes} x {element}>", _sums(machine), f"@llvm.fma.v{lanes}{dtype}"
    steps = [f"%a{k} = phi {vector} [ %m, %entry ], [ %b{k}, %loop ]" for k in range(count)]
    for k in range(count):
        if machine.fma:
            steps.append(f"%b{k} = call {vector} {fma}({vector} %a{k}, {vector} %m, {vector} %c)")
        else:
            steps += [f"%p{k} = fmul {vector} %a{k}, %m", f"%b{k} = fadd {vector} %p{k}, %c"]
    return f"""
declare {vector} {fma}({vector}, {vector}, {vector})

define void @flops_{dtype}(i64 %times, ptr %memory) nounwind {{
entry:
  %m = load {vector}, ptr %memory
  %behind = getelementptr {vector}, ptr %memory, i64 1
  %c = load {vector}, ptr %behind
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %next, %loop ]
  {_lines(steps)}
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %times
  br i1 %more, label %loop, label %done
done:
  {_lines(_all_of("fadd", vector, count))}
  store {vector} %all, ptr %behind
  ret void
}}
"""


def _bytes_ir(machine: Host) -> str:
    """``read(times, bytes, memory)`` and ``copy(times, bytes, memory)``: a block again and again."""
    vector = f"<{machine.vector_bytes // 4} x i32>"
    loads, ors, stores = [], [], []
    for k in range(UNROLL):
        loads += [f"%p{k} = getelementptr {vector}, ptr %at, i64 {k}", f"%v{k} = load {vector}, ptr %p{k}"]
        ors.append(f"%b{k} = or {vector} %a{k}, %v{k}")
        stores += [f"%q{k} = getelementptr {vector}, ptr %to, i64 {k}", f"store {vector} %v{k}, ptr %q{k}"]
    seen = range(UNROLL)
    return _passes_ir(
        "read",
        machine,
        end="add i64 %bytes, 0",
        kept=[f"%s{k} = phi {vector} [ zeroinitializer, %entry ], [ %b{k}, %after ]" for k in seen],
        sums=[f"%a{k} = phi {vector} [ %s{k}, %outer ], [ %b{k}, %loop ]" for k in seen],
        body=[*loads, *ors],
        # What was read is stored in the end, or else nothing would need to be read.
        after=[*_all_of("or", vector, UNROLL), f"store {vector} %all, ptr %memory"],
    ) + _passes_ir(
        "copy",
        machine,
        end="lshr i64 %bytes, 1",
        body=[*loads, "%there = add i64 %k, %end", "%to = getelementptr i8, ptr %memory, i64 %there", *stores],
    )


def _passes_ir(
    name: str,
    machine: Host,
    end: str,
    body: Sequence[str],
    kept: Sequence[str] = (),
    sums: Sequence[str] = (),
    after: Sequence[str] = (),
) -> str:
    return f"""
define void @{name}(i64 %times, i64 %bytes, ptr %memory) nounwind {{
entry:
  %end = {end}
  br label %outer
outer:
  %pass = phi i64 [ 0, %entry ], [ %again, %after ]
  {_lines(kept)}
  br label %loop
loop:
  %k = phi i64 [ 0, %outer ], [ %next, %loop ]
  {_lines(sums)}
  %at = getelementptr i8, ptr %memory, i64 %k
  {_lines(body)}
  %next = add i64 %k, {UNROLL * machine.vector_bytes}
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %after
after:
  %again = add i64 %pass, 1
  %repeat = icmp slt i64 %again, %times
  br i1 %repeat, label %outer, label %done
done:
  {_lines(after)}
  ret void
}}
"""


def _all_of(op: str, vector: str, count: int) -> list[str]:
    """``%all``: the vectors ``%b0``, ``%b1`` .. put together."""
    names = ["%b0", *(f"%t{k}" for k in range(1, count - 1)), "%all"]
    return [f"{names[k]} = {op} {vector} {names[k - 1]}, %b{k}" for k in range(1, count)]


def _lines(lines: Sequence[str]) -> str:
    return "\n  ".join(lines)
