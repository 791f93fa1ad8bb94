"""Functions from short lines, the inverse of ``ir_text.short_text``: ``%y = concat(%a, %b) {axis=0}``.

Types of operations follow from ``infer``; those of arguments are given.
"""

from __future__ import annotations

from concatc.ir.core import Attr, Module
from concatc.ir.parser import parse_module
from concatc.op import Builder, load_all_ops_once
from concatc.passes.implied import complete
from tests.ir_text import dedent


def function(args: str, body: str) -> Module:
    """A module of one function; its last line is ``return(%y, ..)``."""
    module = parse_module(f"module @m {{ func.func @f({args}) {{ func.return }} }}")
    func = module.main
    ret = func.body.ops.pop()
    values = {v.name: v for v in func.args}
    builder = Builder(func.body)
    for line in dedent(body).splitlines():
        head, _, rest = line.partition(" = ") if line.startswith("%") else ("", "", line)
        name, _, rest = rest.partition("(")
        names, _, attributes = rest.partition(")")
        operands = [values[x] for x in _names(names)]
        if name == "return":
            func.body.append(ret)
            for value in operands:
                func.add_return(value)
            continue
        op = load_all_ops_once()[name].from_attrs(_attributes(attributes))
        results = builder.emit(op, operands, _names(head))
        values |= dict(zip(_names(head), results, strict=True))
    for operation in func.ops:
        complete(operation)
    return module


def _names(text: str) -> list[str]:
    return [name.strip().removeprefix("%") for name in text.split(",") if name.strip()]


def _attributes(text: str) -> dict[str, Attr]:
    text = text.strip().replace("=f32", '="f32"')
    return parse_module(f"module attributes {text or '{}'} {{}}").attributes
