"""Attributes of ops and of calls in the language: which there are, their types, and given values as these types."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


class ShapeError(Exception):
    """Operands or attributes do not fit.  ``help`` says what would; ``notes`` are further facts.

    In the message ``{0}``, ``{1}`` .. stand for the operands; the front end puts the blobs' names there.
    """

    def __init__(self, message: str, help: str | None = None, notes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.notes = tuple(notes)


@dataclass(frozen=True)
class Attribute:
    """An attribute as the language sees it; ``default`` is ``inspect.Parameter.empty`` where it must be given."""

    name: str
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Signature:
    """A call in the language: data operands, then at most one positional attribute (``size``), the rest by keyword."""

    data: tuple[str, ...]  # "*xs" stands for one or more
    optional_data: int  # how many of the last data operands may be left out
    size: str | None
    attributes: Mapping[str, Attribute]


def check_attribute(op: str, attribute: Attribute, value: Any) -> Any:
    """Return ``value`` as the attribute's type, or raise :class:`ShapeError`.

    An int is taken for a float, an int for a pair (``kernel=3`` is ``(3, 3)``), a list for a tuple.
    """
    try:
        return _coerce(attribute.type, value)
    except TypeError:
        expected = describe_type(attribute.type)
        raise ShapeError(f"{op}: `{attribute.name}` must be {expected}, not {value!r}") from None


def _coerce(type_: Any, value: Any) -> Any:
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return _coerce(option, value)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value in args and isinstance(value, str):
            return value
        raise TypeError
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            if not isinstance(value, list | tuple):
                raise TypeError
            return tuple(_coerce(args[0], v) for v in value)
        if isinstance(value, int) and not isinstance(value, bool):
            return (value,) * len(args)
        if not isinstance(value, list | tuple) or len(value) != len(args):
            raise TypeError
        return tuple(_coerce(a, v) for a, v in zip(args, value, strict=True))
    if type_ is None or type_ is type(None):
        if value is None:
            return None
        raise TypeError
    if type_ is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type_ is int and isinstance(value, bool):
        raise TypeError
    if isinstance(type_, type) and isinstance(value, type_):
        return value
    raise TypeError


def describe_type(type_: Any) -> str:
    """An attribute's type in words."""
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is Literal:
        return "one of " + ", ".join(f'"{a}"' for a in args)
    if origin is tuple:
        one = describe_type(args[0])
        many = one.removeprefix("an ").removeprefix("a ") + "s"
        return f"a list of {many}" if args[-1] is Ellipsis else f"{one} or a list of {len(args)}"
    if origin is not None:
        return " or ".join(describe_type(a) for a in args if a is not type(None))
    return {int: "an integer", float: "a number", bool: "true or false", str: "a string"}.get(type_, str(type_))
