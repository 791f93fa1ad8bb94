"""Dumps: modules of concatc's own ops as text for people, and back.

    %y = "cnet.linear"(%x, %w) : (!t4x8, !t3x8) -> !t4x3          {transpose = false} is the default
    %p, %q = "cnet.split"(%y) : (!t4x3) -> (!t4x3, !t4x3)         {ways = 2} is seen

Attributes that have their default, or that the types of the results say, and names of arguments that their values
show, are left out; :func:`load_dump` puts them back.  The module that is read is the one that was printed, but for
locations: an operation of an edited dump has its place in the dump, so that errors point there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from concatc.ir import printer
from concatc.ir.core import Attr, Module, Operation
from concatc.ir.parser import parse_module
from concatc.ir.printer import Style, print_module
from concatc.ir.types import TensorType
from concatc.op import DIALECT, load_all_ops_once
from concatc.passes.verify import verify


def implied_attributes(operation: Operation) -> dict[str, Attr]:
    """What an operation's attributes are where its text does not say: defaults, and what its results show."""
    short = operation.name.removeprefix(DIALECT)
    if short not in load_all_ops_once():
        return {}
    implied = dict(_defaults(short))
    for name in _shown(short):
        value = _SHOWN[name](operation)
        if value is not None:
            implied[name] = value
    return implied


def _result_type(operation: Operation) -> TensorType | None:
    type = operation.results[0].type if operation.results else None
    return type if isinstance(type, TensorType) else None


def _shape(operation: Operation) -> Attr:
    type = _result_type(operation)
    return None if type is None else type.shape


def _dtype(operation: Operation) -> Attr:
    type = _result_type(operation)
    return None if type is None else type.dtype


# Attributes that results show, wherever an op has one of that name.
_SHOWN: dict[str, Callable[[Operation], Attr]] = {
    "shape": _shape,
    "dtype": _dtype,
    "ways": lambda operation: len(operation.results),
}


@functools.cache
def _defaults(short: str) -> dict[str, Attr]:
    fields = load_all_ops_once()[short].attribute_fields()
    return {name: field.default for name, field in fields.items() if not field.required}


@functools.cache
def _shown(short: str) -> tuple[str, ...]:
    return tuple(name for name in load_all_ops_once()[short].attribute_fields() if name in _SHOWN)


READING = replace(printer.READING, short=True, implied=implied_attributes)


def dump_text(module: Module, style: Style = READING) -> str:
    """The text of a module."""
    return print_module(module, style)


def load_dump(text: str, filename: str) -> Module:
    """The module of a text in any style, verified.  Raises :class:`ConcatcError`."""
    module = parse_module(text, filename)
    for op in module.walk():
        complete(op)
    for function in module.functions:
        for arg in function.args:
            if "cnet.kind" in arg.attrs and "cnet.name" not in arg.attrs:
                arg.attrs = {"cnet.kind": arg.attrs["cnet.kind"], "cnet.name": arg.name, **arg.attrs}
    verify(module)
    return module


def complete(operation: Operation) -> None:
    """Put back the attributes that its text leaves out, in the order of declaration."""
    implied = implied_attributes(operation)
    if not implied:
        return
    order = load_all_ops_once()[operation.name.removeprefix(DIALECT)].attribute_fields()
    given = operation.attributes
    own = {name: given.get(name, implied.get(name)) for name in order if name in given or name in implied}
    operation.attributes = own | {name: value for name, value in given.items() if name not in own}
