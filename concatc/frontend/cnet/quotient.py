"""Numbers that are made of dims: they remember the integers whose quotient they are, as these came.

    x / (x + y) at x = 64, y = 32     ->     2/3, which is 64 over 96

Each of the integers is a polynomial in the dims; in lowest terms they would not be.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from concatc.loss_weights import Terms

MOST_BITS = 62


class Quotient(Fraction):
    """A number made of dims, with what it is the quotient of; an integer over 1 at first."""

    __slots__ = ("terms",)

    terms: Terms

    def __new__(cls, above: int, below: int = 1) -> Quotient:
        """``above / below``."""
        made = super().__new__(cls, above, below)
        made.terms = (above, below)
        return made


def of_dim(value: Any) -> Any:
    """The value of a dim: what is made of it is made of dims, where it is an integer."""
    if isinstance(value, Fraction) and value.denominator == 1:
        return Quotient(value.numerator)
    return value


def quotient(operator: str, left: Fraction, right: Fraction) -> Quotient | None:
    """``left operator right``; None where neither is made of dims, and where the result is no such number."""
    if operator not in _RULES or (not isinstance(left, Quotient) and not isinstance(right, Quotient)):
        return None
    above, below = _RULES[operator](_terms(left), _terms(right))
    return Quotient(above, below) if max(above.bit_length(), below.bit_length()) <= MOST_BITS else None


def _terms(number: Fraction) -> Terms:
    return number.terms if isinstance(number, Quotient) else (number.numerator, number.denominator)


def _sum(left: Terms, right: Terms) -> Terms:
    (a, b), (c, d) = left, right
    return (a + c, b) if b == d else (a * d + c * b, b * d)


def _product(left: Terms, right: Terms) -> Terms:
    return left[0] * right[0], left[1] * right[1]


_RULES: dict[str, Callable[[Terms, Terms], Terms]] = {
    "+": _sum,
    "-": lambda left, right: _sum(left, (-right[0], right[1])),
    "*": _product,
    "/": lambda left, right: _product(left, right[::-1]),
}
