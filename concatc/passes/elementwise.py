"""Which results of a kernel may be stored where one of its operands lies, read off the pieces of its ops.

y = relu(x + b)          y over x: yes, each element is read, then stored, at one index
y = x / sum(x, axis=1)   y over x: no, the sum reads what may be stored already
"""

from __future__ import annotations

import functools

from concatc.ir.core import Operation, Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref, loads
from concatc.loops.pieces import is_pointwise
from concatc.op import Op, op_of


def maps_elementwise(op: Operation, operand: int, result: int) -> bool:
    """Whether a kernel (or a lone op) reads ``operand`` only at the index of the element of ``result`` that it stores.

    The operand must flow into ``result`` alone, or all results must have its shape and all ops be pointwise, so that
    one loop nest makes them: no other nest may read what is stored over.
    """
    x = op.operands[operand]
    if op.results[result].type != x.type:
        return False
    if op.name != "cnet.kernel":
        return _reads_at_own_index(op, {x})
    *inner_ops, end = op.regions[0].block.ops
    reached: set[Value] = {op.regions[0].block.args[operand]}
    for inner in inner_ops:
        if not any(v in reached for v in inner.operands):
            continue
        if not _reads_at_own_index(inner, reached):
            return False
        reached.update(inner.results)
    if end.operands[result] not in reached or op.regions[0].block.args[operand] in end.operands:
        return False
    if sum(v in reached for v in end.operands) == 1:
        return True
    return all(v.shape == x.shape for v in end.operands) and all(_is_map(inner) for inner in inner_ops)


def _is_map(op: Operation) -> bool:
    return _read_at_own_index(*_types(op)) is not None


def _reads_at_own_index(op: Operation, reached: set[Value]) -> bool:
    own = _read_at_own_index(*_types(op))
    return own is not None and all(k in own for k, v in enumerate(op.operands) if v in reached)


def _types(op: Operation) -> tuple[Op, tuple[TensorType, ...], tuple[TensorType, ...]]:
    return op_of(op), tuple(v.tensor for v in op.operands), tuple(v.tensor for v in op.results)


@functools.lru_cache(maxsize=4096)
def _read_at_own_index(
    op: Op, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]
) -> frozenset[int] | None:
    """The operands that are read at the index of what is stored, and nowhere else; None where ``op`` is no map.

    Nets repeat their layers, and lowering is slow: what is found is kept.
    """
    xs = [Ref("operand", k, t) for k, t in enumerate(operands)]
    pieces = list(op.lower(xs, [Ref("result", k, t) for k, t in enumerate(results)]))
    if not all(is_pointwise(p) and p.target.kind == "result" for p in pieces):
        return None
    elsewhere = {load.ref for p in pieces for load in loads(p.value) if load.at != p.axes}
    return frozenset(k for k, x in enumerate(xs) if x not in elsewhere)
