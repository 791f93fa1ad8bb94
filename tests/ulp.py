"""Errors in units in the last place, references for them, and native code of one function on arrays."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from concatc.targets.cpu.functions import call_function
from concatc.targets.cpu.native import Host, Library, object_code

Array = np.ndarray[Any, Any]
I64 = ir.IntType(64)


def native(name: str, dtype: str, lanes: int, host: Host) -> Callable[[Array], Array]:
    """A function of the CPU target on arrays, ``lanes`` elements at a time."""
    element = ir.FloatType() if dtype == "f32" else ir.DoubleType()
    width = 4 if dtype == "f32" else 8
    type = element if lanes == 1 else ir.VectorType(element, lanes)
    module = ir.Module("m")
    pointer = ir.PointerType()
    run = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer, I64]), "run")
    b = ir.IRBuilder(run.append_basic_block("entry"))
    loop, done = b.append_basic_block("loop"), b.append_basic_block("done")
    x, y, count = run.args
    start = b.block
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)
    i.add_incoming(I64(0), start)
    value = b.load(b.gep(x, [i], source_etype=element), typ=type, align=width)
    b.store(call_function(module, b, name, value, host.fma), b.gep(y, [i], source_etype=element), align=width)
    following = b.add(i, I64(lanes))
    i.add_incoming(following, loop)
    b.cbranch(b.icmp_signed("<", following, count), loop, done)
    b.position_at_end(done)
    b.ret_void()
    library = Library([object_code(str(module), host)], ["run"])
    code = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(library.address("run"))

    def on(values: Array) -> Array:
        padded = np.zeros(-(-values.size // lanes) * lanes, values.dtype)
        padded[: values.size] = values
        result = np.empty_like(padded)
        code(padded.ctypes.data, result.ctypes.data, padded.size)
        assert library is not None  # it lives as long as its code
        return result[: values.size]

    return on


def exact(name: str, x: Array) -> Array:
    """The function in the next wider format."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(all="ignore"):
        return _erf(wide) if name == "erf" else np.asarray(getattr(np, name)(wide))


def _erf(x: Array) -> Array:
    """``2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n + 1) / (1 3 5 .. (2n + 1))``: no term is negative."""
    a = np.minimum(np.abs(x), x.dtype.type(7))
    term, total, square = a.copy(), a.copy(), 2 * a * a
    for n in range(1, 200):
        term *= square / x.dtype.type(2 * n + 1)
        total += term
    pi = x.dtype.type("3.14159265358979323846264338327950288")
    return np.asarray(np.copysign(2 / np.sqrt(pi) * np.exp(-a * a) * total, x))


def ulps(got: Array, wanted: Array) -> Array:
    """How far each element is from the exact value, in units in the last place of that value; NaN where both are."""
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = wanted.astype(got.dtype)
        _, exponent = np.frexp(wanted)
        unit = np.ldexp(wanted.dtype.type(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
        error = np.abs(got.astype(wanted.dtype) - wanted) / unit
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(np.isfinite(rounded) & np.isfinite(got), error, np.where(same, 0.0, math.inf))
