"""What an expression can be while a net is elaborated, and exact arithmetic on the numbers among it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from concatc.frontend.cnet import limits
from concatc.frontend.cnet.quotient import quotient
from concatc.initial_values import Init
from concatc.ir.core import Value

if TYPE_CHECKING:
    from concatc.frontend.cnet.calls import LayerValue


@dataclass(frozen=True, slots=True)
class Range:
    """``start..stop``, or its reverse."""

    start: int
    stop: int
    reverse: bool = False

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def item(self, index: int) -> Fraction:
        """Number ``index``, from the end where it is negative."""
        numbers = range(self.start, self.stop)
        return Fraction((numbers[::-1] if self.reverse else numbers)[index])

    def values(self) -> Iterator[Fraction]:
        """The numbers, in order."""
        numbers = range(self.start, self.stop)
        return map(Fraction, reversed(numbers) if self.reverse else numbers)


@dataclass(frozen=True, slots=True)
class Pairs:
    """``enumerate(items)``."""

    items: tuple[Any, ...] | Range


# A list is a tuple; a number is a Fraction; a blob is an IR Value.
CnetValue = Any


class NumberError(Exception):
    """Arithmetic that has no result."""


def show(value: CnetValue) -> str:
    """A value as the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Fraction):
        return show_number(value)
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        items = [show(v) for v in value[:8]] + (["..."] if len(value) > 8 else [])
        return f"[{', '.join(items)}]"
    if isinstance(value, Range):
        return f"{value.start}..{value.stop}"
    if isinstance(value, Init):
        return str(value.to_attr())
    if isinstance(value, Value):
        return str(value.type)
    return describe(value)


def show_number(value: Fraction) -> str:
    """``31.5``, ``3``, ``1/3``."""
    if value.denominator == 1:
        return str(value.numerator) if value.numerator.bit_length() < 200 else f"{_approximate(value):.6g}"
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1 and value.denominator.bit_length() < 30:
        return f"{_approximate(value):.12g}"
    if value.denominator < 1000:
        return f"{value.numerator}/{value.denominator}"
    return f"{_approximate(value):.6g}"


def _approximate(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def describe(value: CnetValue) -> str:
    """What a value is, for messages: ``the number 3``, ``a blob (tensor<2x4xf32>)``."""
    from concatc.frontend.cnet.calls import LayerValue

    if isinstance(value, bool):
        return show(value)
    if isinstance(value, Fraction):
        return f"the number {show(value)}"
    if isinstance(value, str):
        return f"the string {show(value)}"
    if isinstance(value, tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, Range):
        return f"the range {show(value)}"
    if isinstance(value, Pairs):
        return "pairs of `enumerate`"
    if isinstance(value, Init):
        return f"the initial value {show(value)}"
    if isinstance(value, LayerValue):
        return f"the layer `{value.name}`"
    if isinstance(value, Value):
        return f"a blob ({value.type})"
    raise AssertionError(f"no value of the language: {value!r}")


def is_blob(value: CnetValue) -> bool:
    """Whether the value is a tensor of the graph."""
    return isinstance(value, Value)


def as_layer(value: CnetValue) -> LayerValue | None:
    """The value, where it is a layer."""
    from concatc.frontend.cnet.calls import LayerValue

    return value if isinstance(value, LayerValue) else None


def plain(value: CnetValue) -> Any:
    """The value as an op's attribute: numbers as int where they are integers, else float; lists and ranges as
    tuples.

    Raises NumberError for a number that does not fit 64 bits.
    """
    if isinstance(value, Fraction):
        if value.denominator == 1 and abs(value.numerator) < 2**63:
            return int(value)
        return as_float(value)
    if isinstance(value, Range) and len(value) <= limits.LIST_ITEMS:
        value = tuple(value.values())
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    return value


def as_float(value: Fraction) -> float:
    """The nearest float; raises NumberError where there is none."""
    number = _approximate(value)
    if math.isinf(number):
        raise NumberError("this number is too large")
    return number


def arithmetic(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """``left operator right``, exact; raises NumberError."""
    if operator in ("/", "//", "%") and right == 0:
        raise NumberError("division by zero")
    if operator == "^":
        return _power(left, right)
    result = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
        "//": lambda: Fraction(left // right),
        "%": lambda: left % right,
    }[operator]()
    _check_bits(result.numerator.bit_length() + result.denominator.bit_length())
    return quotient(operator, left, right) or result


def compare(operator: str, left: Any, right: Any) -> bool:
    """``left operator right``."""
    return bool(
        {
            "==": lambda: left == right,
            "!=": lambda: left != right,
            "<": lambda: left < right,
            "<=": lambda: left <= right,
            ">": lambda: left > right,
            ">=": lambda: left >= right,
        }[operator]()
    )


def _check_bits(bits: int) -> None:
    if bits > limits.NUMBER_BITS:
        raise NumberError("this number has too many digits")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise NumberError("division by zero")
    if exponent.denominator == 1:
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        if abs(base) != 1:
            _check_bits(bits * abs(exponent.numerator))
            return Fraction(base**exponent.numerator)
        return base if exponent.numerator % 2 else Fraction(1)
    if base < 0:
        raise NumberError(f"a negative number has no power {show(exponent)}")
    root = _square_root(base) if exponent.denominator == 2 else None
    if root is not None:
        return _power(root, Fraction(exponent.numerator))
    try:
        # The only inexact step: the nearest float of an irrational power.
        return Fraction(float(base) ** float(exponent))
    except OverflowError:
        raise NumberError("this number is too large") from None


def _square_root(value: Fraction) -> Fraction | None:
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return root if root * root == value else None
