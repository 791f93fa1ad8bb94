"""Pass tests as text beside text, without types and locations.

``%c = concat(%y, %x.use1) {axis=1}`` stands for ``%c = "cnet.concat"(%y, %x.use1) {axis = 1 : i64} : (..) -> ..``;
attributes that are false or none are left out.
"""

from __future__ import annotations

import textwrap
from typing import Protocol

from concatc.ir.core import Block, Module, Value
from concatc.ir.parser import parse_module
from concatc.ir.printer import PLAIN, print_module


class Pass(Protocol):
    def run(self, module: Module) -> None: ...


def plain(module: Module) -> str:
    return print_module(module, PLAIN)


def short_text(block: Block, indent: str = "") -> str:
    """The operations of a block, one a line, what a kernel holds indented."""
    lines = []
    for op in block.ops:
        head = f"{_names(op.results)} = " if op.results else ""
        attributes = ", ".join(f"{k}={_plain(v)}" for k, v in op.attributes.items() if v is not None and v is not False)
        name = op.name.removeprefix("cnet.").removeprefix("func.")
        lines.append(f"{indent}{head}{name}({_names(op.operands)})" + (f" {{{attributes}}}" if attributes else ""))
        lines += [short_text(region.block, indent + "  ") for region in op.regions]
    return "\n".join(lines)


def after_pass(pass_: Pass, text: str) -> str:
    """Run a pass on functions (IR); return the operations of the first."""
    module = parse_module("module @m {" + text + "}")
    pass_.run(module)
    return short_text(module.main.body)


def dedent(text: str) -> str:
    """An expected text, written indented between triple quotes."""
    return textwrap.dedent(text).strip("\n")


def _names(values: tuple[Value, ...] | list[Value]) -> str:
    return ", ".join(f"%{v.name}" for v in values)


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value)
