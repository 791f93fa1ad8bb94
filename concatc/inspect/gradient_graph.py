"""The ways of gradients, read off the split graph: from a blob to the losses, calls of the source as single steps.

    x = conv(h) |> batch_norm                  %h --conv--> %x.conv --channel_stats, normalize, scale, bias--> %x

Operations of one call (batch_norm is several) are one step.  A gradient to which several steps contribute stands once,
however many paths lead through it: a densely connected net has exponentially many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from concatc.diagnostics import Diagnostic, Loc, UsageError, did_you_mean
from concatc.ir.clone import clone_module
from concatc.ir.core import FuncOp, Module, Operation, Use, Value
from concatc.loss_weights import weight_of
from concatc.op import is_op
from concatc.passes.derive_backward import DeriveBackward, depends_on
from concatc.passes.graph import OUTPUT_GRAD, describe, short_name, split_source

NOT_COMPUTED = "(not computed)"


@dataclass
class Step:
    """One call of the source: the uses with which it reads a value, its operations, and what it makes of it.

    ``result`` is None where a loss ends the way.
    """

    uses: list[Use]
    ops: list[Operation]
    result: Value | None


class GradientGraph:
    """The split graph of a net, and the names of the gradients in the backward pass that is derived from it."""

    def __init__(self, joint: FuncOp, module: Module) -> None:
        split = module.main
        # The backward pass is derived anew: the joint graph at hand may have been simplified before.
        derived = clone_module(module)
        asked = [str(a["cnet.name"]) for a in joint.result_attrs if a["cnet.kind"] == "input_grad"]
        trained = [str(a["cnet.name"]) for a in joint.result_attrs if a["cnet.kind"] == "grad"]
        frozen = [name for name in split.arguments("param") if name not in trained]
        given = list(joint.arguments(OUTPUT_GRAD))
        DeriveBackward(tuple(given), tuple(asked), tuple(frozen)).run(derived)
        joint = derived.main
        self.func = split
        self.position = {op: k for k, op in enumerate(split.ops)}
        self.makers = {r.name: op for op in joint.ops for r in op.results if "transposes" in op.attributes}
        self.needed = depends_on(split, _with_gradient(joint, split))
        self.ends: dict[Value, str] = {}  # what gives a value that is a loss, or such an output, its gradient
        self._given = [a.get("cnet.kind") == "output" and a["cnet.name"] in given for a in split.result_attrs]
        for attrs, value in zip(split.result_attrs, split.ret.operands, strict=True):
            if attrs.get("cnet.kind") == "loss":
                self.ends[split_source(value)] = f"loss {attrs['cnet.name']}, weight {weight_of(attrs)}"
        for is_given, attrs, value in zip(self._given, split.result_attrs, split.ret.operands, strict=True):
            if is_given:
                self.ends.setdefault(split_source(value), f"the gradient of output {attrs['cnet.name']} that is given")
        self._leads_on: dict[Operation, bool] = {}
        self._steps: dict[Value, list[Step]] = {}

    def find(self, name: str) -> Value:
        """The blob, parameter or input of that name."""
        known: dict[str, Value] = {}
        for attrs, value in zip(self.func.result_attrs, self.func.ret.operands, strict=True):
            if attrs.get("cnet.kind") in ("output", "kept", "loss"):
                known[str(attrs["cnet.name"])] = split_source(value)
        for op in self.func.ops:
            if not is_op(op, "split"):
                known.update((r.name, r) for r in op.results if r.name)
        known.update((str(arg.attrs.get("cnet.name", arg.name)), arg) for arg in self.func.args)
        if name not in known:
            raise UsageError(Diagnostic(f"the net has no blob or parameter `{name}`", help=_hint(name, list(known))))
        return known[name]

    def readers(self, value: Value) -> list[Use]:
        """Who reads a value, through its splits, on the way to a loss, in order of the source."""
        return [use for use in self._readers(value) if self._reaches(use)]

    def _readers(self, value: Value) -> list[Use]:
        found: list[Use] = []
        for use in value.uses:
            if is_op(use.op, "split"):
                found += [inner for result in use.op.results for inner in self._readers(result)]
            else:
                found.append(use)
        return sorted(found, key=lambda use: (self.position[use.op], use.index))

    def _reaches(self, use: Use) -> bool:
        """Whether the value read by ``use`` reaches the total loss, or an output whose gradient is given."""
        if is_op(use.op, "total_loss"):
            return use.index < len(use.op.operands) - 1
        if use.op is self.func.ret:
            return use.index < len(self._given) and self._given[use.index]
        if use.op not in self._leads_on:
            self._mark_from(use.op)
        return self._leads_on[use.op]

    def _mark_from(self, start: Operation) -> None:
        """Decide for ``start`` and all that depends on it, last operation first (nets are deeper than stacks)."""
        for op in reversed(self.func.ops[self.position[start] :]):
            if op in self._leads_on or is_op(op, "split", "total_loss") or op is self.func.ret:
                continue
            uses = (use for result in op.results if result.tensor.is_float for use in self._readers(result))
            self._leads_on[op] = any(self._reaches(use) for use in uses)

    def steps(self, value: Value) -> list[Step]:
        """The calls that read a value on the way to a loss; one that makes several results of it is several steps."""
        if value in self._steps:
            return self._steps[value]
        found: dict[tuple[object, Value | None], Step] = {}
        for use in self.readers(value):
            for result, ops in self._through(use):
                # Batch norm reads its input twice for one purpose; concat(a, a) makes two parts of a.
                reader = _call(use.op) if len(ops) > 1 else use
                step = found.setdefault((reader, result), Step([], [], result))
                step.uses.append(use)
                step.ops += [op for op in ops if op not in step.ops]
        self._steps[value] = sorted(found.values(), key=lambda step: self._rank(value, step))
        return self._steps[value]

    def _rank(self, value: Value, step: Step) -> tuple[int, int]:
        """The place of a step in the sum: the last reader's is made first, unless an accumulate says otherwise."""
        order = self.order_of_sum(value)
        return min(order.get(self.gradient(use), len(order)) for use in step.uses), -self.position[step.uses[0].op]

    def _through(self, use: Use) -> Iterator[tuple[Value | None, list[Operation]]]:
        """What the call of ``use`` makes that others read, and its operations."""
        if is_op(use.op, "total_loss") or use.op is self.func.ret:
            yield None, [use.op]
            return
        results: dict[Value, None] = {}
        inside = [use.op]
        for op in inside:  # grows
            for result in op.results:
                for after in self.readers(result):
                    if _call(after.op) != _call(use.op):
                        results[result] = None
                    elif after.op not in inside:
                        inside.append(after.op)
        inside.sort(key=self.position.__getitem__)
        for result in results:
            yield result, inside

    def gradient(self, use: Use) -> str:
        """The name of what ``use`` contributes to the gradient of the value that it reads."""
        value = use.op.operands[use.index]
        if value not in self.needed:
            return NOT_COMPUTED
        for name in (f"{value.name}.grad", f"{split_source(value).name}.grad"):
            maker = self.makers.get(name)
            if maker is not None and maker.attributes["transposes"] == describe(use.op):
                return f"%{name}"
        # Where no operation makes it, the reader hands on the gradient of its result (add, the data of bias).
        return self.gradient_of(use.op.results[0]) if use.op.results else f"%{split_source(value).name}.grad"

    def gradient_of(self, value: Value) -> str:
        """The name of the gradient of a value; of what it equals where no operation makes it."""
        if f"{value.name}.grad" in self.makers:
            return f"%{value.name}.grad"
        uses = self.readers(value)
        return self.gradient(uses[0]) if len(uses) == 1 else NOT_COMPUTED

    def order_of_sum(self, value: Value) -> dict[str, int]:
        """The contributions to the gradient of a value by name, with their place in the sum; empty without a sum."""
        maker = self.makers.get(f"{value.name}.grad")
        if maker is None or not is_op(maker, "accumulate"):
            return {}
        return {f"%{split_source(v).name}": k for k, v in enumerate(maker.operands)}

    def maker_of(self, gradient: str) -> str:
        """The operation that makes a gradient; empty where none does."""
        maker = self.makers.get(gradient.removeprefix("%"))
        return "" if maker is None else short_name(maker)


def part(use: Use, result: Value, whole: str) -> str | None:
    """``rows 0..64 of %h.grad``: where concat and slice put what ``use`` reads."""
    axis = use.op.attributes.get("axis")
    if not isinstance(axis, int) or not is_op(use.op, "concat", "slice"):
        return None
    members = use.op.operands if is_op(use.op, "concat") else use.op.results
    index = use.index if is_op(use.op, "concat") else result.index
    start = sum(v.shape[axis] for v in members[:index])
    span = _span(axis, members[index], start)
    if is_op(use.op, "concat"):
        return f"{span} of {whole}"
    return f"{whole} is {span} of it"


def _span(axis: int, part: Value, start: int) -> str:
    stop = start + part.shape[axis]
    if axis == 0:
        return f"rows {start}..{stop}"
    if axis == 1 and part.tensor.rank in (4, 5):
        return f"channels {start}..{stop}"
    if axis == 1 and part.tensor.rank == 2:
        return f"columns {start}..{stop}"
    return f"{start}..{stop} along axis {axis}"


def place(loc: Loc | None) -> str:
    """``thread.cnet:9:10``."""
    return "" if loc is None else f"{PurePath(loc.file).name}:{loc.line}:{loc.column}"


def _call(op: Operation) -> object:
    """What the operations of one call of the source have in common: their place, and the name of what it makes."""
    if op.loc is None or not op.results:
        return op
    name, dot, last = op.results[0].name.rpartition(".")
    if dot and last.isdecimal():
        name, dot, last = name.rpartition(".")
    helper = dot and last == short_name(op)
    return (op.loc, name if helper else op.results[0].name)


def _hint(name: str, known: list[str]) -> str:
    """The nearest name; of names that share their last part with ``name``, a few."""
    near = did_you_mean(name, known)
    if near is not None:
        return near
    last = name.rpartition(".")[2]
    alike = [other for other in known if last in other.split(".")] or [other for other in known if "." not in other]
    shown = ", ".join(f"`{other}`" for other in alike[:8])
    return f"there are {shown}" + (" and others" if len(known) > len(alike[:8]) else "")


def _with_gradient(joint: FuncOp, split: FuncOp) -> list[Value]:
    """The arguments and kept blobs of the split graph whose gradient the joint graph returns."""
    returned = {(attrs["cnet.kind"], attrs["cnet.name"]) for attrs in joint.result_attrs}
    found = [
        value
        for kind, gradient in (("param", "grad"), ("input", "input_grad"))
        for name, value in split.arguments(kind).items()
        if (gradient, name) in returned
    ]
    return found + [split_source(v) for name, v in split.returned("kept").items() if ("kept_grad", name) in returned]
