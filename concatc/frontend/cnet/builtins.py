"""Functions of the language on numbers, lists, shapes and initial values; none of them makes an op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from concatc.frontend.cnet.quotient import Quotient
from concatc.frontend.cnet.values import NumberError, Pairs, Range, as_float, describe, is_blob
from concatc.initial_values import Init
from concatc.ir.core import Value


class FunctionError(Exception):
    """A function is called with what it does not take."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help


@dataclass(frozen=True)
class Function:
    """Parameters in order; those in ``defaults`` may be left out.  ``run`` takes them by position."""

    name: str
    parameters: tuple[str, ...]
    run: Callable[..., Any]
    defaults: tuple[Fraction, ...] = ()


def _len(items: Any) -> Fraction:
    if isinstance(items, tuple | Range):
        return Fraction(len(items))
    if is_blob(items):
        raise FunctionError("`len` counts the items of a list", "`size(h, axis)` is the size of an axis of a blob")
    raise FunctionError(f"`len` counts the items of a list, not {describe(items)}")


def _reversed(items: Any) -> Any:
    if isinstance(items, tuple):
        return items[::-1]
    if isinstance(items, Range):
        return Range(items.start, items.stop, not items.reverse)
    raise FunctionError(f"`reversed` takes a list or a range, not {describe(items)}")


def _enumerate(items: Any) -> Pairs:
    if isinstance(items, tuple | Range):
        return Pairs(items)
    raise FunctionError(f"`enumerate` takes a list or a range, not {describe(items)}")


def _blob(function: str, value: Any) -> Value:
    if isinstance(value, Value):
        return value
    raise FunctionError(f"`{function}` takes a blob, not {describe(value)}")


def _size(blob: Any, axis: Any) -> Fraction:
    shape = _blob("size", blob).shape
    if not isinstance(axis, Fraction) or axis.denominator != 1:
        raise FunctionError(f"`axis` must be an integer, not {describe(axis)}")
    if not 0 <= axis < len(shape):
        raise FunctionError(f"{_blob('size', blob).type} has no axis {axis}", f"its axes are 0 to {len(shape) - 1}")
    return Quotient(shape[int(axis)])


def _channels(blob: Any) -> Fraction:
    value = _blob("channels", blob)
    if len(value.shape) < 2:
        raise FunctionError(f"channels lie along axis 1, and {value.type} has no axis 1")
    return Quotient(value.shape[1])


def _extreme(name: str, choose: Callable[..., Any]) -> Callable[..., Any]:
    def run(a: Any, b: Any) -> Any:
        for value in (a, b):
            if not isinstance(value, Fraction):
                raise FunctionError(f"`{name}` takes two numbers, not {describe(value)}")
        return choose(a, b)

    return run


def _rank(blob: Any) -> Fraction:
    return Fraction(len(_blob("rank", blob).shape))


def _number(function: str, name: str, value: Any) -> float:
    if isinstance(value, Fraction):
        try:
            return as_float(value)
        except NumberError as error:
            raise FunctionError(str(error)) from None
    raise FunctionError(f"{function}: `{name}` must be a number, not {describe(value)}")


def _constant(value: Any) -> Init:
    return Init("constant", (_number("constant", "value", value),))


def _gaussian(mean: Any, std: Any) -> Init:
    deviation = _number("gaussian", "std", std)
    if deviation < 0:
        raise FunctionError("gaussian: `std` must not be negative")
    return Init("gaussian", (_number("gaussian", "mean", mean), deviation))


def _uniform(low: Any, high: Any) -> Init:
    bounds = (_number("uniform", "low", low), _number("uniform", "high", high))
    if bounds[0] > bounds[1]:
        raise FunctionError("uniform: `low` must not be above `high`")
    return Init("uniform", bounds)


_ZERO, _ONE = Fraction(0), Fraction(1)

FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        Function("len", ("items",), _len),
        Function("reversed", ("items",), _reversed),
        Function("enumerate", ("items",), _enumerate),
        Function("size", ("blob", "axis"), _size),
        Function("channels", ("blob",), _channels),
        Function("rank", ("blob",), _rank),
        Function("min", ("a", "b"), _extreme("min", min)),
        Function("max", ("a", "b"), _extreme("max", max)),  # of two blobs it is the op
        Function("xavier", (), lambda: Init("xavier")),
        Function("msra", (), lambda: Init("msra")),
        Function("constant", ("value",), _constant),
        Function("gaussian", ("mean", "std"), _gaussian, (_ZERO, _ONE)),
        Function("uniform", ("low", "high"), _uniform, (-_ONE, _ONE)),
    )
}
