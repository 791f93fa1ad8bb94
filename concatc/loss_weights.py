"""The weight of a loss as the IR holds it: a number, or the quotient of two integers that are made of dims.

    loss mean(a) weight x / (x + y)     ->     cnet.weight = [64, 96]          (at x = 64, y = 32)

The integers stand as they came, not in lowest terms, so that each follows from the dims: x, and x + y.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from concatc.ir.core import Attr

WEIGHT = "cnet.weight"
Terms = tuple[int, int]


def weight_of(attrs: Mapping[str, Attr]) -> float:
    """The weight that the attributes of a loss say; 1 where they say none."""
    weight = attrs.get(WEIGHT, 1.0)
    if is_quotient(weight):
        return weight[0] / weight[1]
    assert isinstance(weight, int | float)
    return float(weight)


def is_quotient(weight: object) -> TypeGuard[Terms]:
    """Whether a weight is a quotient of integers, and one that has a value."""
    if not isinstance(weight, tuple) or len(weight) != 2:
        return False
    return all(type(term) is int and abs(term) < 1 << 63 for term in weight) and weight[1] != 0
