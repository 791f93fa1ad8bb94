"""Which results of a kernel may be stored where one of its operands lies, read off the pieces of its ops.

y = relu(x + b)          y over x: yes, each element is read, then stored, at one index
y = x / sum(x, axis=1)   y over x: no, the sum reads what may be stored already
"""

from __future__ import annotations

from concatc.ir.core import Operation, Value
from concatc.loops.expr import loads
from concatc.loops.pieces import is_pointwise
from concatc.op import lowered


def maps_elementwise(op: Operation, operand: int, result: int) -> bool:
    """Whether a kernel (or a lone op) reads ``operand`` only at the index of the element that it stores.

    All results of the kernel must have the operand's shape, and all its ops be pointwise, so that it is one loop nest.
    """
    shape = op.operands[operand].shape
    if any(r.shape != shape for r in op.results) or op.results[result].type != op.operands[operand].type:
        return False
    if op.name != "cnet.kernel":
        return _reads_at_own_index(op, {op.operands[operand]})
    block = op.regions[0].block
    reached: set[Value] = {block.args[operand]}
    for inner in block.ops[:-1]:
        if not _reads_at_own_index(inner, reached):
            return False
        if any(v in reached for v in inner.operands):
            reached.update(inner.results)
    return block.ops[-1].operands[result] in reached and block.args[operand] not in block.ops[-1].operands


def _reads_at_own_index(op: Operation, reached: set[Value]) -> bool:
    pieces = lowered(op)
    if any(not is_pointwise(p) or p.target.kind != "result" for p in pieces):
        return False
    return all(
        load.at == piece.axes
        for piece in pieces
        for load in loads(piece.value)
        if load.ref.kind == "operand" and op.operands[load.ref.index] in reached
    )
