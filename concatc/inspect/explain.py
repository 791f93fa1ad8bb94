"""Where the gradient of a blob or parameter comes from: every contribution, from its loss, by its path.

    gradient of ha: tensor<64x128xf32>, made by relu at thread.cnet:6:10
    one contribution: %ha.grad

    from loss main, weight 1.0
      %logits.grad    softmax_loss_grad    through softmax_loss %main            thread.cnet:10:10
      %h.grad         linear               through linear %logits                thread.cnet:9:10
      %ha.grad        slice                rows 0..64 of %h.grad                 thread.cnet:8:9

Where paths meet, the gradient is a sum (or is joined of parts); where they part, it is handed on to several.  Such a
gradient is named where it is used, ``from %h.grad``, and has a section of its own.  So every step stands once.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.inspect.gradient_graph import GradientGraph, Step, part, place
from concatc.ir.core import Module, Operation, Value
from concatc.op import is_op
from concatc.passes.graph import short_name


@dataclass(frozen=True)
class Row:
    """One step: the gradient that it makes, the operation that makes it, what it is a part of or comes through."""

    gradient: str
    maker: str
    how: str
    where: str


@dataclass(frozen=True)
class Leg:
    """Contributions of one call, and how they follow from ``source``: a loss, or a gradient with a section of its own.

    ``rows`` begin at the source.
    """

    contributions: tuple[str, ...]
    reader: str
    source: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Gradient:
    """A gradient and the legs that contribute to it, in the order in which they are added.

    It is joined of parts, not added, where ``joined`` says so: the transpose of slice.
    """

    name: str
    joined: bool
    legs: tuple[Leg, ...]

    @property
    def how(self) -> str:
        """`` adds 3 contributions``; nothing where it is handed on to several."""
        count = sum(len(leg.contributions) for leg in self.legs)
        if len(self.legs) == 1:
            return ""
        return f" {'is joined of' if self.joined else 'adds'} {count} contributions"


@dataclass(frozen=True)
class Explanation:
    """The gradient that was asked for, then those on the way to the losses; ``ends`` are the losses."""

    title: str
    note: str
    ends: tuple[str, ...]
    path_count: int
    gradients: tuple[Gradient, ...]

    def text(self, most_lines: int | None = None) -> str:
        """For people; beyond ``most_lines`` it ends in how many lines are left out."""
        lines = self._lines()
        if most_lines is None or len(lines) <= most_lines:
            return "\n".join(lines)
        left = len(lines) - most_lines
        return "\n".join([*lines[:most_lines], f".. {left} more lines; --all shows them"])

    def _lines(self) -> list[str]:
        if self.note:
            return [self.title, self.note]
        asked, *others = self.gradients
        lines = [self.title, *_summary(asked)]
        if others:
            lines.append(f"{self.path_count:,} paths lead to it, from {' and from '.join(self.ends)}")
        rows = [row for gradient in self.gradients for leg in gradient.legs for row in leg.rows]
        widths = [max((len(cell) for cell in column), default=0) for column in zip(*map(_cells, rows), strict=True)]
        first = 1
        for leg in asked.legs:
            numbers = ", ".join(str(first + k) for k in range(len(leg.contributions)))
            first += len(leg.contributions)
            lead = f"{numbers}. " if len(asked.legs) > 1 else ""
            lines += ["", f"{lead}from {leg.source}", *("  " + _row(row, widths) for row in leg.rows)]
        for gradient in others:
            lines += ["", f"{gradient.name}{gradient.how}"]
            for leg in gradient.legs:
                lines += [f"  from {leg.source}", *("    " + _row(row, widths) for row in leg.rows)]
        return lines


def explain(joint: Module, split: Module, name: str) -> Explanation:
    """What is added up to the gradient of a blob, parameter or input.

    ``split`` is the net's split graph; ``joint`` says which gradients are asked for.  Raises :class:`UsageError` for a
    name that the net does not have.
    """
    graph = GradientGraph(joint.main, split)
    value = graph.find(name)
    title = f"gradient of {name}: {value.type}{_made_by(value)}"
    if value.op is None and value.attrs.get("cnet.kind") == "input" and value.tensor.is_float:
        title += "; inputs get a gradient where it is asked for"
    if not value.tensor.is_float:
        return Explanation(title, "integers have no gradient", (), 0, ())
    if value.op is not None and is_op(value.op, "total_loss"):
        return Explanation(title, "it is the weighted total of the losses: its gradient is 1", (), 0, ())
    if not graph.readers(value):
        return Explanation(title, "no loss depends on it: its gradient is 0", (), 0, ())
    ways = _Ways(graph, value)
    return Explanation(title, "", tuple(ways.ends), ways.counts[value], tuple(ways.gradients.values()))


class _Ways:
    """The gradients at which paths meet, from a value to the losses, and the legs between them."""

    def __init__(self, graph: GradientGraph, asked: Value) -> None:
        self.graph = graph
        self.ends: dict[str, None] = {}
        self._met = self._meetings(asked)
        self._following: dict[Value, list[Value | None]] = {}  # where the legs of a gradient come from
        found: dict[Value, Gradient] = {}
        waiting = [asked]
        while waiting:
            value = waiting.pop()
            if value in found:
                continue
            found[value] = self._gradient(value)
            waiting += [source for source in self._following[value] if source is not None]
        _, *others = found
        others.sort(key=self._position)
        self.gradients = {value: found[value] for value in (asked, *others)}
        self.counts: dict[Value, int] = {}
        for value in (*reversed(others), asked):
            self.counts[value] = sum(1 if s is None else self.counts[s] for s in self._following[value])

    def _meetings(self, asked: Value) -> dict[Value, None]:
        """The values whose gradients have a section: several contribute to it, or it is handed on to several."""
        readers: dict[Value, int] = {asked: 0}
        waiting = [asked]
        while waiting:
            for step in self.graph.steps(waiting.pop()):
                if step.result is not None and step.result not in readers:
                    waiting.append(step.result)
                if step.result is not None:
                    readers[step.result] = readers.get(step.result, 0) + 1
        return {v: None for v, n in readers.items() if len(self.graph.steps(v)) > 1 or (n > 1 and not self._is_near(v))}

    def _is_near(self, value: Value) -> bool:
        """Whether it is one step from a loss: that is said sooner than referred to."""
        (step,) = self.graph.steps(value)
        return step.result is None or [s.result for s in self.graph.steps(step.result)] == [None]

    def _position(self, value: Value) -> int:
        return -1 if value.op is None else self.graph.position[value.op]

    def _gradient(self, value: Value) -> Gradient:
        self._following[value] = []
        steps = self.graph.steps(value)
        legs = tuple(self._leg(value, step) for step in steps)
        joined = len(steps) > 1 and all(is_op(step.ops[0], "slice") for step in steps)
        return Gradient(self.graph.gradient_of(value), joined, legs)

    def _leg(self, value: Value, step: Step) -> Leg:
        uses = step.uses
        contributions = tuple(dict.fromkeys(self.graph.gradient(use) for use in uses))
        readers = ", ".join(dict.fromkeys(_reader(use.op) for use in uses))
        rows: list[Row] = []
        source, end = value, ""
        while not end and (source is value or source not in self._met):
            step = step if source is value else self.graph.steps(source)[0]
            if step.result is None:
                end = self.graph.ends[source]
                continue
            source = step.result
            rows.append(self._row(step))
        self._following[value].append(None if end else source)
        if end:
            self.ends[end] = None
        if not rows:
            is_loss = step.ops[0] is not self.graph.func.ret
            maker, how = ("total_loss_grad", "the weight of the loss") if is_loss else ("", "as it is given")
            rows = [Row(contributions[0], maker, how, "")]
        return Leg(contributions, readers, end or self.graph.gradient_of(source), tuple(reversed(rows)))

    def _row(self, step: Step) -> Row:
        """How the gradient of what the step reads follows from that of what it makes."""
        graph, first = self.graph, step.uses[0]
        assert step.result is not None
        whole = graph.gradient_of(step.result)
        gradients = list(dict.fromkeys(graph.gradient(use) for use in step.uses))
        # Where the gradient is handed on as it is, nothing makes it anew.
        maker = graph.maker_of(gradients[0]) if len(gradients) == 1 and gradients != [whole] else ""
        ops = ", ".join(dict.fromkeys(map(short_name, step.ops)))
        parts = [text for use in step.uses if (text := part(use, step.result, whole)) is not None]
        how = " and ".join(parts) or f"through {ops} %{step.result.name}"
        terms = graph.order_of_sum(step.result)
        if len(graph.steps(step.result)) == 1 and terms:
            how += f"; {whole} adds {len(terms)} contributions"
        return Row(", ".join(gradients), maker, how, place(first.op.loc))


def _summary(asked: Gradient) -> list[str]:
    contributions = [(name, leg.reader) for leg in asked.legs for name in leg.contributions]
    if len(contributions) == 1:
        return [f"one contribution: {contributions[0][0]}"]
    verb = "joined" if asked.joined else "added in this order by accumulate"
    listed = [f"  {k}. {name}, from {reader}" for k, (name, reader) in enumerate(contributions, 1)]
    return [f"{len(contributions)} contributions, {verb}:", *listed]


def _reader(op: Operation) -> str:
    where = f" at {place(op.loc)}" if op.loc is not None else ""
    return f"{short_name(op)} {', '.join('%' + r.name for r in op.results)}{where}"


def _made_by(value: Value) -> str:
    if value.op is None:
        kind = str(value.attrs.get("cnet.kind", "argument"))
        return f", {'parameter' if kind == 'param' else kind}"
    return f", made by {short_name(value.op)}" + (f" at {value.op.loc}" if value.op.loc is not None else "")


def _cells(row: Row) -> tuple[str, str, str]:
    return row.gradient, row.maker, row.how


def _row(row: Row, widths: list[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(_cells(row), widths, strict=True)]
    return "  ".join([*cells, row.where]).rstrip()
