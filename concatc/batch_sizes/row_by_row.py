"""Whether a net makes each row of its results of the same row of its inputs alone.

    y = softmax(linear(relu(x), w))                      row by row: any rows may be computed apart from the others
    y = x - mean(x, axis=0)                              not: the mean is over all rows

Read off the axes that ops map independently (`op.axis_maps`); sound, not complete.
"""

from __future__ import annotations

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.op import axis_maps, op_of


def is_row_by_row(net: FuncOp, batch: str) -> bool:
    """Whether rows of all results are those of the inputs whose first axis is the dim ``batch``, and nothing else."""
    axes: dict[Value, int | None] = {}
    for argument in net.args:
        dims = argument.attrs.get("cnet.dims")
        is_batch = isinstance(dims, tuple) and bool(dims) and dims[0] == batch
        axes[argument] = 0 if is_batch else None
    if not all(_follow(op, axes) for op in net.ops[:-1]):
        return False
    return all(axes[value] == 0 for value in net.ret.operands)


def _follow(op: Operation, axes: dict[Value, int | None]) -> bool:
    """Find the axis of each result that holds the rows; whether there is one."""
    given = tuple(axes[operand] for operand in op.operands)
    if all(axis is None for axis in given):
        axes.update(dict.fromkeys(op.results))
        return True
    types: tuple[TensorType, ...] = tuple(operand.tensor for operand in op.operands)
    for found in axis_maps(op_of(op), types):
        if found.operands == given:
            axes.update(zip(op.results, found.results, strict=True))
            return True
    return False
