"""Dumps: modules of concatc's own ops as text for people, and back.

    %y = "cnet.linear"(%x, %w) : (!t4x8, !t3x8) -> !t4x3          {transpose = false} is the default
    %x.grad = "cnet.relu_grad"(%y, %y.grad) : ..  // relu %y      {transposes = "relu %y"}: so say the names

What the rest of the text says is left out (`concatc/passes/implied.py`); :func:`load_dump` puts it back.  The module
that is read is the one that was printed, but for locations: an operation of an edited dump has its place in the dump,
so that errors point there.
"""

from __future__ import annotations

from dataclasses import replace

from concatc.ir import printer
from concatc.ir.core import Module
from concatc.ir.parser import parse_module
from concatc.ir.printer import Style, print_module
from concatc.passes.implied import ShortForm, restore
from concatc.passes.verify import verify

READING = replace(printer.READING, brief=ShortForm)


def dump_text(module: Module, style: Style = READING) -> str:
    """The text of a module."""
    return print_module(module, style)


def load_dump(text: str, filename: str) -> Module:
    """The module of a text in any style, verified.  Raises :class:`ConcatcError`."""
    module = parse_module(text, filename)
    restore(module)
    verify(module)
    return module
