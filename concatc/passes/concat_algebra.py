"""``concat-algebra``: cancel concats and slices against each other.

    %h = "cnet.concat"(%a, %b) {axis = 0}
    %p, %q = "cnet.slice"(%h) {axis = 0, sizes = [64, 32]}    ->    %z = "cnet.add"(%a, %b)
    %z = "cnet.add"(%p, %q)

Invariant: no slice cuts a concat along the same axis into windows of its inputs, no concat joins all windows of a
slice in order (in the backward half, not two of them).  Splits do not hide any of it.  Values do not change, and no new
copy is made: a concat that others read too stays one buffer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from concatc.ir.core import Module, Operation, Value
from concatc.ir.rewrite import Pattern, Rewriter
from concatc.op import Builder, op_of
from concatc.ops.concat import Concat
from concatc.ops.constant import Constant
from concatc.ops.slice import Slice
from concatc.passes.graph import is_backward
from concatc.passes.patterns import builder_before, made_by, rewrite_module


@dataclass(frozen=True)
class ConcatAlgebra:
    """Apply the patterns of this file until none applies."""

    name = "concat-algebra"

    def run(self, module: Module) -> None:
        """Rewrite every function of the module in place."""
        rewrite_module(module, PATTERNS)


class SliceOfConcat(Pattern):
    """``slice(concat(a, b)) -> a, b``   when each window lies within one input, or nothing else reads the concat.

    A window that is a part of an input becomes a slice of that input; one that spans several, a concat of parts.
    """

    roots = ("cnet.slice",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        concat = made_by(rw, op.operands[0], "concat")
        if concat is None or _axis(concat) != _axis(op):
            return False
        axis = _axis(op)
        windows = [r.shape[axis] for r in op.results]
        if 0 in windows:
            return False
        pieces = _overlaps(windows, [x.shape[axis] for x in concat.operands])
        spans = any(len(parts) > 1 for parts in pieces)
        if spans and len(concat.result.uses) > 1:
            return False
        b = builder_before(op, rw)
        # Windows cover the axis in order, so the pieces of an input, in order, cover that input.
        lengths: dict[int, list[int]] = {}
        for k, length in itertools.chain(*pieces):
            lengths.setdefault(k, []).append(length)
        parts = {k: _cut(concat.operands[k], axis, tuple(ns), b) for k, ns in lengths.items()}
        values = []
        for window in pieces:
            found = [parts[k].pop(0) for k, _ in window]
            values.append(found[0] if len(found) == 1 else b.concat(*found, axis=axis))
        rw.replace(op, values)
        for cut in rw.before(op).ops:
            for k, part in enumerate(cut.results):
                part.name = part.name or f"{cut.operands[0].name}.part{k}"
        return True


class ConcatOfSlices(Pattern):
    """``concat(.., slice(x), ..) -> concat(.., x, ..)``   when all windows stand there in order, along one axis.

    In the backward half, where nothing is differentiated any more, some windows in order become one slice of x.
    """

    roots = ("cnet.concat",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        operands: list[Value] = []
        k = 0
        while k < len(op.operands):
            cut, count = _windows_in_order(op, k, rw)
            if cut is None or count < (2 if is_backward(op) else len(cut.results)):
                operands.append(op.operands[k])
                k += 1
                continue
            operands.append(_joined(cut, op.operands[k : k + count], op, rw))
            k += count
        return _rejoin(op, operands, rw)


class NestedConcat(Pattern):
    """``concat(concat(a, b), c) -> concat(a, b, c)``   along one axis, when nothing else reads the inner one.

    An inner concat that others read is a window of the outer one's buffer; flattening would hide that.
    """

    roots = ("cnet.concat",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        operands: list[Value] = []
        for x in op.operands:
            inner = made_by(rw, x, "concat")
            if inner is None or len(x.uses) > 1 or _axis(inner) != _axis(op):
                operands.append(x)
                continue
            operands += inner.operands
        return _rejoin(op, operands, rw)


class ConcatOfConstants(Pattern):
    """``concat(.., c[m], c[n], ..) -> concat(.., c[m + n], ..)``   for constants of the same value side by side."""

    roots = ("cnet.concat",)

    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        axis = _axis(op)
        groups: list[list[Value]] = []
        for x in op.operands:
            if groups and _same_constant(rw, groups[-1][-1], x):
                groups[-1].append(x)
            else:
                groups.append([x])
        if len(groups) == len(op.operands):
            return False
        b = builder_before(op, rw)
        operands: list[Value] = []
        for group in groups:
            if len(group) == 1:
                operands += group
                continue
            x = group[0]
            extent = sum(y.shape[axis] for y in group)
            shape = (*x.shape[:axis], extent, *x.shape[axis + 1 :])
            operands.append(b.constant(shape=shape, value=_constant(x), dtype=x.dtype, names=[x.name]))
        return _rejoin(op, operands, rw)


PATTERNS = (SliceOfConcat(), ConcatOfSlices(), NestedConcat(), ConcatOfConstants())


def _axis(op: Operation) -> int:
    typed = op_of(op)
    assert isinstance(typed, Concat | Slice)
    return typed.axis


def _constant(value: Value) -> float:
    assert value.op is not None
    typed = op_of(value.op)
    assert isinstance(typed, Constant)
    return typed.value


def _same_constant(rw: Rewriter, x: Value, y: Value) -> bool:
    if made_by(rw, x, "constant") is None or made_by(rw, y, "constant") is None:
        return False
    return repr(_constant(x)) == repr(_constant(y))


def _overlaps(windows: list[int], inputs: list[int]) -> list[list[tuple[int, int]]]:
    """For each window the inputs that it overlaps, in order, with how much: both cut one axis into parts.

    >>> _overlaps([3, 3], [2, 4])
    [[(0, 2), (1, 1)], [(1, 3)]]
    """
    found: list[list[tuple[int, int]]] = []
    k, left = -1, 0
    for window in windows:
        parts = []
        while window > 0:
            while left == 0:
                k += 1
                left = inputs[k]
            length = min(window, left)
            parts.append((k, length))
            window -= length
            left -= length
        found.append(parts)
    return found


def _windows_in_order(op: Operation, k: int, rw: Rewriter) -> tuple[Operation | None, int]:
    """The slice that operand ``k`` of a concat is a window of, and how many of its windows follow one another there."""
    cut = made_by(rw, op.operands[k], "slice")
    if cut is None or rw.makes_opaque(cut) or _axis(cut) != _axis(op):
        return None, 0
    first = op.operands[k].index
    pairs = zip(op.operands[k:], cut.results[first:], strict=False)
    return cut, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] is pair[1], pairs))


def _joined(cut: Operation, windows: Sequence[Value], op: Operation, rw: Rewriter) -> Value:
    """What windows of a slice are together."""
    x, axis = cut.operands[0], _axis(cut)
    if len(windows) == len(cut.results):
        return x
    sizes = [r.shape[axis] for r in cut.results]
    first, end = windows[0].index, windows[-1].index + 1
    extents = [sum(sizes[:first]), sum(sizes[first:end]), sum(sizes[end:])]
    if not extents[1]:
        return windows[0]
    parts: Sequence[Value] = builder_before(op, rw).slice(x, axis=axis, sizes=tuple(n for n in extents if n))
    for k, part in enumerate(parts):
        part.name = f"{x.name}.part{k}"
    return parts[1 if extents[0] else 0]


def _cut(x: Value, axis: int, sizes: tuple[int, ...], b: Builder) -> list[Value]:
    if len(sizes) == 1:
        return [x]
    return list(b.slice(x, axis=axis, sizes=sizes))


def _rejoin(op: Operation, operands: list[Value], rw: Rewriter) -> bool:
    """Let a concat join these operands instead of its own, if they differ."""
    if len(operands) == len(op.operands):
        return False
    if len(operands) == 1:
        rw.replace(op, operands)
        return True
    rw.set_operands(op, operands)
    return True
