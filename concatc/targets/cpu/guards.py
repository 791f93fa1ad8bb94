"""What guards of a sum say about its terms: where a factor is 0, and when that is known.

x[i + a - 1, j + b - 1] if 0 <= i + a - 1 < 8 and 0 <= j + b - 1 < 8 else 0, times w[c, a, b]
                           known for a whole loop over c     known when code is made, where j and b are written out
"""

from __future__ import annotations

from collections.abc import Collection

from concatc.ir.core import Value
from concatc.targets.cpu.nest import Nest, NestAxis

TAPS = 7  # a reduce axis of at most so many iterations may be written out


def conjuncts(condition: Value) -> list[Value]:
    """What must all hold."""
    op = condition.op
    if op is None or op.name != "arith.andi":
        return [condition]
    return [part for operand in op.operands for part in conjuncts(operand)]


def is_zero(value: Value) -> bool:
    """Whether a value is the literal 0."""
    return value.op is not None and value.op.name == "arith.constant" and value.op.attributes["value"] == 0


def jumps(nest: Nest, axis: NestAxis, spread: Collection[NestAxis]) -> list[Value]:
    """Guards that say for an iteration of a reduce axis, before a long loop inside of it, that its terms are 0.

    They depend on loops around it besides, but on none of the axes ``spread`` over registers and lanes.
    """
    place = nest.axes.index(axis)
    if not axis.reduce or all(a.extent is not None and a.extent <= TAPS for a in nest.axes[place + 1 :]):
        return []
    around = frozenset((*nest.outer, *nest.axes[: place + 1])).difference(spread)
    return [guard for guard in _guards_of_factors(nest) if axis in nest.axes_of(guard) <= around]


def _guards_of_factors(nest: Nest) -> list[Value]:
    """What must hold where the term of a sum, a product, is not 0."""
    op = nest.term.op if nest.term is not None else None
    if op is None or op.name != "arith.mulf":
        return []
    found: dict[Value, None] = {}
    for factor in op.operands:
        choice = factor.op
        if choice is None or choice.name != "scf.if":
            continue
        if is_zero(choice.regions[1].block.ops[-1].operands[factor.index]):
            found.update(dict.fromkeys(conjuncts(choice.operands[0])))
    return list(found)
