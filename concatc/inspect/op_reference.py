"""The op reference: a page for each op, made from what its class says.

    python -m concatc.inspect.op_reference [docs/OPS.md]

The docstring of an op is the text of its page; signature, attributes and parameters are read off the class, so that the
reference cannot say anything that the compiler does not do.  A test holds ``docs/OPS.md`` against it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from concatc.op import Op, load_all_ops
from concatc.op_attributes import Attribute, describe_type

HEAD = """# Ops

Made by `python -m concatc.inspect.op_reference`; edit the docstring of the op's file in `concatc/ops` instead.

In shapes, `[n, c, ..]` stands for any further axes, and `[..]` for any axes at all. Data come first in a call, then at
most one attribute by position, the rest by keyword; `...` stands for an attribute that must be given. For a parameter
`P` of a call: `P=blob` ties it to a blob, `P=false` leaves it out, `P_init=`, `P_lr=` and `P_decay=` set its initial
value and the factors of its learning rate and weight decay. Where an attribute takes a pair, a number stands for both.
Every op works on `f32` and `f64`; integers are `i32` or `i64`.
"""

INTERNAL_HEAD = """# Ops that the compiler makes

Gradients, fan-out and its sum, the parts of composite ops. They stand in dumps; the language has no call for them.
"""


def reference(ops: Iterable[type[Op]] | None = None) -> str:
    """The whole reference as Markdown: ops of the language, then those that only the compiler makes, by name."""
    every = list(load_all_ops().values() if ops is None else ops)
    public = [cls for cls in every if not cls.internal]
    internal = [cls for cls in every if cls.internal]
    parts = [HEAD, _index(public), *(page(cls) for cls in public)]
    if internal:
        parts += [INTERNAL_HEAD, _index(internal), *(page(cls) for cls in internal)]
    return "\n".join(parts)


def page(cls: type[Op]) -> str:
    """One op as Markdown: how it is called, what it does, an example, its attributes and parameters."""
    lines = [f"## {cls.name}", "", "```", signature(cls), "```", "", markdown(cls.__doc__ or ""), ""]
    if cls.example:
        lines += ["```", cls.example, "```", ""]
    attributes = _attributes(cls)
    if attributes:
        lines += ["| attribute | type | default |", "|---|---|---|"]
        lines += [f"| `{a.name}` | {describe_type(a.type)} | {_default_cell(a)} |" for a in attributes]
        lines.append("")
    if cls.params:
        lines += [f"Parameters: {', '.join(f'`{name}`' for name in cls.params)}.", ""]
    return "\n".join(lines)


def signature(cls: type[Op]) -> str:
    """How the op is called: ``conv(x, channels, kernel=..., stride=1)``; an internal op as dumps show its operands."""
    if cls.internal:
        arguments = [name.replace("*", "") + ", .." if name.startswith("*") else name for name in cls.operands]
        arguments += [f"{a.name}={_default(a)}" for a in _attributes(cls)]
        return f"cnet.{cls.name}({', '.join(arguments)})"
    called = cls.signature()
    required = len(called.data) - called.optional_data
    arguments = [name.replace("*", "") + ", .." if name.startswith("*") else name for name in called.data[:required]]
    arguments += [f"[{name}]" for name in called.data[required:]]
    if called.size is not None:
        arguments.append(called.size)
    arguments += [f"{a.name}={_default(a)}" for a in _attributes(cls) if a.name != called.size]
    return f"{cls.name}({', '.join(arguments)})"


def markdown(docstring: str) -> str:
    """A docstring as Markdown: dedented, with single backquotes."""
    return inspect.cleandoc(docstring).replace("``", "`")


def _attributes(cls: type[Op]) -> list[Attribute]:
    return list((cls.attribute_fields() if cls.internal else cls.signature().attributes).values())


def _index(ops: Iterable[type[Op]]) -> str:
    return ", ".join(f"[{cls.name}](#{cls.name})" for cls in ops) + "\n"


def _default_cell(attribute: Attribute) -> str:
    return "required" if attribute.required else f"`{_default(attribute)}`"


def _default(attribute: Attribute) -> str:
    return "..." if attribute.required else _literal(attribute.default)


def _literal(value: Any) -> str:
    """A value as the language writes it; a pair of equal numbers as the number."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        if len(value) == 2 and value[0] == value[1]:
            return _literal(value[0])
        return f"[{', '.join(_literal(v) for v in value)}]"
    return repr(value)


def main(arguments: list[str]) -> None:
    """Write the reference."""
    path = Path(arguments[0] if arguments else "docs/OPS.md")
    path.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
