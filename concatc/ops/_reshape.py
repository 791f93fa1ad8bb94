"""The pieces of a reshape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from concatc.loops.expr import Axis, Const, Expr, Ref
from concatc.loops.pieces import Piece, axes_for

Dims = tuple[int, ...]


def reshape_piece(y: Ref, x: Ref) -> Piece:
    """``y`` holds the elements of ``x`` in row-major order.

    Axes that both shapes share stay loop axes; a group that one side joins is walked on the finer side, so that indices
    are sums of axes; only where neither side is finer there is division.
    """
    if y.type.numel == 0:
        axes = axes_for(y.shape)
        return Piece(y, axes, axes, x[(0,) * len(x.shape)])
    loop: list[Axis] = []
    to: list[Expr] = []
    source: list[Expr] = []
    for wide, narrow in _groups(y.shape, x.shape):
        walked = narrow if _count_long(wide) <= 1 else wide
        axes = tuple(Axis(f"i{len(loop) + k}", n) for k, n in enumerate(walked))
        loop += axes
        to += axes if walked is wide else _unravel(_ravel(axes, walked), wide)
        source += axes if walked is narrow else _unravel(_ravel(axes, walked), narrow)
    return Piece(y, tuple(loop), tuple(to), x[tuple(source)])


def _groups(a: Dims, b: Dims) -> Iterator[tuple[Dims, Dims]]:
    """Cut two shapes into the shortest runs of equal product.  ``(2, 12), (2, 3, 4) -> (2)|(2), (12)|(3, 4)``."""
    i = j = 0
    while i < len(a) or j < len(b):
        start = i, j
        i, j = min(i + 1, len(a)), min(j + 1, len(b))
        while math.prod(a[start[0] : i]) != math.prod(b[start[1] : j]):
            if math.prod(a[start[0] : i]) < math.prod(b[start[1] : j]):
                i += 1
            else:
                j += 1
        yield a[start[0] : i], b[start[1] : j]


def _count_long(dims: Dims) -> int:
    return sum(n > 1 for n in dims)


def _ravel(at: Sequence[Expr], dims: Dims) -> Expr:
    linear: Expr = Const(0, "index")
    for index, n in zip(at, dims, strict=True):
        if n > 1:
            linear = linear * n + index
    return linear


def _unravel(linear: Expr, dims: Dims) -> list[Expr]:
    at: list[Expr] = []
    step = math.prod(dims)
    outer = True
    for n in dims:
        if n == 1:
            at.append(Const(0, "index"))
            continue
        step //= n
        index = linear // step
        at.append(index if outer else index % n)
        outer = False
    return at
