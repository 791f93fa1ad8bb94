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
of the statistics per channel over all layers, and spreads the sum over the channel's elements once.  Likewise

    channel_stats(slice(x, axis=1)) = slice(channel_stats(x), axis=0)

where the statistics of x are wanted too.

Invariant: no two operations compute statistics of one channel, where concats and slices show that it is one, kept blobs
aside: a user reads the gradient of what flows through such a blob, so its statistics are taken from the blob
itself.  The net says so, ``cnet.joined``.  For graphs without a backward half; splits do not hide anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.ir.core import Block, FuncOp, Module, Operation, Value
from concatc.op import Builder, is_op, op_of
from concatc.ops.concat import Concat
from concatc.ops.slice import Slice
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.graph import is_backward
from concatc.passes.patterns import kept_blobs
from concatc.passes.rows import say

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
    if not paying.concats and not paying.windows:
        return
    ops: list[Operation] = []
    known: dict[Value, Stats] = {}
    for op in func.ops:
        if not is_op(op, "channel_stats"):
            ops.append(op)
            continue
        (x,) = op.operands
        if x not in known and x not in paying.concats and x not in paying.windows:
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


@dataclass
class _Paying:
    """Concats whose statistics are put together, and windows whose statistics are cut from those of the whole."""

    concats: dict[Value, None]
    windows: dict[Value, Operation]


def _paying(func: FuncOp) -> _Paying:
    """Concats of which an input's statistics, or those of a part of it, are asked for twice; windows of blobs whose
    statistics are asked for too."""
    demands: dict[Value, int] = {}  # channel_stats, and concats that are asked for theirs
    for op in func.ops:
        if is_op(op, "channel_stats"):
            demands[op.operands[0]] = 1
    # Past a kept blob statistics would take their share of its gradient with them.
    kept = kept_blobs(func)
    concats = [op for op in func.ops if _is_along_channels(op, "concat")]
    for op in reversed(concats):
        for x in op.operands if op.result in demands and op.result not in kept else ():
            demands[x] = demands.get(x, 0) + 1
    cuts = [op for op in func.ops if _is_along_channels(op, "slice") and op.operands[0] in demands]
    wanted = {result: op for op in cuts for result in op.results if result in demands}
    windows = {result: op for result, op in wanted.items() if result not in kept}
    for op in dict.fromkeys(windows.values()):
        demands[op.operands[0]] += 1
    concats_paying: dict[Value, None] = {}
    apart = [result for result in wanted if result in kept]
    for op in concats:
        if op.result not in demands:
            continue
        if op.result in kept:
            apart += [op.result] if any(x in demands for x in op.operands) else []
        elif any(demands[x] > 1 or x in concats_paying for x in op.operands):
            concats_paying[op.result] = None
    say(
        func,
        (f"statistics of %{blob.name} are computed apart from others of its channels: it is kept" for blob in apart),
    )
    return _Paying(concats_paying, windows)


def _is_along_channels(op: Operation, name: str) -> bool:
    """Whether the operation is the concat, or slice, of channels."""
    if not is_op(op, name):
        return False
    typed = op_of(op)
    assert isinstance(typed, Concat | Slice)
    return typed.axis == 1


def _stats(value: Value, b: Builder, paying: _Paying, known: dict[Value, Stats]) -> Stats:
    """The statistics of a value, which are known or made by ``b``."""
    pending = [value]
    while pending:
        x = pending[-1]
        needed = _needed(x, paying)
        missing = [part for part in needed if part not in known]
        if missing and x not in known:
            pending += reversed(missing)
            continue
        pending.pop()
        if x in known:
            continue
        if x in paying.windows:
            _cut(paying.windows[x], b, paying, known)
            continue
        names = [f"{x.name}.mean", f"{x.name}.var"] if x.name else None
        if not needed:
            mean, var = b.channel_stats(x, names=names)
        else:
            means, variances = zip(*(known[part] for part in needed), strict=True)
            mean = b.concat(*means, axis=0, names=names and names[:1])
            var = b.concat(*variances, axis=0, names=names and names[1:])
        known[x] = mean, var
    return known[value]


def _needed(x: Value, paying: _Paying) -> tuple[Value, ...]:
    """The values whose statistics those of ``x`` are made of; none where they are computed."""
    if x in paying.windows:
        return paying.windows[x].operands
    return x.op.operands if x.op is not None and x in paying.concats else ()


def _cut(op: Operation, b: Builder, paying: _Paying, known: dict[Value, Stats]) -> None:
    """The statistics of the windows of a slice."""
    typed = op_of(op)
    assert isinstance(typed, Slice)
    mean, var = (
        b.slice(whole, axis=0, sizes=typed.sizes, names=[f"{r.name}.{end}" if r.name else "" for r in op.results])
        for whole, end in zip(known[op.operands[0]], ("mean", "var"), strict=True)
    )
    for k, result in enumerate(op.results):
        if result in paying.windows:
            known.setdefault(result, (mean[k], var[k]))
