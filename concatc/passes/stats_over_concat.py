"""``stats-over-concat``: compute the statistics of a channel once, however many layers normalise it.

    %h = "cnet.concat"(%a, %b) {axis = 1}               %h = "cnet.concat"(%a, %b) {axis = 1}
    %m, %v = "cnet.channel_stats"(%a)                   %m, %v = "cnet.channel_stats"(%a)
    %hm, %hv = "cnet.channel_stats"(%h)         ->      %bm, %bv = "cnet.channel_stats"(%b)
                                                        %hm = "cnet.concat"(%m, %bm) {axis = 0}
                                                        %hv = "cnet.concat"(%v, %bv) {axis = 0}

    channel_stats(concat(a, b, axis=1)) = concat(channel_stats(a), channel_stats(b), axis=0)

holds always, since a channel lies in one input.  It is applied where something is gained: where the statistics of an
input, or of a part of it, are wanted elsewhere too.  Nested concats give nested ones, so the statistics of a growing
concat are prefixes of one vector, which costs no copy.  Derived afterwards, the backward pass adds the cotangents
of the statistics per channel over all layers, and spreads the sum over the channel's elements once.

Invariant: no two operations compute statistics of one channel, where concats show that it is one.  For graphs without a
backward half; splits do not hide anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.ir.core import Block, FuncOp, Module, Operation, Value
from concatc.op import Builder, is_op, op_of
from concatc.ops.concat import Concat
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.graph import is_backward
from concatc.passes.patterns import kept_blobs

Stats = tuple[Value, Value]  # mean and variance


@dataclass(frozen=True)
class StatsOverConcat:
    """Distribute statistics over channel concats."""

    name = "stats-over-concat"

    def run(self, module: Module) -> None:
        """Rewrite every forward function of the module in place."""
        for func in module.functions:
            if func.declared is None and not any(is_backward(op) for op in func.ops):
                with free_of_splits(func):
                    _distribute(func)


def _distribute(func: FuncOp) -> None:
    paying = _paying(func)
    if not paying:
        return
    ops: list[Operation] = []
    known: dict[Value, Stats] = {}
    for op in func.ops:
        if not is_op(op, "channel_stats"):
            ops.append(op)
            continue
        (x,) = op.operands
        if x not in known and x not in paying:
            known[x] = op.results[0], op.results[1]
            ops.append(op)
            continue
        made = Block()
        stats = _stats(x, Builder(made, op.loc), paying, known)
        ops += made.ops
        for old, new in zip(op.results, stats, strict=True):
            old.replace_all_uses_with(new)
        op.set_operands([])
    for op in ops:
        op.block = func.body
    func.body.ops = ops


def _paying(func: FuncOp) -> dict[Value, None]:
    """The concats whose statistics are put together: those of an input, or of a part of it, are asked for twice."""
    demands: dict[Value, int] = {}  # channel_stats, and concats that are asked for theirs
    for op in func.ops:
        if is_op(op, "channel_stats"):
            demands[op.operands[0]] = 1
    # Past a kept blob statistics would take their share of its gradient with them.
    kept = kept_blobs(func)
    concats = [op for op in func.ops if _joins_channels(op) and op.result not in kept]
    for op in reversed(concats):
        for x in op.operands if op.result in demands else ():
            demands[x] = demands.get(x, 0) + 1
    paying: dict[Value, None] = {}
    for op in concats:
        if op.result in demands and any(demands[x] > 1 or x in paying for x in op.operands):
            paying[op.result] = None
    return paying


def _joins_channels(op: Operation) -> bool:
    if not is_op(op, "concat"):
        return False
    concat = op_of(op)
    assert isinstance(concat, Concat)
    return concat.axis == 1


def _stats(value: Value, b: Builder, paying: dict[Value, None], known: dict[Value, Stats]) -> Stats:
    """The statistics of a value, which are known or made by ``b``."""
    pending = [value]
    while pending:
        x = pending[-1]
        parts = x.op.operands if x.op is not None and x in paying else ()
        missing = [part for part in parts if part not in known]
        if missing and x not in known:
            pending += reversed(missing)
            continue
        pending.pop()
        if x in known:
            continue
        names = [f"{x.name}.mean", f"{x.name}.var"] if x.name else None
        if not parts:
            mean, var = b.channel_stats(x, names=names)
        else:
            means, variances = zip(*(known[part] for part in parts), strict=True)
            mean = b.concat(*means, axis=0, names=names and names[:1])
            var = b.concat(*variances, axis=0, names=names and names[1:])
        known[x] = mean, var
    return known[value]
