"""What `choose-recompute` decides on: buffers of the forward half, and the parts that it is cut into for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from concatc.ir.core import FuncOp, Operation, Value
from concatc.passes.fusion import is_view
from concatc.passes.graph import is_backward
from concatc.passes.iteration import Iterations


@dataclass(eq=False)
class Buffer:
    """Values of the forward half that views join, so that they share bytes."""

    size_bytes: int = 0
    values: list[Value] = field(default_factory=list)
    makers: list[Operation] = field(default_factory=list)  # operations that compute parts of it
    arguments: list[Value] = field(default_factory=list)
    is_returned: bool = False
    is_read_back: bool = False
    is_recomputed: bool = False

    @property
    def is_given(self) -> bool:
        """Whether it is an argument, or views of one: it is there anyway."""
        return not self.makers and len(self.arguments) == 1


def buffers_of(func: FuncOp, forward: Sequence[Operation]) -> dict[Value, Buffer]:
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
    by_root: dict[Value, Buffer] = {}
    buffer_of = {value: by_root.setdefault(root(value), Buffer()) for value in values}
    returned = dict.fromkeys(func.ret.operands)
    for value, buffer in buffer_of.items():
        buffer.values.append(value)
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


def parts_of(
    forward: Sequence[Operation], buffer_of: Mapping[Value, Buffer], iterations: Iterations, parts: int
) -> dict[Operation, int]:
    """The part of each operation, ``0 .. parts - 1``; empty for no parts.

    Parts make about the same number of bytes by contractions.  Near each of these places the cut is where the fewest
    bytes are made before and read behind.
    """
    if not parts:
        return {}
    made = [0]
    for op in forward:
        size = sum(y.tensor.size_bytes for y in op.results) if iterations.of(op).kind == "contraction" else 0
        made.append(made[-1] + size)
    crossing = _crossing_bytes(forward, buffer_of)
    part_of: dict[Operation, int] = {}
    start = 0
    for part in range(parts):
        end = len(forward) if part == parts - 1 else _best_cut(made, crossing, part + 1, parts, start)
        part_of.update(dict.fromkeys(forward[start:end], part))
        start = end
    return part_of


def _best_cut(made: Sequence[int], crossing: Sequence[int], number: int, parts: int, start: int) -> int:
    low, high = (made[-1] * (2 * number + side) / (2 * parts) for side in (-1, 1))
    places = [k for k in range(start, len(made)) if low <= made[k] <= high] or [start]
    return min(places, key=lambda k: (crossing[k], k))


def _crossing_bytes(forward: Sequence[Operation], buffer_of: Mapping[Value, Buffer]) -> list[int]:
    """For each place between operations the bytes that are made before it and read behind it."""
    index = {op: k for k, op in enumerate(forward)}
    change = [0] * (len(forward) + 2)
    for buffer in dict.fromkeys(buffer_of.values()):
        if not buffer.makers:
            continue
        first = min(index[op] for op in buffer.makers)
        last = max((index[r] for v in buffer.values for r in v.readers if r in index), default=first)
        change[first + 1] += buffer.size_bytes
        change[last + 1] -= buffer.size_bytes
    crossing, now = [], 0
    for k in range(len(forward) + 1):
        now += change[k]
        crossing.append(now)
    return crossing
