"""The native step: one call that runs a table of launches, without the interpreter lock.

    func.call @k0_relu(%c0, %c64, %x, %y, %false)   ->   {kernel, windows, sizes, add, begin, end}, a row of a table

The table is read off ``@step`` of the loops module: constants, windows of the bases, calls.  Another batch size is
another table over the same code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.core import FuncOp, Operation, SymbolRef, Value
from concatc.ir.types import I1, INDEX, MemRefType, dense_strides
from concatc.loops.plan import Window

Ints = np.ndarray[Any, np.dtype[np.int64]]
ROW = 7  # kernel, windows, sizes, add, begin, end, scratch
RUNNER = "run"
PHASES = ("forward", "backward", "update")


def kernel_symbol(name: str) -> str:
    """The name of a kernel with the signature that all share (`abi.py`)."""
    return f"kernel.{name}"


# `i32 run(i8** bases, row* table, i64 rows)`: 0, or the number of the row whose kernel failed, counted from 1.
RUNNER_IR = """
%row = type { ptr, ptr, ptr, i64, i64, i64, ptr }

define i32 @run(ptr %bases, ptr %table, i64 %rows) nounwind {
entry:
  br label %head
head:
  %k = phi i64 [ 0, %entry ], [ %next, %after ]
  %more = icmp slt i64 %k, %rows
  br i1 %more, label %body, label %done
body:
  %row = getelementptr %row, ptr %table, i64 %k
  %fields = load %row, ptr %row
  %kernel = extractvalue %row %fields, 0
  %windows = extractvalue %row %fields, 1
  %sizes = extractvalue %row %fields, 2
  %add = extractvalue %row %fields, 3
  %begin = extractvalue %row %fields, 4
  %end = extractvalue %row %fields, 5
  %scratch = extractvalue %row %fields, 6
  %status = call i32 %kernel(ptr %bases, ptr %windows, ptr %sizes, i64 %add, i64 %begin, i64 %end, ptr %scratch)
  %ok = icmp eq i32 %status, 0
  br i1 %ok, label %after, label %fail
after:
  %next = add i64 %k, 1
  br label %head
fail:
  %number = trunc i64 %k to i32
  %failed = add i32 %number, 1
  ret i32 %failed
done:
  ret i32 0
}
"""


@dataclass(frozen=True)
class Row:
    """One launch.

    ``starts`` are where each window begins in ``windows``: its base, its offset, its strides; ``ends`` one past the
    last byte of each window in its base.
    """

    kernel: str
    phase: str
    windows: tuple[int, ...]
    sizes: tuple[int, ...]
    add: int
    begin: int
    end: int
    starts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class _WindowOf:
    base: int
    offset_bytes: int
    strides: tuple[int, ...]
    end_bytes: int


@dataclass
class StepTable:
    """The launches of ``@step``, and its bases in order with their sizes."""

    bases: list[tuple[str, int]]
    rows: list[Row] = field(default_factory=list)


def step_table(step: FuncOp) -> StepTable:
    """Read ``@step``.  Raises :class:`ConcatcError` for ops that have no place there."""
    table = StepTable([])
    values: dict[Value, Any] = {}
    for k, arg in enumerate(step.args):
        assert isinstance(arg.type, MemRefType)
        table.bases.append((arg.name, arg.type.shape[0] or 0))
        values[arg] = _WindowOf(k, 0, (1,), table.bases[k][1])
    for op in step.ops:
        match op.name:
            case "arith.constant":
                values[op.result] = op.attributes["value"]
            case "memref.view":
                source = values[op.operands[0]]
                offset = source.offset_bytes + values[op.operands[1]]
                values[op.result] = _window(op, source.base, offset, _dense(op))
            case "memref.reinterpret_cast":
                source = values[op.operands[0]]
                strides, offsets = op.attributes["strides"], op.attributes["offsets"]
                if not isinstance(strides, tuple) or None in strides or offsets != (0,):
                    raise _unknown(op)
                values[op.result] = _window(op, source.base, source.offset_bytes, tuple(map(int, strides)))  # type: ignore[arg-type]
            case "memref.cast":
                values[op.result] = values[op.operands[0]]
            case "func.call":
                table.rows.append(_row(op, values))
            case "func.return":
                pass
            case _:
                raise _unknown(op)
    return table


def _window(op: Operation, base: int, offset_bytes: int, strides: tuple[int, ...]) -> _WindowOf:
    type = op.result.type
    assert isinstance(type, MemRefType)
    if None in type.shape:
        raise _unknown(op)
    shape = tuple(n for n in type.shape if n is not None)
    return _WindowOf(base, offset_bytes, strides, Window("", offset_bytes, shape, strides, type.dtype).end_bytes)


def _dense(op: Operation) -> tuple[int, ...]:
    type = op.result.type
    if not isinstance(type, MemRefType) or None in type.shape or type.strides is not None:
        raise _unknown(op)
    return dense_strides(tuple(n for n in type.shape if n is not None))


def _unknown(op: Operation) -> ConcatcError:
    return ConcatcError(Diagnostic(f"@step holds constants, windows and calls, not this `{op.name}`", op.loc))


def _row(op: Operation, values: Mapping[Value, Any]) -> Row:
    windows: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    numbers: list[int] = []
    add = flags = 0
    for operand in op.operands:
        value = values[operand]
        if operand.type == INDEX:
            numbers.append(int(value))
        elif operand.type == I1:
            add |= bool(value) << flags
            flags += 1
        else:
            starts.append(len(windows))
            ends.append(value.end_bytes)
            windows += [value.base, value.offset_bytes, *value.strides]
    callee, phase = op.attributes["callee"], op.attributes.get("cnet.phase", "forward")
    assert isinstance(callee, SymbolRef)
    if phase not in PHASES:
        raise ConcatcError(Diagnostic(f"`{phase}` is no phase; known are {', '.join(PHASES)}", op.loc))
    begin, end, *sizes = numbers
    return Row(callee.name, str(phase), tuple(windows), tuple(sizes), add, begin, end, tuple(starts), tuple(ends))


@dataclass(frozen=True)
class StepNumbers:
    """A table as arrays: the numbers of all rows one behind the other, and where those of each row begin.

    Of row ``k`` the windows begin at ``windows_at[k]`` and the sizes at ``sizes_at[k]``; ``rest[k]`` is ``add``, begin
    and end.
    """

    bases: list[tuple[str, int]]
    kernels: tuple[str, ...]
    phases: tuple[str, ...]
    numbers: Ints
    windows_at: Ints
    sizes_at: Ints
    rest: Ints

    @staticmethod
    def of(table: StepTable) -> StepNumbers:
        """The numbers of a table."""
        rows = table.rows
        numbers = [n for row in rows for n in (*row.windows, *row.sizes)]
        counts = np.array([(len(row.windows), len(row.sizes)) for row in rows], np.int64).reshape(len(rows), 2)
        ends = np.cumsum(counts.ravel()).reshape(len(rows), 2)
        return StepNumbers(
            table.bases,
            tuple(row.kernel for row in rows),
            tuple(row.phase for row in rows),
            np.array(numbers, np.int64),
            ends[:, 0] - counts[:, 0],
            ends[:, 0],
            np.array([(row.add, row.begin, row.end) for row in rows], np.int64).reshape(len(rows), 3),
        )

    def followed_by(self, other: StepNumbers, phase: str) -> StepNumbers:
        """The rows of this table, then those of a phase of ``other``, whose bases are these and maybe more."""
        rows = np.array([k for k, of in enumerate(other.phases) if of == phase], np.int64)
        shift = len(self.numbers)
        known = dict(self.bases)
        return StepNumbers(
            [(name, known.get(name, n)) for name, n in other.bases],
            (*self.kernels, *(other.kernels[k] for k in rows)),
            (*self.phases, *(other.phases[k] for k in rows)),
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.windows_at, other.windows_at[rows] + shift]),
            np.concatenate([self.sizes_at, other.sizes_at[rows] + shift]),
            np.concatenate([self.rest, other.rest[rows]]),
        )


@dataclass(frozen=True)
class Launches:
    """Arguments of the function that runs tables, which lies at ``runner``; ``kernels`` are the rows' by name."""

    runner: int
    bases: Ints
    table: Ints
    kernels: list[str]


_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class NativeStep:
    """The table in memory, ready to run by phase."""

    def __init__(self, table: StepNumbers, runner: int, addresses: Mapping[str, int]) -> None:
        self.table = table
        self._runner = runner
        self._run = _RUN(runner)
        self._numbers = np.ascontiguousarray(table.numbers, np.int64)  # rows point into it
        start, step = self._numbers.ctypes.data, self._numbers.itemsize
        cells = np.zeros((len(table.kernels), ROW), np.int64)
        cells[:, 0] = [addresses[kernel] for kernel in table.kernels]
        cells[:, 1] = start + step * table.windows_at
        cells[:, 2] = start + step * table.sizes_at
        cells[:, 3:6] = table.rest
        self._cells = cells
        self._phases: dict[str, tuple[np.ndarray, list[str]]] = {}
        for phase in ("step", *PHASES):
            rows = [k for k, of in enumerate(table.phases) if phase in ("step", of)]
            self._phases[phase] = (np.ascontiguousarray(cells[rows]), [table.kernels[k] for k in rows])
        self._bases = (ctypes.c_void_p * max(len(table.bases), 1))()

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run the launches of a phase, or all of them (``step``)."""
        cells, kernels = self._phases[phase]
        self._address(bases, self._bases)
        _check(self._run(ctypes.addressof(self._bases), cells.ctypes.data, len(cells)), kernels)

    def run_timed(self, bases: Mapping[str, np.ndarray], phase: str, clock: int) -> Ints:
        """The same; returns the time of a clock before the first launch, then behind each, in nanoseconds."""
        from concatc.targets.cpu.timed_step import timed_rows

        cells, kernels = self._phases[phase]
        self._address(bases, self._bases)
        status, stamps = timed_rows(self._runner, ctypes.addressof(self._bases), cells, clock)
        _check(status, kernels)
        return stamps

    def launches(self, bases: Mapping[str, np.ndarray], phases: Sequence[str]) -> Launches:
        """The launches of some phases on these bases, as data for a native call.  The bases must outlive it."""
        addresses = np.zeros(len(self.table.bases), np.int64)
        self._address(bases, addresses)
        rows = [k for k, of in enumerate(self.table.phases) if of in phases]
        table = np.ascontiguousarray(self._cells[rows])
        return Launches(self._runner, addresses, table, [self.table.kernels[k] for k in rows])

    def _address(self, bases: Mapping[str, np.ndarray], into: Any) -> None:
        """Write where the bases begin; raises :class:`ConcatcError` where one is too small."""
        for k, (name, size_bytes) in enumerate(self.table.bases):
            memory = bases.get(name)
            if memory is None or memory.nbytes < size_bytes:
                found = 0 if memory is None else memory.nbytes
                if size_bytes:
                    raise ConcatcError(f"the base {name} has {found} bytes where the step needs {size_bytes}")
                continue
            into[k] = memory.__array_interface__["data"][0]


def _check(status: int, kernels: list[str]) -> None:
    if status:
        raise ConcatcError(f"the kernel {kernels[status - 1]} failed")
