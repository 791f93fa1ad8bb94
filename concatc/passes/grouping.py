"""A partition of a block's operations into groups that never form a cycle: what `fuse` merges in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from concatc.ir.core import Operation, Value


@dataclass(eq=False)
class Group:
    """Operations that will become one kernel, in order of the block."""

    ops: list[Operation]
    position: int
    merged: bool = False  # into another group
    producers: dict[Group, None] = field(default_factory=dict)
    consumers: dict[Group, None] = field(default_factory=dict)


class Partition:
    """Groups of operations in a topological order, which stays one when groups are merged.

    ``order`` runs from producers to consumers.  Merging ``a`` and ``b`` moves only groups that stand between them.
    """

    def __init__(self, ops: Sequence[Operation]) -> None:
        self.index = {op: k for k, op in enumerate(ops)}
        self.group_of = {op: Group([op], k) for op, k in self.index.items()}
        self.order = list(self.group_of.values())
        for op, group in self.group_of.items():
            for value in op.operands:
                if value.op in self.group_of:
                    producer = self.group_of[value.op]
                    producer.consumers[group] = None
                    group.producers[producer] = None

    def group(self, value: Value) -> Group | None:
        """The group that makes ``value``; None for an argument of the function."""
        return self.group_of.get(value.op) if value.op is not None else None

    def outside_readers(self, group: Group) -> list[Operation]:
        """The operations outside ``group`` that read what it makes, the return included."""
        return [
            use.op
            for op in group.ops
            for result in op.results
            for use in result.uses
            if self.group_of.get(use.op) is not group
        ]

    def merge(self, a: Group, b: Group) -> Group | None:
        """Merge two groups; None, and nothing is changed, where a path between them leads through a third one."""
        first, last = (a, b) if a.position < b.position else (b, a)
        after = self._descendants(first, last)
        if after is None:
            return None
        between = self.order[first.position + 1 : last.position]
        before = [g for g in between if g not in after]
        behind = [g for g in between if g in after]
        start = first.position
        first.ops = sorted([*first.ops, *last.ops], key=self.index.__getitem__)
        for op in last.ops:
            self.group_of[op] = first
        self._take_edges(first, last)
        last.merged = True
        # The order keeps its length, so that positions of other groups stay true: the merged group's old place is
        # taken by a neighbour.
        block = [*before, first, last, *behind]
        self.order[start : start + len(block)] = block
        for k, group in enumerate(block, start):
            group.position = k
        return first

    def groups(self) -> list[Group]:
        """The groups, producers before consumers."""
        return [g for g in self.order if not g.merged]

    def _descendants(self, first: Group, last: Group) -> dict[Group, None] | None:
        """What depends on ``first`` and stands before ``last``; None where ``last`` depends on any of it."""
        found: dict[Group, None] = {}
        stack = [g for g in first.consumers if g is not last]
        while stack:
            group = stack.pop()
            if group in found or group.position > last.position:
                continue
            if last in group.consumers:
                return None
            found[group] = None
            stack.extend(group.consumers)
        return found

    def _take_edges(self, first: Group, last: Group) -> None:
        for other in last.producers:
            del other.consumers[last]
            if other is not first:
                other.consumers[first] = None
                first.producers[other] = None
        for other in last.consumers:
            del other.producers[last]
            other.producers[first] = None
            first.consumers[other] = None
