"""``choose-recompute``: compute again in the backward pass what is cheap to compute, rather than keep it.

    %s = "cnet.scale"(%x, %w)                        %s = "cnet.scale"(%x, %w)
    %y = "cnet.relu"(%s)                             %y = "cnet.relu"(%s)
    // ---- backward ----                            // ---- backward ----
    %dx = "cnet.conv_input_grad"(%dz, %v)     ->     %dx = "cnet.conv_input_grad"(%dz, %v)
    %ds = "cnet.relu_grad"(%y, %dx)                  %s.again = "cnet.scale"(%x, %w) {recomputes = "%s"}
    %u = "cnet.mul"(%ds, %x)                         %y.again = "cnet.relu"(%s.again) {recomputes = "%y"}
                                                     %ds = "cnet.relu_grad"(%y.again, %dx)
                                                     %u = "cnet.mul"(%ds, %x)

What to keep is a minimum cut between what cannot be recomputed (results of contractions, of reductions, of effects) and
what the backward pass reads; a node is a buffer, its capacity the buffer's bytes.  Values that views join (a growing
concat and its parts) are one buffer, which is kept or recomputed as a whole: keeping half of it would cost a copy.
Arguments are there anyway, and so is what the net returns.  Of all cuts of the same bytes the one that recomputes least
is taken.

Invariant: values do not change by a bit, the forward half does not change at all, and every clone stands right before
the first backward operation that reads it.  A reader that takes the clones into its own loops (pointwise, sums) gets
clones of its own, others share them.  No `cse` may run afterwards: it would merge clones with originals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from concatc.ir.core import Attr, FuncOp, Module, Operation, Value
from concatc.op import op_of
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.fuse import is_view
from concatc.passes.graph import is_backward, require_tensors
from concatc.passes.iteration import Iterations
from concatc.passes.minimum_cut import FlowGraph

Mode = Literal["none", "auto", "max"]

# The most that `auto` spends on an element, in units of an addition: normalisation takes 19, tanh 24.
MOST_COST = 48
# A clone that was last read this many operations ago is made anew: keeping it longer would hold its bytes.
REUSE_DISTANCE = 24

SOURCE, SINK = 0, 1


@dataclass(frozen=True)
class ChooseRecompute:
    """Choose what the backward pass recomputes.

    ``mode``: ``none`` nothing; ``auto`` pointwise operations of moderate cost; ``max`` also costly ones, and those that
    fold on the way to a result as large as what they read (softmax).  Contractions, reductions and operations with an
    effect never are.
    """

    mode: Mode = "auto"

    name = "choose-recompute"

    def run(self, module: Module) -> None:
        """Rewrite every joint function of the module in place."""
        if self.mode == "none":
            return
        for func in module.functions:
            if func.declared is None and any(is_backward(op) for op in func.ops):
                require_tensors(func, self.name)
                with free_of_splits(func):
                    _Recompute(func, self.mode).run()


@dataclass(eq=False)
class _Buffer:
    """Values of the forward half that views join, so that they share bytes."""

    size_bytes: int = 0
    makers: list[Operation] = field(default_factory=list)  # operations that compute parts of it
    arguments: list[Value] = field(default_factory=list)
    is_returned: bool = False
    is_read_back: bool = False
    is_recomputed: bool = False

    @property
    def is_given(self) -> bool:
        """Whether it is an argument, or views of one: it is there anyway."""
        return not self.makers and len(self.arguments) == 1


class _Recompute:
    def __init__(self, func: FuncOp, mode: Mode) -> None:
        self.func = func
        self.mode = mode
        self.iterations = Iterations()
        self.position = {op: k for k, op in enumerate(func.ops)}
        self.forward = [op for op in func.ops[:-1] if not is_backward(op)]
        self.buffer_of = _buffers(func, self.forward)
        self.shared = _Clones()
        self.counts: dict[Value, int] = {}

    def run(self) -> None:
        """Decide, then rebuild the block with clones in the backward half."""
        self._cut()
        ops: list[Operation] = []
        for op in self.func.ops:
            if is_backward(op):
                ops += self._clones_for(op)
            ops.append(op)
        for op in ops:
            op.block = self.func.body
        self.func.body.ops = ops

    # -- what to recompute ---------------------------------------------------------------------------------------------
    def _cut(self) -> None:
        buffers = [b for b in dict.fromkeys(self.buffer_of.values()) if not b.is_given]
        unbounded = sum(b.size_bytes for b in buffers) + 1
        graph = FlowGraph(2)
        entry = {b: graph.add_node() for b in buffers}
        leave = {b: graph.add_node() for b in buffers}
        for b in buffers:
            graph.add_edge(entry[b], leave[b], 0 if b.is_returned else b.size_bytes)
            if b.is_read_back:
                graph.add_edge(leave[b], SINK, unbounded)
            if b.arguments or not all(self._is_cheap(op) for op in b.makers):
                graph.add_edge(SOURCE, entry[b], unbounded)
                continue
            for origin in dict.fromkeys(self.buffer_of[x] for op in b.makers for x in op.operands):
                if origin is not b and not origin.is_given:
                    graph.add_edge(leave[origin], entry[b], unbounded)
        on_sink_side = graph.sink_side(SOURCE, SINK)
        for b in buffers:
            b.is_recomputed = on_sink_side[entry[b]]

    def _is_cheap(self, op: Operation) -> bool:
        iteration = self.iterations.of(op)
        if op_of(op).effect or any(self._is_state(x) for x in op.operands):
            return False
        if self.mode == "auto":
            return iteration.kind == "pointwise" and iteration.cost <= MOST_COST
        if iteration.kind == "staged":
            largest = max(x.tensor.numel for x in op.operands)
            return all(y.tensor.numel >= largest for y in op.results)
        return iteration.kind == "pointwise"

    def _is_state(self, value: Value) -> bool:
        """Whether it is a state of the net: the forward half ends with a new one in its place."""
        return any(arg.attrs.get("cnet.kind") == "state" for arg in self.buffer_of[value].arguments)

    # -- clones --------------------------------------------------------------------------------------------------------
    def _clones_for(self, reader: Operation) -> list[Operation]:
        """Let a backward operation read clones; return those that must be made before it."""
        wanted = [k for k, x in enumerate(reader.operands) if self._is_recomputed(x)]
        if not wanted:
            return []
        sources = [reader.operands[k] for k in wanted]
        now = self.position[reader]
        clones = _Clones()
        if not self._takes_in(reader, self._makers(sources, clones, now)):
            clones = self.shared
        made = []
        for op in self._makers(sources, clones, now):
            made.append(self._clone(op, reader, [clones.get(x, now) or x for x in op.operands]))
            clones.add(op.results, made[-1].results, now)
        for k, x in zip(wanted, sources, strict=True):
            reader.set_operand(k, clones.get(x, now) or x)
        return made

    def _is_recomputed(self, value: Value) -> bool:
        return value in self.buffer_of and self.buffer_of[value].is_recomputed

    def _takes_in(self, reader: Operation, makers: Sequence[Operation]) -> bool:
        """Whether a reader computes what these make inside its own loops, at little cost."""
        if is_view(reader) or any(is_view(op) for op in makers):
            return False
        cost = sum(self.iterations.of(op).cost for op in makers)
        return self.iterations.of(reader).kind in ("pointwise", "reduction") and cost <= MOST_COST

    def _makers(self, values: Sequence[Value], clones: _Clones, now: int) -> list[Operation]:
        """The operations to run again so that there are clones of the values, in order."""
        found: dict[Operation, None] = {}
        pending = list(values)
        while pending:
            value = pending.pop()
            if value.op is None or value.op in found or not self._is_recomputed(value) or clones.get(value, now):
                continue
            found[value.op] = None
            pending += value.op.operands
        return sorted(found, key=self.position.__getitem__)

    def _clone(self, op: Operation, reader: Operation, operands: Sequence[Value]) -> Operation:
        attributes: dict[str, Attr] = {
            **op.attributes,
            "transposes": reader.attributes["transposes"],
            "recomputes": ", ".join(f"%{y.name}" for y in op.results),
        }
        names = [self._name(y) for y in op.results]
        return Operation(op.name, operands, [y.type for y in op.results], attributes, (), op.loc, names)

    def _name(self, value: Value) -> str:
        count = self.counts[value] = self.counts.get(value, 0) + 1
        return f"{value.name}.again" + ("" if count == 1 else f".{count}")


class _Clones:
    """The clones of values; one that was not read for a while is forgotten."""

    def __init__(self) -> None:
        self._found: dict[Value, tuple[Value, int]] = {}  # the clone, and when it was read last

    def get(self, value: Value, now: int) -> Value | None:
        """The clone to read at ``now``."""
        clone, last = self._found.get(value, (None, now))
        if clone is None or now - last > REUSE_DISTANCE:
            return None
        self._found[value] = clone, now
        return clone

    def add(self, values: Sequence[Value], clones: Sequence[Value], now: int) -> None:
        """Remember clones."""
        self._found.update((value, (clone, now)) for value, clone in zip(values, clones, strict=True))


def _buffers(func: FuncOp, forward: Sequence[Operation]) -> dict[Value, _Buffer]:
    """The buffer of each value that the forward half reads or makes."""
    above: dict[Value, Value] = {}

    def root(value: Value) -> Value:
        top = value
        while top in above:
            top = above[top]
        while value is not top:
            above[value], value = top, above[value]
        return top

    values = list(dict.fromkeys([*func.args, *(v for op in forward for v in (*op.operands, *op.results))]))
    for op in forward:
        if is_view(op):
            for value in (*op.operands[1:], *op.results):
                if root(value) is not root(op.operands[0]):
                    above[root(value)] = root(op.operands[0])
    by_root: dict[Value, _Buffer] = {}
    buffer_of = {value: by_root.setdefault(root(value), _Buffer()) for value in values}
    returned = dict.fromkeys(func.ret.operands)
    for value, buffer in buffer_of.items():
        buffer.is_returned = buffer.is_returned or value in returned
        buffer.is_read_back = buffer.is_read_back or any(is_backward(reader) for reader in value.readers)
        if value.op is None:
            buffer.arguments.append(value)
        elif not is_view(value.op):
            # What is made outside of views fills the buffer; views only say where.
            buffer.size_bytes += value.tensor.size_bytes
            if value.op not in buffer.makers:
                buffer.makers.append(value.op)
    return buffer_of
