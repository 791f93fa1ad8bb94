"""What passes that move operations through concats of rows (axis 0) ask: which operations map rows one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import TensorType
from concatc.op import DIALECT, Builder, Op, axis_maps, is_op, load_all_ops_once
from concatc.passes.graph import short_name

JOINED = "cnet.joined"  # on a net's function: what was joined and what was not, lines for people

Maker = Callable[[Value], Operation | None]


@dataclass(frozen=True)
class SameRows:
    """The makers of a concat's operands: one operation, called on other rows; ``parts`` are their operands ``at``.

    The concat reads their results ``index``, and nothing reads others (where maxima lie, of `max_pool`).
    """

    makers: tuple[Operation, ...]
    at: int
    index: int

    @property
    def first(self) -> Operation:
        """The maker of the first operand."""
        return self.makers[0]

    @property
    def parts(self) -> tuple[Value, ...]:
        """What differs from call to call."""
        return tuple(maker.operands[self.at] for maker in self.makers)

    @property
    def results(self) -> tuple[Value, ...]:
        """What the concat reads."""
        return tuple(maker.results[self.index] for maker in self.makers)

    def emit(self, joined: Value, b: Builder, name: str) -> Value:
        """The same operation on joined rows; returns what stands for the concat."""
        operands = [joined if k == self.at else v for k, v in enumerate(self.first.operands)]
        names = [name if k == self.index else "" for k in range(len(self.first.results))]
        return b.emit(rule_of(self.first), operands, names)[self.index]

    @property
    def shares(self) -> bool:
        """Whether all calls read something together, such as a weight."""
        return len(self.first.operands) > 1


@dataclass(frozen=True)
class Apart:
    """Why operations cannot become one; ``alike`` is the first of them, where they do the same on other rows."""

    reason: str
    alike: Operation | None = None


def row_operand(op: Operation) -> int | None:
    """The operand whose rows (axis 0) the operation maps one by one to those of its results; the others, if any, are
    shared by all rows."""
    if (
        not is_known(op)
        or not op.results
        or not op.operands
        or any(not isinstance(v.type, TensorType) for v in op.operands)
    ):
        return None
    for axes in axis_maps(rule_of(op), tuple(v.tensor for v in op.operands)):
        joined = [k for k, axis in enumerate(axes.operands) if axis is not None]
        if not any(axes.results) and len(joined) == 1 and axes.operands[joined[0]] == 0:
            return joined[0]
    return None


def rule_of(op: Operation) -> Op:
    """The typed op, of any file of ``concatc/ops``."""
    return load_all_ops_once()[short_name(op)].from_attrs(op.attributes)


def is_known(op: Operation) -> bool:
    """Whether the operation is an op of ``concatc/ops``: a kernel is none."""
    return op.name.startswith(DIALECT) and short_name(op) in load_all_ops_once()


def same_rows(values: tuple[Value, ...], maker_of: Maker) -> SameRows | Apart:
    """The makers of ``values``, if one operation on their joined rows can take their place."""
    makers = [maker_of(value) for value in values]
    first = makers[0]
    if first is None or len(values) < 2 or any(maker is None or maker.name != first.name for maker in makers):
        return Apart("they are not made alike")
    found = [maker for maker in makers if maker is not None]
    at = None if is_op(first, "concat", "slice", "split") else row_operand(first)
    if at is None or rule_of(first).effect:
        return Apart("rows are not mapped one by one")
    for value, maker in zip(values, found, strict=True):
        if rule_of(maker) != rule_of(first):
            return Apart(f"attributes of {short_name(first)} differ")
        others, wanted = ([v for k, v in enumerate(op.operands) if k != at] for op in (maker, first))
        if others != wanted or row_operand(maker) != at:
            return Apart(f"operands besides the rows differ, as at {short_name(maker)} %{value.name}")
    for value in values:
        if len(value.uses) > 1:
            return Apart(f"%{value.name} is read elsewhere too", first)
    index = first.results.index(values[0])
    for value, maker in zip(values, found, strict=True):
        if any(
            (k == index) != (result is value) or (k != index and result.uses) for k, result in enumerate(maker.results)
        ):
            return Apart(f"another result of {short_name(maker)} %{value.name} is read too", first)
    return SameRows(tuple(found), at, index)


def joined_name(values: tuple[Value, ...]) -> str:
    """A name for the joined rows of values."""
    first = values[0].name
    return first.removesuffix(".part0") if first.endswith(".part0") else f"{first}.joined"


def say(func: FuncOp, lines: Iterable[str]) -> None:
    """Let the function say what was joined and what was not, each line once."""
    known = func.attributes.get(JOINED, ())
    assert isinstance(known, tuple)
    told = tuple(dict.fromkeys((*known, *lines)))
    if told:
        func.attributes[JOINED] = told
