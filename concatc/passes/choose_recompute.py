"""``choose-recompute``: compute again in the backward pass what is cheap to compute, rather than keep it.

    %s = "cnet.scale"(%x, %w)                        %s = "cnet.scale"(%x, %w)
    %y = "cnet.relu"(%s)                             %y = "cnet.relu"(%s)
    // ---- backward ----                            // ---- backward ----
    %dx = "cnet.conv_input_grad"(%dz, %v)     ->     %dx = "cnet.conv_input_grad"(%dz, %v)
    %ds = "cnet.relu_grad"(%y, %dx)                  %s.again = "cnet.scale"(%x, %w) {recomputes = "%s"}
    %u = "cnet.mul"(%ds, %x)                         %y.again = "cnet.relu"(%s.again) {recomputes = "%y"}
                                                     %ds = "cnet.relu_grad"(%y.again, %dx)
                                                     %u = "cnet.mul"(%ds, %x)

What to keep is a minimum cut between what cannot be recomputed (results of contractions, of large reductions, of
effects) and what the backward pass reads; a node is a buffer, its capacity the buffer's bytes.  So fewer bytes lie
between the halves; where the peak is elsewhere (tiny nets), what is made again may add to it.  Values that views join
(a growing concat and its parts) are one buffer, which is kept or recomputed as a whole: keeping half of it would cost a
copy.  Arguments are there anyway, and so is what the net returns.  Of all cuts of the same bytes the one that
recomputes least is taken.

Contractions that free many bytes for little work are recomputed too, from what is kept (`repeat_contractions.py`):
together at most ``most_percent`` of the step's arithmetic.  With ``parts`` all of them may be, to meet a budget: the
forward half is cut into that many parts (`recompute_parts`); what a later part reads is kept, the rest of all parts but
the last may be computed again, once, when the backward pass comes to the part.

Invariant: values do not change by a bit, the forward half does not change at all, and every clone stands right before
the first backward operation that reads it.  A reader that takes the clones into its own loops (pointwise, sums) gets
clones of its own, others share them.  No `cse` may run afterwards: it would merge clones with originals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from concatc.ir.core import Attr, FuncOp, Module, Operation, Value
from concatc.ir.passes import at_least
from concatc.op import op_of
from concatc.passes.free_of_splits import free_of_splits
from concatc.passes.fusion import is_view
from concatc.passes.graph import is_backward, require_tensors
from concatc.passes.iteration import Iterations
from concatc.passes.minimum_cut import FlowGraph
from concatc.passes.recompute_buffers import Buffer, buffers_of, parts_of
from concatc.passes.repeat_contractions import repeatable_contractions

Mode = Literal["none", "auto", "max"]

# The most that `auto` spends on an element, in units of an addition: normalisation takes 19, tanh 24.
MOST_COST = 48
# The most that is spent on contractions, in hundredths of the arithmetic of a step.
MOST_PERCENT = 5
# A clone that was last read this many operations ago is made anew: keeping it longer would hold its bytes.
REUSE_DISTANCE = 24

SOURCE, SINK = 0, 1


@dataclass(frozen=True)
class ChooseRecompute:
    """Choose what the backward pass recomputes.

    ``mode``: ``none`` nothing; ``auto`` pointwise operations and small windows (pools) of at most ``most_cost``
    additions an element; ``max`` also costly pointwise operations, and those that fold on the way to a result as large
    as what they read (softmax).  Both take in contractions of ``most_percent`` of the step's arithmetic.  ``parts``
    (with ``max``): all contractions instead, within each of that many parts of the forward half.  Large reductions and
    operations with an effect never are.
    """

    mode: Mode = "auto"
    most_cost: int = at_least(0, default=MOST_COST)
    most_percent: int = at_least(0, default=MOST_PERCENT)
    parts: int = at_least(0, default=0)

    name = "choose-recompute"

    def run(self, module: Module) -> None:
        """Rewrite every joint function of the module in place."""
        if self.mode == "none":
            return
        for func in module.functions:
            if func.declared is None and any(is_backward(op) for op in func.ops):
                require_tensors(func, self.name)
                with free_of_splits(func):
                    _Recompute(func, self).run()


def recomputed_work(func: FuncOp) -> int:
    """Arithmetic of everything that the backward half computes again, in additions."""
    iterations = Iterations()
    return sum(iterations.of(op).work for op in func.ops if "recomputes" in op.attributes)


class _Recompute:
    def __init__(self, func: FuncOp, options: ChooseRecompute) -> None:
        self.func = func
        self.options = options
        self.iterations = Iterations()
        self.position = {op: k for k, op in enumerate(func.ops)}
        self.forward = [op for op in func.ops[:-1] if not is_backward(op)]
        self.buffer_of = buffers_of(func, self.forward)
        self.part_of = parts_of(self.forward, self.buffer_of, self.iterations, options.parts)
        self.repeated: dict[Operation, None] = {}  # contractions that may run again without parts
        self.shared = _Clones()
        # Clones of contractions and of what alone reads them, their epilogues: made once, whoever reads them.
        self.costly: dict[Value, Value] = {}
        self.single = {v: None for op in self.forward for v in op.results if len(v.uses) == 1}
        self.counts: dict[Value, int] = {}

    def run(self) -> None:
        """Decide, then rebuild the block with clones in the backward half."""
        self._cut()
        self.repeated = self._repeatable()
        if self.repeated:
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
            if b.arguments or self._crosses_parts(b) or not all(self._may_run_again(op) for op in b.makers):
                graph.add_edge(SOURCE, entry[b], unbounded)
                continue
            for origin in dict.fromkeys(self.buffer_of[x] for op in b.makers for x in op.operands):
                if origin is not b and not origin.is_given:
                    graph.add_edge(leave[origin], entry[b], unbounded)
        on_sink_side = graph.sink_side(SOURCE, SINK)
        for b in buffers:
            b.is_recomputed = on_sink_side[entry[b]]

    def _may_run_again(self, op: Operation) -> bool:
        iteration, options = self.iterations.of(op), self.options
        if op_of(op).effect or any(self._is_state(x) for x in op.operands):
            return False
        if iteration.kind == "contraction":
            # The backward pass begins with the last part: what it holds is needed at once.
            return op in self.repeated or self.part_of.get(op, options.parts) < options.parts - 1
        if iteration.kind == "pointwise":
            return options.mode == "max" or iteration.cost <= options.most_cost
        if iteration.kind == "staged" and options.mode == "max":
            largest = max(x.tensor.numel for x in op.operands)
            return all(y.tensor.numel >= largest for y in op.results)
        return iteration.folds_windows and iteration.work <= options.most_cost * op.results[0].tensor.numel

    def _repeatable(self) -> dict[Operation, None]:
        if self.options.parts:
            return {}
        work = sum(self.iterations.of(op).work for op in self.func.ops[:-1])
        most = work * self.options.most_percent // 100
        return repeatable_contractions(self.forward, self.buffer_of, self.iterations, self._may_run_again, work, most)

    def _crosses_parts(self, buffer: Buffer) -> bool:
        """Whether a later part reads what an earlier one makes."""
        if not self.options.parts or not buffer.makers:
            return False
        readers = (r for v in buffer.values for r in v.readers)
        makers = [self.part_of[op] for op in buffer.makers]
        return max(makers) > makers[0] or any(self.part_of[r] > makers[0] for r in readers if r in self.part_of)

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
            made.append(self._clone(op, reader, [self._clone_of(x, clones, now) or x for x in op.operands]))
            if self._is_contraction(op) or any(x in self.costly and x in self.single for x in op.operands):
                self.costly.update(zip(op.results, made[-1].results, strict=True))
            clones.add(op.results, made[-1].results, now)
        for k, x in zip(wanted, sources, strict=True):
            reader.set_operand(k, self._clone_of(x, clones, now) or x)
        return made

    def _clone_of(self, value: Value, clones: _Clones, now: int) -> Value | None:
        return self.costly.get(value) or clones.get(value, now)

    def _is_contraction(self, op: Operation) -> bool:
        return self.iterations.of(op).kind == "contraction"

    def _is_recomputed(self, value: Value) -> bool:
        return value in self.buffer_of and self.buffer_of[value].is_recomputed

    def _takes_in(self, reader: Operation, makers: Sequence[Operation]) -> bool:
        """Whether a reader computes what these make inside its own loops, at little cost."""
        if is_view(reader) or any(is_view(op) or self.iterations.of(op).kind != "pointwise" for op in makers):
            return False
        cost = sum(self.iterations.of(op).cost for op in makers)
        return self.iterations.of(reader).kind in ("pointwise", "reduction") and cost <= MOST_COST

    def _makers(self, values: Sequence[Value], clones: _Clones, now: int) -> list[Operation]:
        """The operations to run again so that there are clones of the values, in order."""
        found: dict[Operation, None] = {}
        pending = list(values)
        while pending:
            value = pending.pop()
            if value.op is None or value.op in found or not self._is_recomputed(value):
                continue
            if self._clone_of(value, clones, now) is not None:
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
