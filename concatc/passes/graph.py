"""What several passes ask of a graph: which half an operation belongs to, and what a value is a copy of."""

from __future__ import annotations

from concatc.ir.core import Operation, Value
from concatc.op import DIALECT, is_op

# Attributes that say where an operation of the backward half comes from, not what it computes.
PROVENANCE = ("transposes", "recomputes")
OUTPUT_GRAD = "output_grad"  # cnet.kind of an argument that seeds the gradient of an output


def short_name(op: Operation) -> str:
    """The name without the dialect: ``relu``."""
    return op.name.removeprefix(DIALECT)


def describe(op: Operation) -> str:
    """``relu %y``: what ``transposes`` says of an operation."""
    return f"{short_name(op)} {', '.join('%' + y.name for y in op.results)}"


def transposed(op: Operation) -> str | None:
    """What the operation (or the first one in its kernel) transposes, ``relu %y``; None in the forward half."""
    if op.name == "cnet.kernel":
        op = op.regions[0].block.ops[0]
    found = op.attributes.get("transposes")
    return None if found is None else str(found)


def is_backward(op: Operation) -> bool:
    """Whether the operation belongs to the backward half: it, or what its kernel holds, carries ``transposes``."""
    return transposed(op) is not None


def is_cotangent(value: Value) -> bool:
    """Whether the value is made by the backward half, or is an argument that seeds it."""
    if value.op is not None:
        return is_backward(value.op)
    return value.attrs.get("cnet.kind") == OUTPUT_GRAD


def split_source(value: Value) -> Value:
    """The value that ``value`` is a name for: what the chain of splits above it splits."""
    while value.op is not None and is_op(value.op, "split"):
        value = value.op.operands[0]
    return value
