"""Where the gradient of a blob or parameter comes from: every contribution, from its loss, by its path.

    gradient of ha: tensor<64x128xf32>, made by relu at thread.cnet:6:10
    one contribution: %ha.grad

    from loss main, weight 1.0
      %logits.grad    softmax_loss_grad    through softmax_loss %main            thread.cnet:10:10
      %h.grad         linear               through linear %logits                thread.cnet:9:10
      %ha.grad        slice                rows 0..64 of %h.grad                 thread.cnet:8:9

Paths are read off the split graph, from the blob to the losses; what computes each gradient off the backward pass that
is derived from it.  The joint graph of the net says which gradients are asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.clone import clone_module
from concatc.ir.core import FuncOp, Module, Operation, Use, Value
from concatc.op import is_op
from concatc.passes.derive_backward import DeriveBackward, depends_on
from concatc.passes.graph import describe, short_name, split_source

# A blob of a densely connected net is on exponentially many paths; so many are shown for each contribution.
MAX_PATHS = 8
NOT_COMPUTED = "(not computed)"


@dataclass(frozen=True)
class Row:
    """One step of a path: the gradient, the operation that makes it, and what it is a part or a sum of."""

    gradient: str
    maker: str
    how: str
    where: str


@dataclass(frozen=True)
class Path:
    """How one loss reaches one contribution; the loss's own gradient first."""

    loss: str
    weight: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Contribution:
    """What one reader of the blob adds to its gradient: at most :data:`MAX_PATHS` of its paths, and their number."""

    gradient: str
    reader: str
    paths: tuple[Path, ...]
    path_count: int


def explain(joint: Module, split: Module, name: str) -> str:
    """The text of :func:`contributions`.  Raises :class:`UsageError` for a name that the net does not have."""
    graph = _Graph(joint.main, split)
    value = graph.find(name)
    found = contributions(joint, split, name)
    lines = [f"gradient of {name}: {value.type}{_made_by(value)}"]
    if value.op is None and value.attrs.get("cnet.kind") == "input" and value.tensor.is_float:
        lines[0] += "; inputs get a gradient where it is asked for"
    if not value.tensor.is_float:
        return "\n".join([*lines, "integers have no gradient"])
    if not found:
        return "\n".join([*lines, "no loss depends on it: its gradient is 0"])
    if len(found) == 1:
        lines.append(f"one contribution: {found[0].gradient}")
    else:
        lines.append(f"{len(found)} contributions, added in this order by accumulate:")
        lines += [f"  {k}. {c.gradient}, from {c.reader}" for k, c in enumerate(found, 1)]
    widths = [max(len(cell) for cell in column) for column in zip(*_cells(found), strict=True)]
    for k, contribution in enumerate(found, 1):
        number = f"{k}. " if len(found) > 1 else ""
        for path in contribution.paths:
            lines += ["", f"{number}from loss {path.loss}, weight {path.weight}"]
            lines += ["  " + _row(row, widths) for row in path.rows]
        more = contribution.path_count - len(contribution.paths)
        if more > 0:
            lines += ["", f"{number}and {more} more paths"]
    return "\n".join(lines)


def contributions(joint: Module, split: Module, name: str) -> list[Contribution]:
    """What is added up to the gradient of a blob, parameter or input, in the order in which it is added."""
    graph = _Graph(joint.main, split)
    value = graph.find(name)
    if not value.tensor.is_float:
        return []
    found = [graph.contribution(use) for use in graph.readers(value) if graph.path_count(use) > 0]
    order = graph.order_of_sum(value)
    # The last reader's contribution is made first, unless the joint graph says otherwise.
    ranked = sorted(enumerate(found), key=lambda pair: (order.get(pair[1].gradient, len(order)), -pair[0]))
    return [contribution for _, contribution in ranked]


class _Graph:
    """The split graph, walked from a blob to the losses."""

    def __init__(self, joint: FuncOp, module: Module) -> None:
        split = module.main
        # The backward pass is derived anew: the joint graph at hand may have been simplified before.
        derived = clone_module(module)
        asked = [str(a["cnet.name"]) for a in joint.result_attrs if a["cnet.kind"] == "input_grad"]
        trained = [str(a["cnet.name"]) for a in joint.result_attrs if a["cnet.kind"] == "grad"]
        frozen = [name for name in split.arguments("param") if name not in trained]
        DeriveBackward(input_grads=tuple(asked), freeze=tuple(frozen)).run(derived)
        joint = derived.main
        self.func = split
        self.position = {op: k for k, op in enumerate(split.ops)}
        self.makers = {r.name: op for op in joint.ops for r in op.results if "transposes" in op.attributes}
        self.needed = depends_on(split, _with_gradient(joint, split))
        self.losses: dict[Value, tuple[str, float]] = {}
        for attrs, value in zip(split.result_attrs, split.ret.operands, strict=True):
            if attrs.get("cnet.kind") == "loss":
                weight = attrs.get("cnet.weight", 1.0)
                assert isinstance(weight, float)
                self.losses[split_source(value)] = (str(attrs["cnet.name"]), weight)
        self._counts: dict[Operation, int] = {}

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
            raise UsageError(Diagnostic(f"the net has no blob or parameter `{name}`", help=did_you_mean(name, known)))
        return known[name]

    def readers(self, value: Value) -> list[Use]:
        """Who reads a value, through its splits, in order of the source."""
        found: list[Use] = []
        for use in value.uses:
            if is_op(use.op, "split"):
                found += [inner for result in use.op.results for inner in self.readers(result)]
            else:
                found.append(use)
        return sorted(found, key=lambda use: (self.position[use.op], use.index))

    def path_count(self, use: Use) -> int:
        """In how many ways the value read by ``use`` reaches the total loss."""
        if is_op(use.op, "total_loss"):
            return int(use.index < len(use.op.operands) - 1)
        if use.op not in self._counts:
            self._count_from(use.op)
        return self._counts[use.op]

    def _count_from(self, start: Operation) -> None:
        """Count paths for ``start`` and all that depends on it, last operation first (nets are deeper than stacks)."""
        for op in reversed(self.func.ops[self.position[start] :]):
            if op in self._counts or is_op(op, "split", "total_loss"):
                continue
            uses = (use for result in op.results if result.tensor.is_float for use in self.readers(result))
            self._counts[op] = sum(self.path_count(use) for use in uses)

    def contribution(self, use: Use) -> Contribution:
        paths = itertools.islice(self._paths(use), MAX_PATHS)
        reader = f"{short_name(use.op)} {', '.join('%' + r.name for r in use.op.results)}{_at(use.op)}"
        return Contribution(self.gradient(use), reader, tuple(map(self._path, paths)), self.path_count(use))

    def _paths(self, start: Use) -> Iterator[list[Use]]:
        """The paths from ``start`` to a loss, as the uses along them."""
        path, open_ends = [start], [self._after(start)]
        while path:
            if is_op(path[-1].op, "total_loss"):
                yield list(path)
            following = next(open_ends[-1], None)
            if following is None:
                path.pop()
                open_ends.pop()
                continue
            path.append(following)
            open_ends.append(self._after(following))

    def _after(self, use: Use) -> Iterator[Use]:
        """Who reads what the operation of ``use`` makes, on the way to a loss."""
        if is_op(use.op, "total_loss"):
            return iter(())
        return (after for result in use.op.results for after in self.readers(result) if self.path_count(after))

    def _path(self, uses: list[Use]) -> Path:
        *steps, last = uses
        name, weight = self.losses[split_source(last.op.operands[last.index])]
        rows = [self._row(use, after) for use, after in zip(steps, uses[1:], strict=True)]
        if not rows:
            rows = [Row(self.gradient(last), "total_loss_grad", "the weight of the loss", "")]
        return Path(name, weight, tuple(reversed(rows)))

    def _row(self, use: Use, after: Use) -> Row:
        """How the gradient of what ``use`` reads follows from that of what ``after`` reads."""
        result = split_source(after.op.operands[after.index])
        whole = self.gradient_of(result)
        gradient = self.gradient(use)
        # Where the gradient is handed on as it is, nothing makes it anew.
        maker = self.makers.get(gradient.removeprefix("%")) if gradient != self.gradient(after) else None
        how = _part(use, result, whole) or f"through {short_name(use.op)} %{result.name}"
        terms = self.order_of_sum(result)
        if self.gradient(after) in terms:
            how += f"; {whole} adds {len(terms)} contributions"
        return Row(gradient, short_name(maker) if maker is not None else "", how, _at(use.op).strip())

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
        return self.gradient_of(use.op.results[0])

    def gradient_of(self, value: Value) -> str:
        """The name of the gradient of a value; of what it equals where no operation makes it."""
        if f"{value.name}.grad" in self.makers:
            return f"%{value.name}.grad"
        uses = [use for use in self.readers(value) if self.path_count(use)]
        return self.gradient(uses[0]) if len(uses) == 1 else NOT_COMPUTED

    def order_of_sum(self, value: Value) -> dict[str, int]:
        """The contributions to the gradient of a value by name, with their place in the sum; empty without a sum."""
        maker = self.makers.get(f"{value.name}.grad")
        if maker is None or not is_op(maker, "accumulate"):
            return {}
        return {f"%{split_source(v).name}": k for k, v in enumerate(maker.operands)}


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


def _part(use: Use, result: Value, whole: str) -> str | None:
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


def _made_by(value: Value) -> str:
    if value.op is None:
        kind = str(value.attrs.get("cnet.kind", "argument"))
        return f", {'parameter' if kind == 'param' else kind}"
    return f", made by {short_name(value.op)}{_at(value.op)}"


def _at(op: Operation) -> str:
    return f" at {op.loc}" if op.loc is not None else ""


def _cells(found: list[Contribution]) -> Iterator[tuple[str, str, str]]:
    for row in (row for contribution in found for path in contribution.paths for row in path.rows):
        yield row.gradient, row.maker, row.how


def _row(row: Row, widths: list[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip((row.gradient, row.maker, row.how), widths, strict=True)]
    return "  ".join([*cells, row.where.removeprefix("at ")]).rstrip()
