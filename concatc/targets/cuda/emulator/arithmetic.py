"""What operators and functions of the dialect do with vectors, typed as Numba types them.

Integers compute in 64 bits, whatever their operands have, and a cast cuts them down; f32 stays f32, and f32 with an
integer or f64 is f64.  Fused multiply-add is not made up: ``a * b + c`` rounds twice here, once on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Value = Any  # a NumPy scalar (the same in all threads), or a vector over the threads

TYPES: dict[str, np.dtype[Any]] = {
    **{f"f{n}": np.dtype(f"float{n}") for n in (32, 64)},
    **{f"i{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)},
    **{f"u{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
}


class OperandError(Exception):
    """Operands of types that an operation is not defined for."""


def either(condition: Value, yes: Value, no: Value) -> Value:
    """``yes`` in the lanes where the condition holds, ``no`` in the others; a scalar where all three are."""
    chosen: Value = np.where(condition, yes, no)
    return chosen[()]


def constant(value: bool | int | float) -> Value:
    """A literal: i64, f64 or a truth value."""
    if isinstance(value, bool):
        return np.bool_(value)
    return np.int64(value) if isinstance(value, int) else np.float64(value)


def cast(value: Value, dtype: np.dtype[Any]) -> Value:
    """``f32(x)``, ``i32(x)``, ..: integers wrap."""
    return value.astype(dtype, copy=False)


def _both(a: Value, b: Value) -> tuple[Value, Value]:
    """Operands in the type that Numba computes in."""
    if a.dtype == b.dtype and a.dtype.kind == "f":
        return a, b
    kinds = {a.dtype.kind, b.dtype.kind}
    if "f" in kinds:
        both_float = kinds == {"f"}
        dtype = np.promote_types(a.dtype, b.dtype) if both_float else np.dtype(np.float64)
    else:
        dtype = np.dtype(np.uint64 if kinds == {"u"} else np.int64)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def _binary(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    return lambda a, b: function(*_both(a, b))


def _bits(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def of(a: Value, b: Value) -> Value:
        if a.dtype.kind == b.dtype.kind == "b":
            return function(a, b)
        if "f" in (a.dtype.kind, b.dtype.kind):
            raise OperandError("a bitwise operation on floats")
        return function(*_both(a, b))

    return of


def _whole(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    """``//`` and ``%``, of integers; by 0 they give anything."""

    def of(a: Value, b: Value) -> Value:
        a, b = _both(a, b)
        if a.dtype.kind == "f":
            raise OperandError("a division with rest of floats")
        return function(a, either(b == 0, b.dtype.type(1), b))

    return of


def _divide(a: Value, b: Value) -> Value:
    a, b = _both(a, b)
    if a.dtype.kind != "f":
        raise OperandError("`/` of integers is f64: use `//`")
    return np.divide(a, b)


BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mult": _binary(np.multiply),
    "Div": _divide,
    "FloorDiv": _whole(np.floor_divide),
    "Mod": _whole(np.remainder),
    "BitAnd": _bits(np.bitwise_and),
    "BitOr": _bits(np.bitwise_or),
    "BitXor": _bits(np.bitwise_xor),
    "LShift": _bits(np.left_shift),
    "RShift": _bits(np.right_shift),
}
COMPARE: dict[str, Callable[[Value, Value], Value]] = {
    "Lt": _binary(np.less),
    "LtE": _binary(np.less_equal),
    "Gt": _binary(np.greater),
    "GtE": _binary(np.greater_equal),
    "Eq": _binary(np.equal),
    "NotEq": _binary(np.not_equal),
}


def negative(x: Value) -> Value:
    """``-x``; of an integer it wraps as that integer does, and has 64 bits then."""
    made: Value = np.negative(x)
    wide = {"i": np.int64, "u": np.uint64}.get(x.dtype.kind)
    return made if wide is None else made.astype(wide)


def same_types(*values: Value) -> None:
    """Raise :class:`OperandError` where a function would be given two types."""
    if len({v.dtype for v in values}) != 1:
        raise OperandError(f"operands of types {', '.join(str(v.dtype) for v in values)}")


def select(condition: Value, yes: Value, no: Value) -> Value:
    """``yes if condition else no``, both computed."""
    if yes.dtype != no.dtype:
        yes, no = _both(yes, no)
    return either(condition, yes, no)


def _in_32_bits(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    """An unsigned division of 32 bits; negative numbers wrap, by 0 it gives anything."""

    def of(a: Value, b: Value) -> Value:
        if "f" in (a.dtype.kind, b.dtype.kind):
            raise OperandError("a division with rest of floats")
        divisor = b.astype(np.uint32)
        return function(a.astype(np.uint32), either(divisor == 0, np.uint32(1), divisor)).astype(np.int32)

    return of


def _float(function: Callable[..., Value]) -> Callable[..., Value]:
    """A function of floats of one type, whose result has that type."""

    def of(*args: Value) -> Value:
        same_types(*args)
        if args[0].dtype.kind != "f":
            raise OperandError(f"a function of floats is given {args[0].dtype}")
        return function(*args)

    return of


_ERF = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Value) -> Value:
    return np.asarray(_ERF(x.astype(np.float64))).astype(x.dtype)[()]


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "absolute": _float(np.abs),
    "erf": _float(_erf),
    "exp": _float(np.exp),
    "expm1": _float(np.expm1),
    "floor": _float(np.floor),
    "log": _float(np.log),
    "log1p": _float(np.log1p),
    "maximum": _float(np.maximum),
    "minimum": _float(np.minimum),
    "plus": _float(np.add),
    "quotient": _float(np.divide),
    "sqrt": _float(np.sqrt),
    "tanh": _float(np.tanh),
    "select": select,
    "div": _in_32_bits(np.floor_divide),
    "rem": _in_32_bits(np.remainder),
}


def _by_zero(a: Value, b: Value) -> tuple[str, Value]:
    return "an integer is divided by zero", b == 0


def _beyond_32_bits(a: Value, b: Value) -> tuple[str, Value]:
    # Negative numbers occur in front of guards, where nothing reads the result.
    return "a 32-bit division of 2^31 or more, or by as much, or by 0", (a >= 1 << 31) | (b >= 1 << 31) | (b == 0)


def _shifted_out(a: Value, b: Value) -> tuple[str, Value]:
    return "a shift by fewer than 0 or more than 63 bits", (b < 0) | (b > 63)


# What an operation must not be given: a message, and in which lanes it is.
FORBIDDEN: dict[str, Callable[[Value, Value], tuple[str, Value]]] = {
    "FloorDiv": _by_zero,
    "Mod": _by_zero,
    "LShift": _shifted_out,
    "RShift": _shifted_out,
    "div": _beyond_32_bits,
    "rem": _beyond_32_bits,
}


def not_held(value: Value, dtype: np.dtype[Any]) -> Value:
    """Where a float is NaN or beyond the range of the integers that it is cast to."""
    info = np.iinfo(dtype)
    return ~((value >= info.min) & (value <= info.max))
