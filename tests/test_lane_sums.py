"""Sums of the lanes of several vectors at a time."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from concatc.targets.cpu.lane_sums import lane_sums
from concatc.targets.cpu.native import Library, host, object_code


def halves(x: np.ndarray) -> np.ndarray:
    """The sum of each row: halves are added until one element is left."""
    while x.shape[1] > 1:
        x = x[:, : x.shape[1] // 2] + x[:, x.shape[1] // 2 :]
    return x[:, 0]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 24])
def test_sums_have_the_bits_of_halves_that_are_added(count: int, lanes: int, dtype: str) -> None:
    module = ir.Module("sums")
    element: Any = ir.FloatType() if dtype == "f4" else ir.DoubleType()
    pointer, row = ir.PointerType(), ir.VectorType(element, lanes)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer]), "sums")
    b: Any = ir.IRBuilder(function.append_basic_block())
    source, target = function.args
    size = np.dtype(dtype).itemsize
    at = [ir.Constant(ir.IntType(64), k) for k in range(count * lanes)]
    rows = [b.load(b.gep(source, [at[k * lanes]], source_etype=element), typ=row, align=size) for k in range(count)]
    for k, total in enumerate(lane_sums(b, rows, size)):
        b.store(total, b.gep(target, [at[k]], source_etype=element), align=size)
    b.ret_void()
    library = Library([object_code(str(module), host())], ["sums"])
    x = np.random.default_rng(0).normal(size=(count, lanes)).astype(dtype)
    y = np.zeros(count, dtype)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(library.address("sums"))
    call(x.ctypes.data, y.ctypes.data)
    np.testing.assert_array_equal(y, halves(x))
