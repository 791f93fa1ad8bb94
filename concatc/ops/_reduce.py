"""Shapes and loop axes of reductions."""

from __future__ import annotations

from concatc.loops.expr import Axis, Const, Expr


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """``shape`` less ``axes``, or with 1 in their place."""
    if keepdims:
        return tuple(1 if d in axes else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in axes)


def fold_axes(
    shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool = False
) -> tuple[tuple[Axis, ...], tuple[Expr, ...]]:
    """The loop axes over ``shape``, with ``axes`` to be folded, and where the fold of each point goes."""
    loop = tuple(Axis(f"i{d}", n, "reduce" if d in axes else "parallel") for d, n in enumerate(shape))
    if keepdims:
        return loop, tuple(Const(0, "index") if a.kind == "reduce" else a for a in loop)
    return loop, tuple(a for a in loop if a.kind == "parallel")
