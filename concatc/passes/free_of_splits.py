"""Rewriting a linear graph as if it had no splits.

with free_of_splits(func):      # every reader of %x.use0, %x.use1, .. reads %x
    ..                          # equations need not look through splits
                                # afterwards each value has at most one reader again
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from concatc.ir.core import FuncOp, Operation
from concatc.op import is_op
from concatc.passes.graph import is_backward, is_cotangent, split_source
from concatc.passes.insert_splits import insert_splits


@contextmanager
def free_of_splits(func: FuncOp) -> Iterator[None]:
    """Take the splits out, and put them back where the function had any, or was linear without."""
    linear = remove_splits(func) or is_linear(func)
    yield
    if linear:
        insert_splits(func)


def remove_splits(func: FuncOp) -> bool:
    """Let every reader of a split's result read the value that was split; False where there was no split."""
    kept: list[Operation] = []
    for op in func.ops:
        if not is_op(op, "split"):
            kept.append(op)
            continue
        source = split_source(op.operands[0])
        for result in op.results:
            result.replace_all_uses_with(source)
        op.block = None
        op.erase()
    found = len(kept) < len(func.ops)
    func.body.ops = kept
    return found


def is_linear(func: FuncOp) -> bool:
    """Whether every value has at most one reader, residuals aside."""
    values = [*func.args, *(result for op in func.ops for result in op.results)]
    return all(
        sum(is_cotangent(value) or not is_backward(use.op) for use in value.uses) <= 1
        for value in values
        if len(value.uses) > 1
    )
