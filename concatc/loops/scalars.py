"""One scalar operation of ``Expr`` as ops of ``arith`` and ``math``.

Arith("max", (a, b)) on f32   ->   %m = arith.maximumf %a, %b : f32
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from concatc.ir.core import Value
from concatc.ir.types import FLOATS, I1, I64, ScalarType
from concatc.loops.expr import COMPARISONS
from concatc.loops.loop_builder import LoopBuilder

_FLOAT_OPS = {
    "add": "arith.addf",
    "sub": "arith.subf",
    "mul": "arith.mulf",
    "div": "arith.divf",
    "max": "arith.maximumf",
    "min": "arith.minimumf",
    "neg": "arith.negf",
    "abs": "math.absf",
    "exp": "math.exp",
    "expm1": "math.expm1",
    "log": "math.log",
    "log1p": "math.log1p",
    "sqrt": "math.sqrt",
    "tanh": "math.tanh",
    "erf": "math.erf",
    "floor": "math.floor",
}
_INTEGER_OPS = {
    "add": "arith.addi",
    "sub": "arith.subi",
    "mul": "arith.muli",
    "max": "arith.maxsi",
    "min": "arith.minsi",
    "floordiv": "arith.divsi",
    "rem": "arith.remsi",
    "and": "arith.andi",
    "or": "arith.ori",
    "xor": "arith.xori",
    "shl": "arith.shli",
    "shr": "arith.shrui",
}
# `une` alone is unordered: NaN != NaN holds, every other comparison with NaN does not.
_FLOAT_PREDICATES = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_INTEGER_PREDICATES = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"}


def arith_op(b: LoopBuilder, op: str, args: Sequence[Value]) -> Value:
    """``op`` of :data:`concatc.loops.expr.ARITY` on values of one type."""
    type = args[0].type
    is_float = str(type) in FLOATS
    if op in COMPARISONS:
        name, predicates = ("arith.cmpf", _FLOAT_PREDICATES) if is_float else ("arith.cmpi", _INTEGER_PREDICATES)
        return b.pure(name, args, I1, attributes={"predicate": predicates[op]})
    if is_float:
        return b.pure(_FLOAT_OPS[op], args, type)
    if op == "neg":
        return b.pure("arith.subi", [b.constant(0, type), *args], type)
    if op == "abs":
        return b.pure("arith.maxsi", [args[0], arith_op(b, "neg", args)], type)
    return b.pure(_INTEGER_OPS[op], args, type)


_WIDTH = {"i1": 1, "i8": 8, "i32": 32, "i64": 64}


def cast_op(b: LoopBuilder, value: Value, dtype: str) -> Value:
    """``value`` converted to ``dtype``; float to integer truncates, ``i1`` counts as 0 or 1."""
    source, target = str(value.type), ScalarType(dtype)
    if source == dtype:
        return value
    if source in FLOATS and dtype in FLOATS:
        return b.pure("arith.extf" if dtype == "f64" else "arith.truncf", [value], target)
    if source == "index" and dtype in FLOATS:
        return b.pure("arith.sitofp", [b.pure("arith.index_cast", [value], I64)], target)
    if source in FLOATS and dtype == "index":
        return b.pure("arith.index_cast", [b.pure("arith.fptosi", [value], I64)], target)
    if dtype in FLOATS:
        return b.pure("arith.uitofp" if source == "i1" else "arith.sitofp", [value], target)
    if source in FLOATS:
        return b.pure("arith.fptosi", [value], target)
    if source == "i1":
        if dtype == "index":
            return b.pure("arith.index_castui", [value], target)
        return b.pure("arith.extui", [value], target)
    if "index" in (source, dtype):
        return b.pure("arith.index_cast", [value], target)
    return b.pure("arith.extsi" if _WIDTH[dtype] > _WIDTH[source] else "arith.trunci", [value], target)


def select_op(b: LoopBuilder, condition: Value, yes: Value, no: Value) -> Value:
    """``yes if condition else no``."""
    return yes if yes is no else b.pure("arith.select", [condition, yes, no], yes.type)


def least(b: LoopBuilder, dtype: str) -> Value:
    """What no value of the type is below."""
    if dtype in FLOATS:
        return b.constant(-math.inf, ScalarType(dtype))
    return b.constant(-(1 << (_WIDTH[dtype] - 1)), ScalarType(dtype))


def argmax_ops(b: LoopBuilder, carried: list[Value], value: Value, index: Value) -> list[Value]:
    """The greatest value and where it is, of those in ``carried`` and of ``value`` at ``index``."""
    best, where = carried
    # The first NaN is before everything: a best that is none is replaced by it, and then by nothing.
    not_less = b.not_(arith_op(b, "le", [value, best]))
    better = arith_op(b, "and", [not_less, arith_op(b, "eq", [best, best])])
    index = cast_op(b, index, str(where.type))
    return [select_op(b, better, value, best), select_op(b, better, index, where)]
