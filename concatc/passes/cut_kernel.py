"""Cutting a kernel along an axis of what it reads or makes: the same kernel, on a part of its operands at a time.

    %y = kernel(%x, %b)      {relu(x + b)}            %y0 = kernel(%x0, %b0)      %y = concat(%y0, %y1)
                                                      %y1 = kernel(%x1, %b1)

    %y = kernel(%x, %w)      {x @ w}                  %y0 = kernel(%x0, %w0)      %y = accumulate(%y0, %y1)
                                                      %y1 = kernel(%x1, %w1)

    %y = kernel(%x, %w)      {relu(x @ w)}            %s  = kernel(%x0, %w0)      {x @ w}
                                                      %y  = kernel(%x1, %w1, %s)  {relu(s + x @ w)}

Values follow the axis through the pieces of the ops: what is indexed by it is cut, what is a sum over it is made in
parts, and what is made of such a sum is made by the last segment.  :func:`find_cut` says whether that is all there is;
:meth:`Cut.segment` makes the region of one segment, of which every op is checked: it must have the pieces of the whole
one, but for the extent of the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from concatc.ir.core import Attr, Block, Operation, Value
from concatc.ir.types import Type
from concatc.loops.expr import Axis, Ref
from concatc.loops.independence import along, without_extents
from concatc.op import ShapeError, lowered, op_of
from concatc.passes.graph import PROVENANCE


@dataclass(frozen=True)
class Segment:
    """A part of a kernel: its block, and which values of the whole kernel it reads (a sum: what was made of it before)
    and yields."""

    block: Block
    reads: list[Value]
    yields: list[Value]


@dataclass
class Cut:
    """How a kernel is cut.  All values are those inside the kernel.

    ``axes`` has the axis of every value that is cut; ``sums`` are made in parts, one a segment; ``rest`` are made of
    sums, by the last segment.  ``loops`` has for each op the loop that runs along the axis, piece by piece.
    """

    kernel: Operation
    axes: dict[Value, int] = field(default_factory=dict)
    sums: list[Value] = field(default_factory=list)
    rest: list[Value] = field(default_factory=list)
    loops: dict[Operation, list[Axis | None]] = field(default_factory=dict)

    @property
    def block(self) -> Block:
        """The block of the kernel."""
        return self.kernel.regions[0].block

    @property
    def yielded(self) -> Sequence[Value]:
        """What the kernel stores."""
        return self.block.ops[-1].operands

    def fits(self, extents: Sequence[int]) -> bool:
        """Whether every op means the same on segments of these extents."""
        return all(self._same_pieces(op, n) for n in dict.fromkeys(extents) for op in self.loops)

    def segment(self, extent: int, last: bool) -> Segment:
        """The kernel of one segment.

        Where something is made of the sums, the last segment takes what the others made of them, and makes the rest.
        """
        chained = bool(self.rest)
        yields = list(self.yielded)
        if chained and not last:
            yields = list(dict.fromkeys([*(v for v in yields if v in self.axes), *self.sums]))
        needed = self._needed(yields)
        read = {v for op in needed for v in op.operands}
        reads = [v for v in self.block.args if v in read]
        if chained and last:
            reads += self.sums
        args = self.block.args
        block = Block(
            [self._type(v, extent) for v in reads], [v.name if v in args else f"{v.name}before" for v in reads]
        )
        inside = dict(zip(reads, block.args, strict=True))
        before = {v: inside.pop(v) for v in self.sums if v in inside}
        for op in self.block.ops[:-1]:
            if op not in needed:
                continue
            types: list[Type] = [self._type(r, extent) for r in op.results]
            names = [r.name for r in op.results]
            attributes = self._attributes(op, extent)
            made = Operation(op.name, [inside[v] for v in op.operands], types, attributes, (), op.loc, names)
            block.append(made)
            inside.update(zip(op.results, made.results, strict=True))
            for result in op.results:
                if result in before:
                    inside[result] = block.append(_sum(op, before[result], inside[result])).result
        block.append(Operation("cnet.yield", [inside[v] for v in yields], loc=self.block.ops[-1].loc))
        return Segment(block, reads, yields)

    def _needed(self, yields: Sequence[Value]) -> dict[Operation, None]:
        needed: dict[Operation, None] = {}
        wanted = dict.fromkeys(yields)
        for op in reversed(self.block.ops[:-1]):
            if any(r in wanted for r in op.results):
                needed[op] = None
                wanted.update(dict.fromkeys(op.operands))
        return needed

    def _type(self, value: Value, extent: int) -> Type:
        if value not in self.axes:
            return value.type
        axis = self.axes[value]
        return value.tensor.with_shape((*value.shape[:axis], extent, *value.shape[axis + 1 :]))

    def _attributes(self, op: Operation, extent: int) -> dict[str, Attr]:
        """The attributes of an op on a segment: a shape that it states follows its result."""
        attributes = dict(op.attributes)
        shape = attributes.get("shape")
        for result in op.results:
            if result in self.axes and shape == result.shape:
                axis = self.axes[result]
                attributes["shape"] = (*result.shape[:axis], extent, *result.shape[axis + 1 :])
        return attributes

    def _same_pieces(self, op: Operation, extent: int) -> bool:
        operands = [self._type(v, extent) for v in op.operands]
        results = [self._type(v, extent) for v in op.results]
        block = Block(operands)
        made = Operation(op.name, block.args, results, self._attributes(op, extent))
        try:
            inferred = op_of(made).infer([v.tensor for v in block.args])
        except ShapeError:
            return False
        if list(inferred) != results:
            return False
        whole, part = lowered(op), lowered(made)
        loops = self.loops[op]
        return len(whole) == len(part) and all(
            without_extents(a, loop) == without_extents(b, loop) for a, b, loop in zip(whole, part, loops, strict=True)
        )


def find_cut(kernel: Operation, start: Value, axis: int) -> Cut | None:
    """How ``kernel`` is cut where ``start``, an argument or a value inside it, is cut along ``axis``.

    None where it cannot be, or where a segment would do what another one does too.
    """
    if kernel.name != "cnet.kernel" or any(op_of(op).effect for op in kernel.regions[0].block.ops[:-1]):
        return None
    yielded = kernel.regions[0].block.ops[-1].operands
    if len(dict.fromkeys(yielded)) < len(yielded):
        return None
    search = _Search(kernel, start, axis)
    return search.cut if search.run() else None


class _Search:
    """Spreads the axis over the values of a kernel until nothing changes."""

    def __init__(self, kernel: Operation, start: Value, axis: int) -> None:
        self.cut = Cut(kernel)
        self.axes = self.cut.axes
        self.axes[start] = axis
        self.temps: dict[tuple[Operation, int], int] = {}
        self.ops = kernel.regions[0].block.ops[:-1]
        self.sums: dict[Value, None] = {}

    def run(self) -> bool:
        known = -1
        while known != len(self.axes) + len(self.temps):
            known = len(self.axes) + len(self.temps)
            self.sums.clear()
            self.cut.loops.clear()
            if not all(self._visit(op) for op in self.ops):
                return False
        return self._finish()

    def _visit(self, op: Operation) -> bool:
        pieces = lowered(op)
        loops: list[Axis | None] = []
        for piece in pieces:
            refs = dict.fromkeys((piece.target, *piece.reads))
            joined = {ref: axis for ref in refs if (axis := self._axis(op, ref)) is not None}
            if not joined:
                loops.append(None)
                continue
            found = along(piece, joined)
            if found is None or sum(p.target == piece.target for p in pieces) > 1:
                return False
            loops.append(found.loop)
            for ref, axis in found.axes.items():
                if not self._note(op, ref, axis):
                    return False
            if found.adds:
                if piece.target.kind == "temp":
                    return False
                self.sums[op.results[piece.target.index]] = None
        if any(loop is not None for loop in loops):
            self.cut.loops[op] = loops
        return True

    def _axis(self, op: Operation, ref: Ref) -> int | None:
        if ref.kind == "temp":
            return self.temps.get((op, ref.index))
        return self.axes.get(_value(op, ref))

    def _note(self, op: Operation, ref: Ref, axis: int) -> bool:
        """Record an axis; false where the value is cut along another one."""
        if ref.kind == "temp":
            return self.temps.setdefault((op, ref.index), axis) == axis
        return self.axes.setdefault(_value(op, ref), axis) == axis

    def _finish(self) -> bool:
        """Sort the values that are not cut; false where one is both made of a sum and cut, or of parts of a sum."""
        made_of_sums: dict[Value, None] = {}
        for op in self.ops:
            late = any(v in self.sums or v in made_of_sums for v in op.operands)
            if late and (op in self.cut.loops or any(r in self.axes for r in op.results)):
                return False
            made_of_sums.update(dict.fromkeys(op.results if late else ()))
        if any(v in self.axes for v in self.sums):
            return False
        yielded = dict.fromkeys(self.cut.yielded)
        self.cut.sums = list(self.sums)
        self.cut.rest = [v for v in yielded if v not in self.axes and v not in self.sums]
        return True


def _value(op: Operation, ref: Ref) -> Value:
    return op.operands[ref.index] if ref.kind == "operand" else op.results[ref.index]


def _sum(op: Operation, before: Value, part: Value) -> Operation:
    attributes = {k: v for k, v in op.attributes.items() if k in PROVENANCE}
    return Operation("cnet.accumulate", [before, part], [part.type], attributes, loc=op.loc, result_names=[part.name])
