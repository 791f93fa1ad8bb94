"""Edits of a kernel graph: kernels in segments, results stored twice, sums taken into kernels.

Works on a function without splits.  Edits are collected and the block is rebuilt once, by :meth:`KernelEdit.finish`,
which also lets slices of what became a concat read its parts, and sums add first what is made first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from concatc.ir.core import Attr, FuncOp, Operation, Region, Use, Value
from concatc.op import is_op
from concatc.passes.cut_kernel import Cut, Segment
from concatc.passes.fusion import is_view
from concatc.passes.graph import PROVENANCE, is_backward, transposed
from concatc.passes.order_kernels import number_kernels, sort_sums


class KernelEdit:
    """Collects what comes in place of, and behind, the operations of ``func``; ``touched`` kernels are changed."""

    def __init__(self, func: FuncOp) -> None:
        self.func = func
        self.touched: dict[Operation, None] = {}
        self.segmented: dict[Operation, None] = {}  # concats that stay for their value's sake
        self._first: list[Operation] = []
        self._behind: dict[Operation, list[Operation]] = {}
        self._instead: dict[Operation, list[Operation]] = {}
        self._parts: dict[tuple[Value, int, tuple[int, ...]], list[Value]] = {}

    # -- edits -----------------------------------------------------------------------------------------------------
    def cut(self, kernel: Operation, cut: Cut, extents: tuple[int, ...]) -> None:
        """Let kernels of segments come in place of ``kernel``."""
        outside = dict(zip(cut.block.args, kernel.operands, strict=True))
        parts = {a: self.parts(v, cut.axes[a], extents) for a, v in outside.items() if a in cut.axes}
        made: dict[Value, list[Value]] = {}
        ops: list[Operation] = []
        self._instead[kernel] = ops
        for k, extent in enumerate(extents):
            segment = cut.segment(extent, k == len(extents) - 1)
            operands: list[Value] = []
            for value in segment.reads:
                if value in parts:
                    operands.append(parts[value][k])
                elif value in outside:
                    operands.append(outside[value])
                else:
                    operands.append(self._joined(ops, kernel, made.pop(value), value))
            ops.append(_segment_kernel(kernel, k, segment, operands))
            for value, result in zip(segment.yields, ops[-1].results, strict=True):
                made.setdefault(value, []).append(result)
        for value, result in zip(cut.yielded, kernel.results, strict=True):
            joined = self._joined(ops, kernel, made[value], result, cut.axes.get(value))
            joined.name = result.name
            result.replace_all_uses_with(joined)
        kernel.set_operands([])

    def parts(self, value: Value, axis: int, extents: tuple[int, ...]) -> list[Value]:
        """A value in parts along an axis: those it is joined of, where they agree, else slices of it."""
        key = (value, axis, extents)
        if key not in self._parts:
            self._parts[key] = self._groups(value, axis, extents) or self._slices(value, axis, extents)
        return self._parts[key]

    def store_twice(self, use: Use, kernel: Operation, path: Sequence[Operation]) -> None:
        """Let ``kernel`` store what ``use`` reads once more, for it; ``path`` are the views between the two."""
        first = path[0].operands[0] if path else use.op.operands[use.index]
        end = kernel.regions[0].block.ops[-1]
        second = Value(first.type, f"{first.name}.second", kernel, len(kernel.results))
        kernel.results.append(second)
        end.set_operands([*end.operands, end.operands[first.index]])
        value = second
        for view in path:
            names = [f"{view.result.name}.second"]
            value = Operation(view.name, [value], [view.result.type], view.attributes, (), view.loc, names).result
            assert value.op is not None
            self._behind.setdefault(kernel, []).append(value.op)
        use.op.set_operand(use.index, value)

    def take_in(self, sum: Operation, index: int, kernel: Operation, result: Value) -> None:
        """Let the kernel that makes one contribution of ``sum`` add contribution ``index`` to it."""
        x = sum.operands[index]
        block = kernel.regions[0].block
        end = block.ops[-1]
        if x not in kernel.operands:
            kernel.set_operands([*kernel.operands, x])
            block.add_arg(x.type, f"{x.name}_")
        before = block.args[kernel.operands.index(x)]
        made = end.operands[result.index]
        attributes = {k: v for k, v in sum.attributes.items() if k in PROVENANCE}
        order = [before, made] if index < sum.operands.index(result) else [made, before]
        total = Operation("cnet.accumulate", order, [made.type], attributes, loc=sum.loc, result_names=[made.name])
        block.insert_before(end, total)
        end.set_operand(result.index, total.result)
        left = [v for k, v in enumerate(sum.operands) if k != index]
        sum.set_operands(left)
        if len(left) == 1:
            result.name = sum.result.name
            sum.result.replace_all_uses_with(result)
            self._instead[sum] = []
            sum.set_operands([])

    def read_apart(self, sum: Operation, index: int) -> None:
        """Let the kernel that alone reads ``sum`` add contribution ``index`` to the others itself."""
        (use,) = sum.result.uses
        reader, x = use.op, sum.operands[index]
        block = reader.regions[0].block
        whole = block.args[use.index]
        readers = list(whole.uses)
        reader.set_operands([*reader.operands, x])
        part = block.add_arg(x.type, f"{x.name}_")
        attributes = {k: v for k, v in sum.attributes.items() if k in PROVENANCE}
        order = [part, whole] if index == 0 else [whole, part]
        total = Operation("cnet.accumulate", order, [whole.type], attributes, loc=sum.loc, result_names=[whole.name])
        block.insert_before(block.ops[0], total)
        for reading in readers:
            reading.op.set_operand(reading.index, total.result)
        left = [v for k, v in enumerate(sum.operands) if k != index]
        sum.set_operands(left)
        if len(left) == 1:
            sum.result.replace_all_uses_with(left[0])
            self._instead[sum] = []
            sum.set_operands([])

    def replace(self, op: Operation, ops: list[Operation]) -> None:
        """Let ``ops`` stand in place of ``op``, whose results nothing reads any more."""
        self._instead[op] = ops
        op.set_operands([])

    def flatten(self, outer: Operation, concat: Operation) -> None:
        """Let a concat of a concat join the parts of both."""
        outer.set_operands([y for x in outer.operands for y in (concat.operands if x is concat.result else [x])])

    # -- the function ----------------------------------------------------------------------------------------------
    def finish(self) -> None:
        """Rebuild the block; views that nothing reads any more are gone."""
        ops = [new for op in (*self._first, *self.func.ops) for new in self._expanded(op)]
        ops = [new for op in ops for new in self._cancelled(op)]
        kept: list[Operation] = []
        for op in reversed(ops):
            if is_view(op) and op not in self.segmented and not any(r.uses for r in op.results):
                op.set_operands([])
                continue
            kept.append(op)
        for op in kept:
            op.block = self.func.body
        self.func.body.ops = kept[::-1]
        sort_sums(self.func.ops)
        number_kernels(self.func)

    def _expanded(self, op: Operation) -> Iterator[Operation]:
        """What stands where ``op`` stood; what came in its place or behind it may have been replaced too."""
        for new in self._instead.get(op, [op]):
            if new is op:
                yield op
                continue
            yield from self._expanded(new)
        for new in self._behind.get(op, []):
            yield from self._expanded(new)

    def _cancelled(self, op: Operation) -> list[Operation]:
        """``slice(concat(a, b)) -> a, b``   as far as the parts end together."""
        if not is_op(op, "slice") or op.operands[0].op is None or not is_op(op.operands[0].op, "concat"):
            return [op]
        axis, concat = op.attributes["axis"], op.operands[0].op
        assert isinstance(axis, int)
        if concat.attributes["axis"] != axis:
            return [op]
        ops: list[Operation] = []
        sizes = [[v.shape[axis] for v in row] for row in (concat.operands, op.results)]
        for before, after in _runs(*sizes):
            sources, results = [concat.operands[k] for k in before], [op.results[k] for k in after]
            source = sources[0] if len(sources) == 1 else append_concat(ops, sources, axis, op.operands[0].name, op)
            values = [source]
            if len(results) > 1:
                values = append_slice(
                    ops, source, axis, [r.shape[axis] for r in results], [r.name for r in results], op
                )
            for result, value in zip(results, values, strict=True):
                result.replace_all_uses_with(value)
        op.set_operands([])
        return ops

    # -- parts -----------------------------------------------------------------------------------------------------
    def _groups(self, value: Value, axis: int, extents: tuple[int, ...]) -> list[Value] | None:
        op = value.op
        if op is None or not is_op(op, "concat") or op.attributes["axis"] != axis:
            return None
        runs = list(_runs([v.shape[axis] for v in op.operands], extents))
        if any(len(segment) > 1 for _, segment in runs):
            return None
        ops = self._behind.setdefault(op, [])
        groups = [[op.operands[k] for k in members] for members, _ in runs]
        return [
            group[0] if len(group) == 1 else append_concat(ops, group, axis, f"{value.name}.part{k}", op)
            for k, group in enumerate(groups)
        ]

    def _slices(self, value: Value, axis: int, extents: tuple[int, ...]) -> list[Value]:
        names = [f"{value.name}.part{k}" for k in range(len(extents))]
        ops = self._first if value.op is None else self._behind.setdefault(value.op, [])
        return append_slice(ops, value, axis, extents, names, value.op)

    def _joined(
        self, ops: list[Operation], kernel: Operation, parts: list[Value], value: Value, axis: int | None = None
    ) -> Value:
        """The parts of a value as one: joined where it is cut along ``axis``, else added."""
        if axis is not None:
            return append_concat(ops, parts, axis, value.name, kernel)
        if len(parts) == 1:
            return parts[0]
        total = Operation("cnet.accumulate", parts, [value.type], provenance_of(kernel), loc=kernel.loc)
        total.result.name = value.name
        ops.append(total)
        return total.result


def _segment_kernel(kernel: Operation, number: int, segment: Segment, operands: list[Value]) -> Operation:
    results = kernel.regions[0].block.ops[-1].operands
    names = [kernel.results[results.index(v)].name if v in results else v.name.rstrip("_") for v in segment.yields]
    types = [v.type for v in segment.block.ops[-1].operands]
    part_names = [f"{name}.part{number}" for name in names]
    region = Region([segment.block])
    return Operation("cnet.kernel", operands, types, kernel.attributes, [region], kernel.loc, part_names)


def append_concat(ops: list[Operation], values: Sequence[Value], axis: int, name: str, like: Operation) -> Value:
    """Append a concat to ``ops``; it belongs to the half of ``like``."""
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    attributes: dict[str, Attr] = {"axis": axis, **provenance_of(like)}
    type = values[0].tensor.with_shape(tuple(shape))
    ops.append(Operation("cnet.concat", values, [type], attributes, loc=like.loc, result_names=[name]))
    return ops[-1].result


def append_slice(
    ops: list[Operation], value: Value, axis: int, extents: Sequence[int], names: list[str], like: Operation | None
) -> list[Value]:
    """Append a slice to ``ops``; it belongs to the half of ``like``."""
    attributes: dict[str, Attr] = {"axis": axis, "sizes": tuple(extents), **provenance_of(like)}
    types = [value.tensor.with_shape((*value.shape[:axis], n, *value.shape[axis + 1 :])) for n in extents]
    loc = like.loc if like is not None else None
    ops.append(Operation("cnet.slice", [value], types, attributes, loc=loc, result_names=names))
    return ops[-1].results


def provenance_of(op: Operation | None) -> dict[str, Attr]:
    """What says that an operation beside ``op`` is of the backward half, if it is."""
    return {"transposes": transposed(op)} if op is not None and is_backward(op) else {}


def _runs(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Two rows of extents in runs that end together, as short as can be, by index; both are as long in all."""
    run: tuple[list[int], list[int]] = ([], [])
    rows, at, ends = (first, second), [0, 0], [0, 0]
    while at[0] < len(first) or at[1] < len(second):
        side = 0 if at[0] < len(first) and (ends[0] <= ends[1] or at[1] == len(second)) else 1
        run[side].append(at[side])
        ends[side] += rows[side][at[side]]
        at[side] += 1
        # What is empty belongs to the run before.
        empty_next = any(k < len(row) and row[k] == 0 for k, row in zip(at, rows, strict=True))
        if ends[0] == ends[1] and run[0] and run[1] and not empty_next:
            yield run
            run = ([], [])
