"""What patterns on ``cnet`` operations share."""

from __future__ import annotations

from collections.abc import Iterable

from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.rewrite import Pattern, Rewriter, apply_patterns
from concatc.op import Builder, is_op
from concatc.passes.dce import has_effect
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.graph import is_backward


def rewrite_module(module: Module, patterns: Iterable[Pattern]) -> None:
    """Apply patterns to all functions, free of splits, and drop what is dead."""
    patterns = list(patterns)
    for func in module.functions:
        if func.declared is None:
            rewrite_function(func, patterns)


def rewrite_function(func: FuncOp, patterns: Iterable[Pattern]) -> None:
    """Apply patterns to a function, free of splits, and drop what is dead."""
    with free_of_splits(func):
        apply_patterns(func, patterns, removable=lambda op: not has_effect(op), opaque=kept_blobs(func))


def kept_blobs(func: FuncOp) -> dict[Value, None]:
    """The values of a forward function whose own gradients the user will read.

    Another value may not take their place, even an equal one: it would bring its other readers' gradients along.
    Nor may a reader read past them: its gradient would be missing.
    """
    if any(is_backward(op) for op in func.ops):
        return {}
    return dict.fromkeys(func.returned("kept").values())


def made_by(rw: Rewriter, value: Value, *names: str) -> Operation | None:
    """The operation that makes ``value``, if it is one of these ops and patterns may look at it."""
    maker = rw.maker(value)
    return maker if maker is not None and is_op(maker, *names) else None


def builder_before(op: Operation, rw: Rewriter) -> Builder:
    """A builder of operations before ``op``, for the half of the graph that ``op`` belongs to."""
    half = {"transposes": op.attributes["transposes"]} if "transposes" in op.attributes else {}
    return Builder(rw.before(op), op.loc, attributes=dict(half))
