"""``slice``: cut a blob along one axis.  Its transpose is ``concat``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from concatc.ir.core import Value
from concatc.ir.types import TensorType
from concatc.loops.expr import Ref
from concatc.loops.pieces import Piece, axes_for
from concatc.op import Builder, CallSite, Op, Sample, ShapeError, f32
from concatc.ops._checks import check_axis

# Each window is a value of the graph: more of them are a mistake in a dim, not a net.
LARGEST_PARTS = 10_000


class Slice(Op):
    """Cut ``x`` along ``axis`` into windows, in order.  A call says how in one of three ways:

    - ``sizes=[3, 1, 4]``: the size of each window; they sum to the size of the axis;
    - ``at=[3, 4]``: the indices at which to cut;
    - ``parts=2``: that many windows of one size.

    Shapes: ``[.., n, ..]`` -> ``[.., n_k, ..]`` for each window ``k``, with ``sum n_k = n``.
    Gradient: the cotangents of the windows, joined; zero where nothing reads a window.
    """

    example = "a, b = slice(x, axis=1, parts=2)"
    axis: int = 1
    sizes: tuple[int, ...]

    @classmethod
    def build(
        cls,
        site: CallSite,
        *xs: Value,
        axis: int = 1,
        sizes: tuple[int, ...] | None = None,
        at: tuple[int, ...] | None = None,
        parts: int | None = None,
    ) -> Value | tuple[Value, ...]:
        (x,) = xs
        check_axis("slice", axis, x.tensor)
        given = sum(form is not None for form in (sizes, at, parts))
        if given != 1:
            raise ShapeError(f"slice needs one of `sizes`, `at` and `parts`, and has {given or 'none'}")
        if at is not None:
            sizes = _sizes_between(at, x.tensor, axis)
        if parts is not None:
            sizes = _equal_sizes(parts, x.tensor, axis)
        assert sizes is not None
        results = site.b.emit(cls(axis=axis, sizes=sizes), xs)
        return results[0] if len(results) == 1 else tuple(results)

    def infer(self, xs: Sequence[TensorType]) -> list[TensorType]:
        (x,) = xs
        check_axis("slice", self.axis, x)
        if not self.sizes or any(n < 0 for n in self.sizes):
            raise ShapeError(f"slice: sizes {list(self.sizes)} must be one or more, none of them negative")
        if sum(self.sizes) != x.shape[self.axis]:
            raise ShapeError(
                f"slice: sizes {list(self.sizes)} sum to {sum(self.sizes)}, but axis {self.axis} of {{0}}, {x}, "
                f"has {x.shape[self.axis]}"
            )
        return [x.with_shape((*x.shape[: self.axis], n, *x.shape[self.axis + 1 :])) for n in self.sizes]

    def reference(self, *xs: np.ndarray) -> list[np.ndarray]:
        return [part.copy() for part in np.split(xs[0], np.cumsum(self.sizes)[:-1], self.axis)]

    def vjp(
        self, b: Builder, xs: Sequence[Value], ys: Sequence[Value], dys: Sequence[Value | None], needs: Sequence[bool]
    ) -> list[Value | None]:
        parts = [
            b.constant(shape=y.shape, value=0.0, dtype=y.dtype) if dy is None else dy
            for y, dy in zip(ys, dys, strict=True)
        ]
        return [parts[0] if len(parts) == 1 else b.concat(*parts, axis=self.axis)]

    def lower(self, xs: Sequence[Ref], ys: Sequence[Ref]) -> Iterator[Piece]:
        offsets = itertools.accumulate(self.sizes, initial=0)
        for y, offset in zip(ys, offsets, strict=False):
            axes = axes_for(y.shape)
            at = tuple(a + offset if d == self.axis else a for d, a in enumerate(axes))
            yield Piece(y, axes, axes, xs[0][at])

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        yield Sample(cls(axis=1, sizes=(3, 1, 4)), (f32(2, 8),))
        yield Sample(cls(axis=0, sizes=(1, 3)), (f32(4, 2, 2),))
        yield Sample(cls(axis=2, sizes=(2, 0, 1)), (f32(2, 2, 3),))
        yield Sample(cls(axis=1, sizes=(3,)), (f32(2, 3),))


def _sizes_between(at: tuple[int, ...], x: TensorType, axis: int) -> tuple[int, ...]:
    cuts = (0, *at, x.shape[axis])
    if list(cuts) != sorted(cuts):
        raise ShapeError(
            f"slice: the cuts {list(at)} must rise within 0 to {x.shape[axis]}, the size of axis {axis} of {{0}}, {x}"
        )
    return tuple(stop - start for start, stop in itertools.pairwise(cuts))


def _equal_sizes(parts: int, x: TensorType, axis: int) -> tuple[int, ...]:
    n = x.shape[axis]
    if parts < 1:
        raise ShapeError(f"slice: `parts` must be at least 1, not {parts}")
    if parts > LARGEST_PARTS:
        raise ShapeError(f"slice: `parts` must be at most {LARGEST_PARTS}, not {parts}")
    if n % parts:
        raise ShapeError(
            f"slice: axis {axis} of {{0}}, {x}, has {n}, which is not {parts} equal parts",
            help="`sizes=[..]` cuts into unequal parts",
        )
    return (n // parts,) * parts
