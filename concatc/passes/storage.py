"""Where a value lies: a strided part of a root, before roots have addresses.

    c = concat(a, b, axis=1)     c: root 0, strides [8, 1]     a: root 0 offset 0     b: root 0 offset 4, strides [8, 1]

A root is one dense block: a slot of a base, or a piece of the arena.  The steps that lead from one place to another
(a part, another shape, permuted axes) are data, so that a placement can be decided before the root is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.ir.core import Operation, Value
from concatc.ir.types import ELEMENT_BYTES, TensorType, dense_strides
from concatc.loops.plan import Window
from concatc.op import is_op


@dataclass(eq=False)
class Root:
    """One dense block.  ``slot`` is its window where the block is a slot of a base; None in the arena."""

    owner: str  # the value that it was made for, in remarks
    dtype: str
    numel: int
    slot: Window | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the block."""
        return self.numel * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Part:
    """The indices ``start .. start + extent`` of an axis."""

    axis: int
    start: int
    extent: int


@dataclass(frozen=True)
class Reshaped:
    """The same elements, in row-major order, in another shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Permuted:
    """Axis ``d`` is axis ``axes[d]`` of what it was."""

    axes: tuple[int, ...]


Step = Part | Reshaped | Permuted


@dataclass(frozen=True)
class Place:
    """Element ``i`` lies at ``offset + sum(i[d] * strides[d])`` of the root, in elements."""

    root: Root
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.root.dtype]

    @staticmethod
    def whole(root: Root, shape: tuple[int, ...]) -> Place:
        """All of a root, row-major."""
        return Place(root, 0, shape, dense_strides(shape))

    def apply(self, step: Step) -> Place | None:
        """The place after one step; None where strides cannot express the new shape."""
        if isinstance(step, Part):
            shape = (*self.shape[: step.axis], step.extent, *self.shape[step.axis + 1 :])
            return replace(self, offset=self.offset + step.start * self.strides[step.axis], shape=shape)
        if isinstance(step, Permuted):
            shape = tuple(self.shape[d] for d in step.axes)
            return replace(self, shape=shape, strides=tuple(self.strides[d] for d in step.axes))
        strides = reshaped_strides(self.shape, self.strides, step.shape)
        return replace(self, shape=step.shape, strides=strides) if strides is not None else None

    def after(self, steps: Sequence[Step]) -> Place | None:
        """The place after all ``steps``."""
        place: Place | None = self
        for step in steps:
            place = place.apply(step) if place is not None else None
        return place

    def same_as(self, other: Place | None) -> bool:
        """Whether both hold the same elements in the same order; strides of axes of one element do not matter."""
        if other is None or self.root is not other.root or self.shape != other.shape:
            return False
        if 0 in self.shape:
            return True
        moving = [k for k, n in enumerate(self.shape) if n > 1]
        return self.offset == other.offset and all(self.strides[k] == other.strides[k] for k in moving)

    def window(self, base: str, offset_bytes: int) -> Window:
        """As a window, where the root starts at ``offset_bytes`` of ``base``."""
        start = offset_bytes + self.offset * ELEMENT_BYTES[self.root.dtype]
        return Window(base, start, self.shape, _plain_strides(self.shape, self.strides), self.root.dtype)


def reshaped_strides(shape: Sequence[int], strides: Sequence[int], new_shape: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of the same elements in ``new_shape``; None where there are none (a copy is needed)."""
    if 0 in shape:
        return dense_strides(tuple(new_shape))
    runs: list[list[int]] = []  # [elements, innermost stride] of axes that lie without gaps
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][1] == n * s:
            runs[-1] = [runs[-1][0] * n, s]
            continue
        runs.append([n, s])
    result: list[int] = []
    next_outer = 1  # the stride of an axis of one element: as if it lay without gaps around the inner ones
    for n in reversed(new_shape):
        if n == 1:
            result.append(next_outer)
            continue
        while runs and runs[-1][0] == 1:
            runs.pop()
        if not runs or runs[-1][0] % n:
            return None
        result.append(runs[-1][1])
        next_outer = runs[-1][1] * n
        runs[-1] = [runs[-1][0] // n, runs[-1][1] * n]
    return tuple(reversed(result))


def _plain_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The same strides, those of axes of one element as if they lay without gaps: equal places get equal windows."""
    result: list[int] = []
    next_outer = 1
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        result.append(next_outer if n == 1 else s)
        next_outer = result[-1] * n
    return tuple(reversed(result))


@dataclass(frozen=True)
class Wish:
    """A value would best lie where ``steps`` lead from the place of ``anchor`` (a value, or the key of a slot)."""

    anchor: Value | str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class View:
    """One result of a view operation: ``result`` is ``operand`` after ``steps``; ``inverse`` leads back, if it can."""

    operand: Value
    result: Value
    steps: tuple[Step, ...]
    inverse: tuple[Step, ...] | None


def views_of(op: Operation) -> list[View]:
    """The results of split, slice, reshape, flatten and transpose as views of their operand; empty for other ops."""
    if is_op(op, "split"):
        return [View(op.operands[0], y, (), ()) for y in op.results]
    if is_op(op, "slice"):
        return _parts(op)
    if is_op(op, "reshape", "flatten"):
        x, y = op.operands[0], op.result
        return [View(x, y, (Reshaped(y.shape),), (Reshaped(x.shape),))]
    if is_op(op, "transpose"):
        x, y = op.operands[0], op.result
        axes = _integers(op.attributes["perm"])
        inverse = tuple(axes.index(d) for d in range(len(axes)))
        return [View(x, y, (Permuted(axes),), (Permuted(inverse),))]
    return []


def _parts(op: Operation) -> list[View]:
    axis, sizes = op.attributes["axis"], _integers(op.attributes["sizes"])
    assert isinstance(axis, int)
    x, start, views = op.operands[0], 0, []
    for y, extent in zip(op.results, sizes, strict=True):
        views.append(View(x, y, (Part(axis, start, extent),), () if extent == x.shape[axis] else None))
        start += extent
    return views


def concat_parts(op: Operation) -> list[Part]:
    """Where each operand of a concat stands in its result."""
    axis, start, parts = op.attributes["axis"], 0, []
    assert isinstance(axis, int)
    for x in op.operands:
        parts.append(Part(axis, start, x.shape[axis]))
        start += x.shape[axis]
    return parts


def is_segmented(op: Operation) -> bool:
    """Whether an operation is a concat that nothing reads: its value lies where its operands lie."""
    return is_op(op, "concat") and not op.result.uses


def new_root(value: Value) -> Root:
    """A block of the arena for a value."""
    type: TensorType = value.tensor
    return Root(value.name, type.dtype, type.numel)


def _integers(attr: object) -> tuple[int, ...]:
    assert isinstance(attr, tuple)
    return tuple(int(n) for n in attr)
