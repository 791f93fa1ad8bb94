"""Values in lanes: one element for all lanes, a vector of them, or an index that grows by a fixed step a lane.

    i                    Scalar(i)                    the same in all lanes
    j, the vector axis   Lanes(base, (0, 1, 2, ..))   base, base + 1, base + 2, ..  kept as one number
    j // 2               Lanes(base / 2, (0, 0, 1, ..))   where base is even
    x[i, j]              Vector                       <16 x float>

:class:`LaneBuilder` turns ops of ``arith`` and ``math`` into LLVM instructions on them.  What is the same in all lanes
stays scalar, so that addresses and broadcast loads cost what they cost in scalar code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from concatc.ir.core import Operation
from concatc.targets.cpu.functions import FUNCTIONS, call_function, suffix_of
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.vectors import integers, same, undefined, vector_type

BIT = ir.IntType(1)
I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
LLVM_TYPES: dict[str, Any] = {
    "f32": ir.FloatType(),
    "f64": ir.DoubleType(),
    "i1": BIT,
    "i8": I8,
    "i32": I32,
    "i64": I64,
    "index": I64,
}


@dataclass(frozen=True)
class Lanes:
    """An index that is ``base + offsets[lane]``, the offsets known when code is made.

    ``base`` is a multiple of ``unit``; it is 0 where that is 0.
    """

    base: Any
    offsets: tuple[int, ...]
    unit: int = 1


_FLOAT_OPS = {"arith.addf": "fadd", "arith.subf": "fsub", "arith.mulf": "fmul", "arith.divf": "fdiv"}
_INTEGER_OPS = {
    "arith.addi": "add",
    "arith.subi": "sub",
    "arith.muli": "mul",
    "arith.divsi": "sdiv",
    "arith.remsi": "srem",
    "arith.andi": "and_",
    "arith.ori": "or_",
    "arith.xori": "xor",
    "arith.shli": "shl",
    "arith.shrui": "lshr",
}
_INTRINSICS = {
    "arith.maximumf": "llvm.maximum",
    "arith.minimumf": "llvm.minimum",
    "math.absf": "llvm.fabs",
    "math.sqrt": "llvm.sqrt",
    "math.floor": "llvm.floor",
}
_ORDERED = {"olt": "<", "ole": "<=", "ogt": ">", "oge": ">=", "oeq": "==", "one": "!="}
_UNORDERED = {"ult": "<", "ule": "<=", "ugt": ">", "uge": ">=", "ueq": "==", "une": "!="}
SIGNED = {"slt": "<", "sle": "<=", "sgt": ">", "sge": ">=", "eq": "==", "ne": "!="}
_CASTS = {
    "arith.sitofp": "sitofp",
    "arith.uitofp": "uitofp",
    "arith.fptosi": "fptosi",
    "arith.extf": "fpext",
    "arith.truncf": "fptrunc",
    "arith.extsi": "sext",
    "arith.extui": "zext",
    "arith.trunci": "trunc",
}


class LaneBuilder:
    """Emits instructions for values of ``lanes`` lanes."""

    def __init__(self, module: Any, builder: Any, lanes: int, host: Host) -> None:
        self.module = module
        self.b = builder
        self.lanes = lanes
        self.host = host

    # -- shapes ----------------------------------------------------------------------------------------------------
    def is_vector(self, value: Any) -> bool:
        """Whether a value is an LLVM vector."""
        return not isinstance(value, Lanes) and isinstance(value.type, ir.VectorType)

    def splat(self, value: Any) -> Any:
        """The same element in all lanes."""
        if isinstance(value, ir.Constant):
            return same(value, self.lanes)
        anything = undefined(value.type, self.lanes)
        first = self.b.insert_element(anything, value, I32(0))
        return self.b.shuffle_vector(first, anything, integers(I32, (0,) * self.lanes))

    def vector(self, value: Any) -> Any:
        """A value as an LLVM vector."""
        if isinstance(value, Lanes):
            return self.b.add(self.splat(value.base), self.numbers(value.offsets))
        return value if self.is_vector(value) else self.splat(value)

    def numbers(self, numbers: Sequence[int], type: Any = I64) -> Any:
        """A vector of integers known now."""
        return integers(type, tuple(numbers))

    def together(self, *values: Any) -> list[Any]:
        """All values as vectors, or none."""
        if not any(isinstance(v, Lanes) or self.is_vector(v) for v in values):
            return list(values)
        return [self.vector(v) for v in values]

    def zero(self, dtype: str) -> Any:
        """A vector of zeros."""
        return same(ir.Constant(LLVM_TYPES[dtype], 0), self.lanes)

    # -- operations ------------------------------------------------------------------------------------------------
    def intrinsic(self, name: str, result: Any, arguments: list[Any], flags: Sequence[str] = ()) -> Any:
        """Call a function of LLVM."""
        function = self.module.globals.get(name)
        if function is None:
            type = ir.FunctionType(result, [a.type for a in arguments])
            function = ir.Function(self.module, type, name)
        return self.b.call(function, arguments, fastmath=flags)

    def multiply_add(self, a: Any, b: Any, total: Any) -> Any:
        """``a * b + total``, rounded once where the host can."""
        name = "llvm.fma" if self.host.fma else "llvm.fmuladd"
        a, b, total = self.together(a, b, total)
        return self.intrinsic(f"{name}.{suffix_of(total.type)}", total.type, [a, b, total])

    def add(self, total: Any, term: Any) -> Any:
        """``total + term``."""
        return self.b.fadd(*self.together(total, term))

    def apply(self, op: Operation, args: list[Any]) -> Any:
        """An op without memory or regions."""
        name = op.name
        if any(isinstance(v, Lanes) for v in args) and not any(self.is_vector(v) for v in args):
            lanes = self._index_arithmetic(name, args)
            if lanes is not None:
                return lanes
        if name == "arith.cmpi":
            return self._compare_integers(str(op.attributes["predicate"]), args)
        if name == "arith.cmpf":
            return self._compare_floats(str(op.attributes["predicate"]), args)
        if name in _CASTS or name in ("arith.index_cast", "arith.index_castui"):
            return self._cast(op, args[0])
        args = self.together(*args)
        if name in _FLOAT_OPS:
            return getattr(self.b, _FLOAT_OPS[name])(*args)
        if name in _INTEGER_OPS:
            return getattr(self.b, _INTEGER_OPS[name])(*args)
        if name in _INTRINSICS:
            # Of two zeros any is the greater one: to order them takes two thirds of the instructions of a maximum.
            flags = ("nsz",) if name in ("arith.maximumf", "arith.minimumf") else ()
            return self.intrinsic(f"{_INTRINSICS[name]}.{suffix_of(args[0].type)}", args[0].type, args, flags)
        if name.removeprefix("math.") in FUNCTIONS:
            return call_function(self.module, self.b, name.removeprefix("math."), args[0], self.host.fma)
        if name == "arith.negf":
            return self.b.fneg(*args)
        if name == "arith.select":
            return self.b.select(*args)
        assert name in ("arith.maxsi", "arith.minsi"), name
        return self.b.select(self.b.icmp_signed(">" if name == "arith.maxsi" else "<", *args), *args)

    def _index_arithmetic(self, name: str, args: list[Any]) -> Lanes | None:
        """Index arithmetic that stays ``base + offsets``."""
        if name in ("arith.addi", "arith.subi"):
            a, b = (self._as_lanes(v) for v in args)
            sign, both = (1, self.b.add) if name == "arith.addi" else (-1, self.b.sub)
            offsets = tuple(x + sign * y for x, y in zip(a.offsets, b.offsets, strict=True))
            return Lanes(both(a.base, b.base), offsets, math.gcd(a.unit, b.unit))
        if name == "arith.muli" and any(isinstance(v, ir.Constant) for v in args):
            lanes, factor = args if isinstance(args[1], ir.Constant) else reversed(args)
            n = int(factor.constant)
            return Lanes(self.b.mul(lanes.base, factor), tuple(x * n for x in lanes.offsets), lanes.unit * abs(n))
        if name not in ("arith.divsi", "arith.remsi") or not isinstance(args[1], ir.Constant):
            return None
        lanes, n = self._as_lanes(args[0]), int(args[1].constant)
        if n < 1 or lanes.unit % n:
            return None
        # Indices that are divided are not negative (`loops/windows.py`): rounding down is rounding to zero.
        if name == "arith.remsi":
            return Lanes(I64(0), tuple(x % n for x in lanes.offsets), 0)
        quotient = self.b.sdiv(lanes.base, I64(n), flags=["exact"])
        return Lanes(quotient, tuple(x // n for x in lanes.offsets), lanes.unit // n)

    def _as_lanes(self, value: Any) -> Lanes:
        if isinstance(value, Lanes):
            return value
        if isinstance(value, ir.Constant):
            return Lanes(I64(0), (int(value.constant),) * self.lanes, 0)
        return Lanes(value, (0,) * self.lanes)

    def _compare_integers(self, predicate: str, args: list[Any]) -> Any:
        sign = SIGNED.get(predicate)
        a, b = args
        if sign is None:
            unsigned = {"ult": "<", "ule": "<=", "ugt": ">", "uge": ">="}[predicate]
            return self.b.icmp_unsigned(unsigned, *self.together(a, b))
        if not any(isinstance(v, Lanes) for v in args) or any(self.is_vector(v) for v in args):
            return self.b.icmp_signed(sign, *self.together(a, b))
        # base + offset < bound   is   offset < bound - base, on short numbers: extents fit 31 bits.
        a, b = self._as_lanes(a), self._as_lanes(b)
        distance = self.b.trunc(self.b.sub(b.base, a.base), I32)
        offsets = [x - y for x, y in zip(a.offsets, b.offsets, strict=True)]
        return self.b.icmp_signed(sign, self.numbers(offsets, I32), self.splat(distance))

    def _compare_floats(self, predicate: str, args: list[Any]) -> Any:
        args = self.together(*args)
        if predicate in _ORDERED:
            return self.b.fcmp_ordered(_ORDERED[predicate], *args)
        return self.b.fcmp_unordered(_UNORDERED[predicate], *args)

    def _cast(self, op: Operation, value: Any) -> Any:
        target = LLVM_TYPES[str(op.result.type)]
        source = LLVM_TYPES[str(op.operands[0].type)]
        if source == target:
            return value
        if isinstance(value, Lanes):
            if op.name == "arith.index_cast" and target.width < source.width:
                return self.b.add(self.splat(self.b.trunc(value.base, target)), self.numbers(value.offsets, target))
            value = self.vector(value)
        kind = vector_type(target, self.lanes) if self.is_vector(value) else target
        name = _CASTS.get(op.name)
        if name is None:
            wider = target.width > source.width
            name = ("zext" if op.name == "arith.index_castui" else "sext") if wider else "trunc"
        return getattr(self.b, name)(value, kind)

    # -- memory ----------------------------------------------------------------------------------------------------
    def below(self, count: Any) -> Any:
        """The mask of the lanes whose number is below ``count`` (i64)."""
        limit = ir.Constant(I64, self.lanes)
        short = self.b.trunc(self.b.select(self.b.icmp_signed("<", count, limit), count, limit), I32)
        numbers = integers(I32, tuple(range(self.lanes)))
        return self.b.icmp_signed("<", numbers, self.splat(short))

    def both(self, a: Any, b: Any) -> Any:
        """The conjunction of two masks; None is no mask."""
        if a is None or b is None:
            return b if a is None else a
        return self.b.and_(*self.together(a, b))

    def every(self, *masks: Any) -> Any:
        """The conjunction of masks; None is no mask."""
        return functools.reduce(self.both, masks, None)

    def load(self, pointer: Any, dtype: str, mask: Any) -> Any:
        """Neighbouring elements; 0 where the mask is off."""
        element = LLVM_TYPES[dtype]
        type = vector_type(element, self.lanes)
        align = _bytes_of(dtype)
        if mask is None:
            return self.b.load(pointer, typ=type, align=align)
        name = f"llvm.masked.load.{suffix_of(type)}.p0"
        return self.intrinsic(name, type, [pointer, I32(align), self.vector(mask), self.zero(dtype)])

    def store(self, value: Any, pointer: Any, dtype: str, mask: Any) -> None:
        """Store neighbouring elements where the mask is on."""
        align = _bytes_of(dtype)
        if mask is None:
            self.b.store(value, pointer, align=align)
            return
        name = f"llvm.masked.store.{suffix_of(value.type)}.p0"
        self.intrinsic(name, ir.VoidType(), [value, pointer, I32(align), self.vector(mask)])

    def prefetch(self, pointer: Any, dtype: str, ahead: Any = None) -> None:
        """Ask for the memory at ``pointer``, or ``ahead`` elements behind it, which may be no memory at all."""
        if ahead is not None:
            pointer = self.b.gep(pointer, [ahead], source_etype=LLVM_TYPES[dtype])
        for_reading, for_all_caches, data = I32(0), I32(3), I32(1)
        self.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, for_reading, for_all_caches, data])

    def pointers(self, pointer: Any, offsets: Any, dtype: str) -> Any:
        """A vector of pointers: ``pointer`` plus offsets in elements, one a lane."""
        base = self.splat(self.b.ptrtoint(pointer, I64))
        step = self.splat(ir.Constant(I64, _bytes_of(dtype)))
        return self.b.inttoptr(self.b.add(base, self.b.mul(offsets, step)), vector_type(POINTER, self.lanes))

    def gather(self, pointers: Any, dtype: str, mask: Any) -> Any:
        """Elements from anywhere; 0 where the mask is off."""
        type = vector_type(LLVM_TYPES[dtype], self.lanes)
        mask = self.vector(ir.Constant(BIT, 1) if mask is None else mask)
        name = f"llvm.masked.gather.{suffix_of(type)}.v{self.lanes}p0"
        return self.intrinsic(name, type, [pointers, I32(_bytes_of(dtype)), mask, self.zero(dtype)])

    def scatter(self, value: Any, pointers: Any, dtype: str, mask: Any) -> None:
        """Store elements anywhere where the mask is on."""
        mask = self.vector(ir.Constant(BIT, 1) if mask is None else mask)
        name = f"llvm.masked.scatter.{suffix_of(value.type)}.v{self.lanes}p0"
        self.intrinsic(name, ir.VoidType(), [value, pointers, I32(_bytes_of(dtype)), mask])


def _bytes_of(dtype: str) -> int:
    return {"f32": 4, "i32": 4, "f64": 8, "i64": 8, "i8": 1, "i1": 1}[dtype]
