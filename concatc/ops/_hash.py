"""Random bits as a pure function of counters, in NumPy and as a scalar expression.

    h = index ^ (seed * A + k1)                         k1, k2: the key, scrambled at compile time
    h = (h ^ h >> 17) * FIRST ^ (step * B + k2)
    h = (h ^ h >> 11) * SECOND
    h = (h ^ h >> 15) * THIRD
    bits = h ^ h >> 14

There is no state, so layout, threads, fusion and recomputing do not change what is drawn.  The scramble is xorshift and
multiply on 32 bits with the constants that C. Wellons found by search ("triple32", Hash Function Prospector, 2018).
Each xorshift doubles the expression as a tree, so seed and step enter within it and not by scrambles of their own; a
step that enters before the last multiplication only leaves masks of some pairs of steps alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from concatc.loops.expr import Axis, Const, Expr, Ref, arith, cast

FIRST, SECOND, THIRD = 0xED5AD4BB, 0xAC4C1B51, 0x31848BAB
# Odd, with bits well spread: 2^32 / phi, and the same of the plastic number.
A, B = 0x9E3779B9, 0xC13FA9A9
BITS = 0xFFFFFFFF
# 24 bits are used, as many as f32 counts exactly.
STEPS = 1 << 24


def random_steps(random: np.ndarray, key: int, shape: tuple[int, ...]) -> np.ndarray:
    """For each element of ``shape`` one of 0 .. 2^24 - 1, from ``random`` (seed, step), ``key`` and row-major index."""
    seed, step = (int(v) for v in random)
    k1, k2 = _key_bits(key)
    h = np.arange(int(np.prod(shape)), dtype=np.uint64).astype(np.uint32)
    h = h ^ np.uint32((seed * A + k1) & BITS)
    h = (h ^ (h >> np.uint32(17))) * np.uint32(FIRST) ^ np.uint32((step * B + k2) & BITS)
    h = (h ^ (h >> np.uint32(11))) * np.uint32(SECOND)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(THIRD)
    h = h ^ (h >> np.uint32(14))
    return np.asarray((h >> np.uint32(8)).reshape(shape))


def random_steps_expr(random: Ref, key: int, at: Sequence[Axis]) -> Expr:
    """The same as an i32 expression at the indices ``at`` of the whole tensor."""
    k1, k2 = _key_bits(key)
    index: Expr = Const(0, "index")
    for axis in at:
        index = index * axis.extent + axis
    h = arith("xor", cast(index, "i32"), random[0] * _i32(A) + _i32(k1))
    h = arith("xor", _fold(h, 17) * _i32(FIRST), random[1] * _i32(B) + _i32(k2))
    h = _fold(h, 11) * _i32(SECOND)
    h = _fold(h, 15) * _i32(THIRD)
    return arith("shr", _fold(h, 14), 8)


def _fold(h: Expr, bits: int) -> Expr:
    return arith("xor", h, arith("shr", h, bits))


def _i32(bits: int) -> Const:
    """The signed number of these 32 bits."""
    return Const(bits - (BITS + 1) if bits >> 31 else bits, "i32")


def _key_bits(key: int) -> tuple[int, int]:
    first = _scramble((key & BITS) ^ A)
    return first, _scramble(first ^ B)


def _scramble(h: int) -> int:
    h = (h ^ h >> 17) * FIRST & BITS
    h = (h ^ h >> 11) * SECOND & BITS
    h = (h ^ h >> 15) * THIRD & BITS
    return h ^ h >> 14
