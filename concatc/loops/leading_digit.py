"""Whether an index of memory belongs to one iteration of a loop, as its leading digit does.

planar[%o, (%block * 4 + %i) * 55 + %j]     %i in 0 .. 4, %j in 0 .. 55:     iterations of %block share no element
"""

from __future__ import annotations

from concatc.ir.core import Value
from concatc.loops.stretches import constant_of, loop_of


def leading_step(variable: Value, index: Value) -> int | None:
    """``step``, where ``index`` is ``variable * step`` plus a number in ``0 .. step`` that other loops make."""
    factors = _factors_of(index)
    step = factors.pop(variable, 0) if factors is not None else 0
    if factors is None or step < 1:
        return None
    least = greatest = 0
    for term, factor in factors.items():
        ends = _ends_of(term) if term is not None else (1, 1)
        if ends is None:
            return None
        low, high = sorted(factor * end for end in ends)
        least, greatest = least + low, greatest + high
    return step if least >= 0 and greatest < step else None


def _factors_of(value: Value) -> dict[Value | None, int] | None:
    """The terms of a sum of loop variables with constant factors, and a constant (of None); None for another value."""
    op = value.op
    if op is None:
        return {value: 1}
    number = constant_of(value)
    if number is not None:
        return {None: number}
    if op.name == "arith.muli":
        for literal, other in (op.operands, op.operands[::-1]):
            by, inner = constant_of(literal), _factors_of(other)
            if by is not None and inner is not None:
                return {term: factor * by for term, factor in inner.items()}
        return None
    if op.name != "arith.addi":
        return None
    total: dict[Value | None, int] = {}
    for operand in op.operands:
        inner = _factors_of(operand)
        if inner is None:
            return None
        for term, factor in inner.items():
            total[term] = total.get(term, 0) + factor
    return total


def _ends_of(variable: Value) -> tuple[int, int] | None:
    """The first and the last value of the variable of a loop whose bounds are constants."""
    loop = loop_of(variable)
    if loop is None or variable is not loop.regions[0].block.args[0]:
        return None
    lower, upper, step = (constant_of(bound) for bound in loop.operands[:3])
    if lower is None or upper is None or step != 1:
        return None
    return lower, max(lower, upper - 1)
