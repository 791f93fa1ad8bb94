"""Checks that several ops share; each raises a :class:`ShapeError` that names the operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from concatc.ir.core import Value
from concatc.ir.types import INTEGERS, TensorType
from concatc.op import ShapeError

T = TypeVar("T")


def twice(op: str, inner: str, x: Value) -> tuple[str, str] | None:
    """What is doubtful of a loss that applies ``inner`` itself to an ``x`` that ``inner`` made (`Op.doubt`)."""
    if x.op is None or x.op.name != f"cnet.{inner}":
        return None
    return f"{op} applies {inner} itself, and {{0}} is made by {inner}", f"give it what `{inner}` is given: the scores"


def check_axis(op: str, axis: int, x: TensorType, operand: int = 0) -> None:
    """``axis`` is one of the axes of ``x``, counted from 0."""
    if 0 <= axis < x.rank:
        return
    last = f"its axes are 0 to {x.rank - 1}" if x.rank > 1 else "its only axis is 0" if x.rank else "it has no axes"
    counted = f"axis={axis + x.rank} is the same axis counted from the front" if 0 <= axis + x.rank < x.rank else None
    raise ShapeError(f"{op} has no axis {axis}: {{{operand}}} is {x}, {last}", help=counted)


def check_axes(op: str, axes: Sequence[int], x: TensorType, operand: int = 0) -> None:
    """``axes`` are axes of ``x``, each at most once."""
    for axis in axes:
        check_axis(op, axis, x, operand)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{op}: an axis stands twice in {list(axes)}")


def check_float(op: str, *xs: TensorType) -> None:
    """All operands are floats of one type."""
    for k, x in enumerate(xs):
        if not x.is_float:
            raise ShapeError(f"{op} works on floats; {{{k}}} is {x}")
        if x.dtype != xs[0].dtype:
            raise ShapeError(f"{op} needs operands of one element type: {{0}} is {xs[0]}, {{{k}}} is {x}")


def check_same_shape(op: str, xs: Sequence[TensorType]) -> None:
    """All operands have the shape of the first."""
    for k, x in enumerate(xs):
        if x.shape != xs[0].shape:
            raise ShapeError(f"{op} needs operands of one shape: {{0}} is {xs[0]}, {{{k}}} is {x}")


def check_labels(op: str, x: TensorType, labels: TensorType, axis: int) -> None:
    """``labels`` are integers, one for each row of ``x`` along the class axis."""
    rows = without(x.shape, axis)
    if labels.dtype not in INTEGERS:
        raise ShapeError(f"{op} needs integer labels; {{1}} is {labels}", help="declare the labels as i32")
    if labels.shape == rows:
        return
    fits = [d for d in range(x.rank) if without(x.shape, d) == labels.shape]
    wanted = TensorType(rows, labels.dtype)
    help = None
    if fits:
        help = f"axis={fits[0]} would take these labels"
    elif labels.shape == x.shape[:1] and math.prod(rows) == labels.numel:
        help = "`flatten` {0}: it holds one row of scores for each label"
    elif labels.shape == x.shape[:1] and x.rank > 2:
        help = "`flatten` what goes into the last `linear`, which acts on the last axis only"
    elif labels.numel == math.prod(rows):
        help = f"reshape {{1}} to {list(rows)}"
    raise ShapeError(
        f"{op} over axis {axis} needs one label a row: {{0}} is {x}, so labels are {wanted}; {{1}} is {labels}", help
    )


def without(items: tuple[T, ...], axis: int) -> tuple[T, ...]:
    """A shape, or indices, less one axis."""
    return items[:axis] + items[axis + 1 :]
