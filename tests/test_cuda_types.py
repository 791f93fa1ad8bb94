"""The emulator types and computes expressions as Numba does: the same functions, compiled by it for the CPU."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from concatc.targets.cuda.emulator.expressions import Expressions
from concatc.targets.cuda.emulator.lanes import Lanes
from concatc.targets.cuda.emulator.program import Program

f32, f64, i8, i32, i64 = np.float32, np.float64, np.int8, np.int32, np.int64
u8, u32, u64 = np.uint8, np.uint32, np.uint64


# fmt: off
def sum_of_i32(): return i32(2147483647) + i32(1)
def wrapped_sum(): return i32(i32(2147483647) + i32(1))
def product_of_i32(): return i32(100000) * i32(100000)
def sum_of_u32(): return u32(4294967295) + u32(1)
def signs_mixed(): return u32(1) - i32(2)
def i64_and_u64(): return u64(5) + 1
def bytes_wrap(): return i8(i8(127) + i8(1))
def unsigned_of_negative(): return u32(i32(-1))
def shifted_right(): return i32(u32(i32(-8)) >> u32(28))
def shifted_left(): return i32(u32(3) << u32(31))
def bits(): return (i32(12) & i32(10)) ^ (i32(1) | i32(2))
def divided_below_zero(): return i64(-7) // 2
def rest_below_zero(): return i32(-7) % 3
def f32_product(): return f32(3.0) * f32(0.1)
def f32_quotient(): return f32(1.0) / f32(3.0)
def f32_and_int(): return f32(16777216.0) + 1
def f32_and_i32(): return f32(0.1) * i32(3)
def f32_and_f64(): return f32(0.1) + 0.2
def f32_difference(): return f32(1.0) - f32(0.1)
def negative_f32(): return -f32(0.5)
def negative_i32(): return -i32(-2147483648)
def negative_u32(): return -u32(1)
def negative_i8(): return -i8(-128)
def truncated(): return i32(f32(-2.75))
def i64_as_f32(): return f32(16777217)
def compared(): return (f32(0.1) < 0.1) | (i32(-1) < u32(1))
def truth(): return (1 < 2) & (f32(2.0) >= f32(2.0))
# fmt: on
FUNCTIONS = [f for f in list(globals().values()) if inspect.isfunction(f)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=[f.__name__ for f in FUNCTIONS])
def test_expressions_are_numbas(function: Callable[[], Any]) -> None:
    compiled = numba.njit(function)
    want = compiled()
    statement = ast.parse(inspect.getsource(function)).body[0]
    assert isinstance(statement, ast.FunctionDef)
    returned = statement.body[0]
    assert isinstance(returned, ast.Return) and returned.value is not None
    with np.errstate(all="ignore"):
        got = Expressions({}).expression(returned.value)(Program("").machine("k", Lanes(0, 1, 32), 1))
    assert got == want
    assert got.dtype.name == str(compiled.nopython_signatures[0].return_type)
