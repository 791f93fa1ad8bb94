"""Reads ``@step`` of the loops module into a table of launches.

    func.call @k0_relu(%c0, %c64, %x, %y, %false)   ->   Row("k0_relu", windows, sizes, add, begin = 0, end = 64)

What the kernels say of themselves comes along: how they may be cut for several threads (`loops/cuts.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.core import FuncOp, Module, Operation, SymbolRef, Value
from concatc.ir.types import I1, INDEX, MemRefType, dense_strides
from concatc.loops.cuts import Cutting, cutting_of
from concatc.loops.plan import Window
from concatc.passes.check_lattice import overlap
from concatc.targets.cpu.step import PHASES, Row, StepTable


@dataclass(frozen=True)
class _Place:
    """A window, and the number of its base."""

    base: int
    window: Window


def step_table(loops: Module) -> StepTable:
    """Read ``@step``.  Raises :class:`ConcatcError` for ops that have no place there."""
    reader = _Reader({f.sym_name: f for f in loops.functions[1:] if f.declared is None})
    for arg in loops.main.args:
        reader.base(arg)
    for op in loops.main.ops:
        reader.read(op)
    return reader.table


class _Reader:
    def __init__(self, kernels: Mapping[str, FuncOp]) -> None:
        self.table = StepTable([])
        self._kernels = kernels
        self._values: dict[Value, Any] = {}
        self._cuttings: dict[str, Cutting | None] = {}

    def base(self, arg: Value) -> None:
        """Take an argument of ``@step``."""
        assert isinstance(arg.type, MemRefType)
        size_bytes = arg.type.shape[0] or 0
        whole = Window(arg.name, 0, (size_bytes,), (1,), "i8")
        self._values[arg] = _Place(len(self.table.bases), whole)
        self.table.bases.append((arg.name, size_bytes))

    def read(self, op: Operation) -> None:
        """Take an operation of ``@step``."""
        values = self._values
        match op.name:
            case "arith.constant":
                values[op.result] = op.attributes["value"]
            case "memref.view":
                source = values[op.operands[0]]
                offset = source.window.offset_bytes + values[op.operands[1]]
                values[op.result] = _place(op, source, offset, _dense(op))
            case "memref.reinterpret_cast":
                source = values[op.operands[0]]
                strides, offsets = op.attributes["strides"], op.attributes["offsets"]
                if not isinstance(strides, tuple) or None in strides or offsets != (0,):
                    raise _unknown(op)
                known = tuple(int(s) for s in strides)  # type: ignore[arg-type]
                values[op.result] = _place(op, source, source.window.offset_bytes, known)
            case "memref.cast":
                values[op.result] = values[op.operands[0]]
            case "func.call":
                self._call(op)
            case "func.return":
                pass
            case _:
                raise _unknown(op)

    def _call(self, op: Operation) -> None:
        places: list[_Place] = []
        numbers: list[int] = []
        add = flags = 0
        for operand in op.operands:
            value = self._values[operand]
            if operand.type == INDEX:
                numbers.append(int(value))
            elif operand.type == I1:
                add |= bool(value) << flags
                flags += 1
            else:
                places.append(value)
        callee, phase = op.attributes["callee"], op.attributes.get("cnet.phase", "forward")
        assert isinstance(callee, SymbolRef)
        if phase not in PHASES:
            raise ConcatcError(Diagnostic(f"`{phase}` is no phase; known are {', '.join(PHASES)}", op.loc))
        begin, end, *sizes = numbers
        windows = [(p.base, p.window.offset_bytes, *p.window.strides) for p in places]
        starts = list(itertools.accumulate((len(numbers) for numbers in windows), initial=0))[:-1]
        self.table.rows.append(
            Row(
                callee.name,
                str(phase),
                tuple(n for numbers in windows for n in numbers),
                tuple(sizes),
                add,
                begin,
                end,
                tuple(starts),
                tuple(p.window.end_bytes for p in places),
            )
        )
        self._cut(self.table.rows[-1], [p.window for p in places])

    def _cut(self, row: Row, windows: Sequence[Window]) -> None:
        """Let a kernel be cut where its loops allow it, and the windows of each of its launches."""
        kernel = row.kernel
        if kernel not in self._cuttings:
            function = self._kernels.get(kernel)
            self._cuttings[kernel] = cutting = cutting_of(function) if function is not None else None
            if cutting is not None:
                self.table.cuts[kernel] = cutting.cut
        cutting = self._cuttings[kernel]
        if cutting is None:
            return
        if not (row.is_in_order(cutting.cut) and _stays_apart(cutting.agrees, cutting, self._kernels[kernel], windows)):
            self.table.cuts.pop(kernel, None)
        elif kernel in self.table.cuts and not _stays_apart(
            cutting.agrees_in_slices, cutting, self._kernels[kernel], windows
        ):
            self.table.cuts[kernel] = self.table.cuts[kernel].without_slices()


def _stays_apart(
    agrees: Callable[[int, int], bool], cutting: Cutting, kernel: FuncOp, windows: Sequence[Window]
) -> bool:
    """Whether results that lie over arguments do so element by element of a chunk, or slice."""
    memory = [arg for arg in kernel.args if isinstance(arg.type, MemRefType)]
    for stored in cutting.results:
        if memory[stored].attrs.get("cnet.noalias"):
            continue
        for other, window in enumerate(windows):
            if other == stored or not overlap(windows[stored], window):
                continue
            if window != windows[stored] or not agrees(stored, other):
                return False
    return True


def _place(op: Operation, source: _Place, offset_bytes: int, strides: tuple[int, ...]) -> _Place:
    type = op.result.type
    assert isinstance(type, MemRefType)
    if None in type.shape:
        raise _unknown(op)
    shape = tuple(n for n in type.shape if n is not None)
    return _Place(source.base, Window(source.window.base, offset_bytes, shape, strides, type.dtype))


def _dense(op: Operation) -> tuple[int, ...]:
    type = op.result.type
    if not isinstance(type, MemRefType) or None in type.shape or type.strides is not None:
        raise _unknown(op)
    return dense_strides(tuple(n for n in type.shape if n is not None))


def _unknown(op: Operation) -> ConcatcError:
    return ConcatcError(Diagnostic(f"@step holds constants, windows and calls, not this `{op.name}`", op.loc))
