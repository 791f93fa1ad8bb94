"""The native step: one call that runs a table of launches, without the interpreter lock.

    func.call @k0_relu(%c0, %c64, %x, %y, %false)   ->   {kernel, windows, sizes, add, begin, end}, a row of a table

The table is read off ``@step`` of the loops module: constants, windows of the bases, calls.  Another batch size is
another table over the same code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.core import FuncOp, Operation, SymbolRef, Value
from concatc.ir.types import I1, INDEX, MemRefType, dense_strides

ROW = 7  # kernel, windows, sizes, add, begin, end, scratch
RUNNER = "run"
PHASES = ("forward", "backward", "update")


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
    """One launch."""

    kernel: str
    phase: str
    windows: tuple[int, ...]
    sizes: tuple[int, ...]
    add: int
    begin: int
    end: int


@dataclass(frozen=True)
class _WindowOf:
    base: int
    offset_bytes: int
    strides: tuple[int, ...]


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
        values[arg] = _WindowOf(k, 0, (1,))
    for op in step.ops:
        match op.name:
            case "arith.constant":
                values[op.result] = op.attributes["value"]
            case "memref.view":
                source = values[op.operands[0]]
                values[op.result] = _WindowOf(source.base, source.offset_bytes + values[op.operands[1]], _dense(op))
            case "memref.reinterpret_cast":
                source = values[op.operands[0]]
                strides, offsets = op.attributes["strides"], op.attributes["offsets"]
                if not isinstance(strides, tuple) or None in strides or offsets != (0,):
                    raise _unknown(op)
                values[op.result] = _WindowOf(source.base, source.offset_bytes, tuple(map(int, strides)))  # type: ignore[arg-type]
            case "memref.cast":
                values[op.result] = values[op.operands[0]]
            case "func.call":
                table.rows.append(_row(op, values))
            case "func.return":
                pass
            case _:
                raise _unknown(op)
    return table


def _dense(op: Operation) -> tuple[int, ...]:
    type = op.result.type
    if not isinstance(type, MemRefType) or None in type.shape or type.strides is not None:
        raise _unknown(op)
    return dense_strides(tuple(n for n in type.shape if n is not None))


def _unknown(op: Operation) -> ConcatcError:
    return ConcatcError(Diagnostic(f"@step holds constants, windows and calls, not this `{op.name}`", op.loc))


def _row(op: Operation, values: Mapping[Value, Any]) -> Row:
    windows: list[int] = []
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
            windows += [value.base, value.offset_bytes, *value.strides]
    callee, phase = op.attributes["callee"], op.attributes.get("cnet.phase", "forward")
    assert isinstance(callee, SymbolRef)
    if phase not in PHASES:
        raise ConcatcError(Diagnostic(f"`{phase}` is no phase; known are {', '.join(PHASES)}", op.loc))
    begin, end, *sizes = numbers
    return Row(callee.name, str(phase), tuple(windows), tuple(sizes), add, begin, end)


_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class NativeStep:
    """The table in memory, ready to run by phase."""

    def __init__(self, table: StepTable, runner: int, addresses: Mapping[str, int]) -> None:
        self.table = table
        self._run = _RUN(runner)
        self._phases: dict[str, tuple[np.ndarray, list[Row]]] = {}
        self._data: list[np.ndarray] = []
        shared: dict[tuple[int, ...], int] = {}
        for phase in ("step", *PHASES):
            rows = [row for row in table.rows if phase in ("step", row.phase)]
            cells = [self._cells(row, addresses, shared) for row in rows]
            self._phases[phase] = (np.array(cells, np.int64).reshape(len(rows), ROW), rows)
        self._bases = (ctypes.c_void_p * max(len(table.bases), 1))()

    def _cells(self, row: Row, addresses: Mapping[str, int], shared: dict[tuple[int, ...], int]) -> list[int]:
        pointers = [self._keep(numbers, shared) for numbers in (row.windows, row.sizes)]
        return [addresses[row.kernel], *pointers, row.add, row.begin, row.end, 0]

    def _keep(self, numbers: tuple[int, ...], shared: dict[tuple[int, ...], int]) -> int:
        if numbers not in shared:
            self._data.append(np.array(numbers or (0,), np.int64))
            shared[numbers] = self._data[-1].ctypes.data
        return shared[numbers]

    def run(self, bases: Mapping[str, np.ndarray], phase: str) -> None:
        """Run the launches of a phase, or all of them (``step``)."""
        for k, (name, size_bytes) in enumerate(self.table.bases):
            memory = bases.get(name)
            if memory is None or memory.nbytes < size_bytes:
                found = 0 if memory is None else memory.nbytes
                assert size_bytes == 0, f"the base {name} has {found} bytes where the step needs {size_bytes}"
                continue
            self._bases[k] = memory.__array_interface__["data"][0]
        cells, rows = self._phases[phase]
        status = self._run(ctypes.addressof(self._bases), cells.ctypes.data, len(cells))
        if status:
            raise ConcatcError(f"the kernel {rows[status - 1].kernel} failed")
