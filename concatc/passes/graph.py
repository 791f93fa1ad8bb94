"""What several passes ask of a graph: which half an operation belongs to, and what a value is a copy of."""

from __future__ import annotations

from concatc.diagnostics import UsageError
from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
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


def require_tensors(func: FuncOp, pass_name: str, kernels: bool = False) -> None:
    """Raise :class:`UsageError` where ``func`` is a plan or loops, or holds kernels and ``kernels`` is false."""
    if any(not isinstance(arg.type, TensorType) for arg in func.args):
        raise UsageError(f"{pass_name} needs a net's function of tensors; @{func.sym_name} is a plan or loops")
    if not kernels and any(op.name == "cnet.kernel" for op in func.ops):
        raise UsageError(f"{pass_name} needs operations outside of kernels; @{func.sym_name} is fused already")
