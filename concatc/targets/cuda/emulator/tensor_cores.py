"""Tensor cores: what 32 threads multiply together, each holding its share of the matrices as PTX's tables say.

A share is an array of ``(numbers, lanes)``.  Factors must be tf32, since a tensor core takes no notice of the other
bits; products are exact; the sum with what was there is cut off to f32, as tensor cores do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from concatc.targets.cuda.emulator.arithmetic import OperandError, Value
from concatc.targets.cuda.emulator.lanes import WARP
from concatc.targets.cuda.emulator.machine import Machine

Array = np.ndarray[Any, Any]

_LOST = 13  # bits of f32's mantissa that tf32 has not
GROUP, MEMBER = np.arange(WARP) // 4, np.arange(WARP) % 4
# Row and column of each number of a share, by thread; of `mma.m16n8k8` in tf32.
A = [(GROUP + row, MEMBER + term) for row, term in ((0, 0), (8, 0), (0, 4), (8, 4))]
B = [(MEMBER + term, GROUP) for term in (0, 4)]
C = [(GROUP + row, MEMBER * 2 + column) for row, column in ((0, 0), (0, 1), (8, 0), (8, 1))]


def vector(machine: Machine, values: list[Value]) -> Array:
    """Some numbers of each thread."""
    if len({v.dtype for v in values}) != 1 or any(np.ndim(v) > 1 for v in values):
        raise OperandError("a share has numbers of one type")
    return np.stack([machine.everywhere(v) for v in values])


def tf32(x: Value) -> Value:
    """Rounded to the nearest, halves away from 0."""
    _require_f32(x)
    half = np.uint32(1 << (_LOST - 1))
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = ((bits + half) & ~np.uint32((1 << _LOST) - 1)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


def tf32_rest(x: Value) -> Value:
    """What :func:`tf32` leaves."""
    return tf32(x - tf32(x))


def vector_sum(x: Value, y: Value) -> Value:
    """Each number with its counterpart."""
    _require_f32(x, y)
    if x.shape != y.shape:
        raise OperandError("shares of as many numbers are added")
    return x + y


def mma(machine: Machine, a: Value, b: Value, total: Value) -> Value:
    """``total + a @ b`` of each warp: 16 x 8 by 8 x 8."""
    _require_f32(a, b, total)
    if [len(v) for v in (a, b, total)] != [4, 2, 4] or any(np.ndim(v) != 2 for v in (a, b, total)):
        raise OperandError("`mma` takes shares of 4, 2 and 4 numbers")
    lanes = machine.lanes
    if lanes.threads % WARP:
        machine.fail("warp", "a block without whole warps multiplies by tensor cores")
    if machine.mask is not None:
        here = machine.mask.reshape(-1, WARP)
        machine.forbid("warp", "multiplies by tensor cores without its whole warp", np.repeat(~here.all(axis=1), WARP))
    for factor in (a, b):
        bits = np.ascontiguousarray(factor).view(np.uint32) & np.uint32((1 << _LOST) - 1)
        wrong = ((bits != 0) & np.isfinite(factor)).any(axis=0)
        machine.forbid("types", "gives a tensor core a number that was not rounded to tf32", wrong)
    left, right = _gathered(a, A, (16, 8)), _gathered(b, B, (8, 8))
    sums = _cut_off(left @ right + _gathered(total, C, (16, 8)))
    return np.stack([sums[:, row, column].reshape(-1) for row, column in C])


def _gathered(share: Array, places: list[tuple[Array, Array]], shape: tuple[int, int]) -> Array:
    """The matrices that the warps hold, in f64."""
    whole = np.empty((share.shape[1] // WARP, *shape))
    for numbers, (row, column) in zip(share, places, strict=True):
        whole[:, row, column] = numbers.reshape(-1, WARP)
    return whole


def _cut_off(x: Array) -> Array:
    """Rounded towards 0 to f32."""
    near = x.astype(np.float32)
    beyond = np.isfinite(near) & (np.abs(near.astype(np.float64)) > np.abs(x))
    return np.where(beyond, np.nextafter(near, np.float32(0)), near)


def _require_f32(*values: Value) -> None:
    if any(v.dtype != np.float32 for v in values):
        raise OperandError(f"tensor cores are given {', '.join(str(v.dtype) for v in values)}")
