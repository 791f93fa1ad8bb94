"""``stats-grad-of-sums``: the gradient of a batch's statistics from those of scale and bias, not from the batch.

    %dbias = "cnet.sum"(%dz) {axes = [0, 2, 3]}             %dbias = "cnet.sum"(%dz) {axes = [0, 2, 3]}
    %u = "cnet.mul"(%dz, %h)                                %u = "cnet.mul"(%dz, %h)
    %dweight = "cnet.sum"(%u) {axes = [0, 2, 3]}      ->    %dweight = "cnet.sum"(%u) {axes = [0, 2, 3]}
    %dh = "cnet.scale"(%dz, %weight)                        %dm, %dv = "cnet.normalize_stats_grad_of_sums"(
    %dm, %dv = "cnet.normalize_stats_grad"(                     %dbias, %dweight, %weight, %var)
        %dh, %x, %mean, %var)

where ``%h = "cnet.normalize"(%x, %mean, %var)``.  With ``r = 1 / sqrt(var + eps)`` and ``dh = weight dz``, a channel:

    dm = -r sum dh                    = -r weight sum dz                      = -r weight dbias
    dv = -1/2 r^3 sum dh (x - mean)   = -1/2 r^2 weight sum dz (x - mean) r   = -1/2 r^2 weight dweight

Without a bias the sum of ``dz`` is made beside ``dweight``, which reads ``dz`` anyway.  Without ``dweight`` (no scale,
or one that is not trained) both sums would be made for this alone: nothing is gained, and nothing changes.

Invariant: no gradient of statistics reads a batch whose sums stand before it.  Values are the same but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.ir.core import Block, FuncOp, Module, Operation, Value
from concatc.op import Builder, is_op, op_of
from concatc.ops.normalize import Normalize, NormalizeStatsGrad
from concatc.ops.scale import Scale
from concatc.ops.sum import Sum
from concatc.passes.dce import dce
from concatc.passes.free_of_splits import free_of_splits


@dataclass(frozen=True)
class StatsGradOfSums:
    """Take the gradients of statistics from sums that are there."""

    name = "stats-grad-of-sums"

    def run(self, module: Module) -> None:
        """Rewrite every function of the module in place."""
        for func in module.functions:
            if func.declared is None and any(is_op(op, "normalize_stats_grad") for op in func.ops):
                with free_of_splits(func):
                    _rewrite(func)


def _rewrite(func: FuncOp) -> None:
    ops: list[Operation] = []
    sums: dict[Value, Value] = {}  # of a value, over all axes but the channels, where they stand above
    for op in func.ops:
        if is_op(op, "sum") and _keeps_channels(op):
            sums.setdefault(op.operands[0], op.result)
        made = _of_sums(op, sums) if is_op(op, "normalize_stats_grad") else None
        if made is None:
            ops.append(op)
            continue
        ops += made.ops
        for old, new in zip(op.results, made.ops[-1].results, strict=True):
            old.replace_all_uses_with(new)
        op.set_operands([])
    for op in ops:
        op.block = func.body
    func.body.ops = ops
    dce(func)  # the scaled cotangents that nothing else reads


def _of_sums(op: Operation, sums: dict[Value, Value]) -> Block | None:
    """Operations that stand for ``op``, a gradient of statistics; None where the sums are not there."""
    dh, _, _, var = op.operands
    scaled = dh.op
    if scaled is None or not is_op(scaled, "scale") or not _along_channels(scaled):
        return None
    dz, weight = scaled.operands
    dweight = next((sums[u] for u in _products(dz, op) if u in sums), None)
    if dweight is None:
        return None
    made = Block()
    half = {name: op.attributes[name] for name in ("transposes",) if name in op.attributes}
    b = Builder(made, op.loc, attributes=half)
    dbias = sums.get(dz)
    if dbias is None:
        name = f"{op.results[0].name}.sum" if op.results[0].name else ""
        dbias = sums[dz] = b.sum(dz, axes=_all_but_channels(dz), names=[name])
    b.normalize_stats_grad_of_sums(
        dbias, dweight, weight, var, eps=_eps(op), names=[result.name for result in op.results]
    )
    return made


def _products(dz: Value, grad: Operation) -> list[Value]:
    """``dz * normalize(x, mean, var)`` of the ``x``, ``mean``, ``var`` and ``eps`` that ``grad`` reads."""
    found = []
    for use in dz.uses:
        if not is_op(use.op, "mul"):
            continue
        maker = use.op.operands[1 - use.index].op
        if maker is None or not is_op(maker, "normalize"):
            continue
        if maker.operands == grad.operands[1:] and _eps(maker) == _eps(grad):
            found.append(use.op.result)
    return found


def _all_but_channels(value: Value) -> tuple[int, ...]:
    return tuple(d for d in range(len(value.shape)) if d != 1)


def _keeps_channels(op: Operation) -> bool:
    typed = op_of(op)
    assert isinstance(typed, Sum)
    (x,) = op.operands
    return len(x.shape) > 1 and not typed.keepdims and sorted(typed.axes) == list(_all_but_channels(x))


def _along_channels(op: Operation) -> bool:
    typed = op_of(op)
    assert isinstance(typed, Scale)
    return typed.axis == 1


def _eps(op: Operation) -> float:
    typed = op_of(op)
    assert isinstance(typed, Normalize | NormalizeStatsGrad)
    return typed.eps
