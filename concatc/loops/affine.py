"""Indices that are sums of loop indices with constant factors: ``2 * i + a - 1``, or ``i + a // 2``."""

from __future__ import annotations

from dataclasses import dataclass

from concatc.loops.expr import Arith, Axis, Const, Expr, axes_of


@dataclass(frozen=True)
class Affine:
    """``sum of factor * term, plus a constant``; a term is an axis, or a quotient or remainder of one without sign."""

    factors: tuple[tuple[Expr, int], ...]
    constant: int

    @property
    def least(self) -> int:
        """The least value that it takes."""
        return self.constant + sum(min(0, f * _greatest(term)) for term, f in self.factors)

    @property
    def greatest(self) -> int:
        """The greatest value that it takes."""
        return self.constant + sum(max(0, f * _greatest(term)) for term, f in self.factors)

    @property
    def is_simple(self) -> bool:
        """Whether all terms are axes, or computed from a single one."""
        return all(isinstance(term, Axis) or len(axes_of(term)) == 1 for term, _ in self.factors)

    def step(self, axis: Axis) -> int:
        """How much it grows from one iteration of ``axis`` to the next."""
        return dict(self.factors).get(axis, 0)

    def without(self, axis: Axis | None, by: int = 0) -> Expr:
        """The expression at iteration 0 of ``axis``, plus ``by``."""
        return Affine(tuple((a, f) for a, f in self.factors if a is not axis), self.constant).shifted(by)

    def shifted(self, by: int) -> Expr:
        """The expression, plus ``by``."""
        total: Expr = Const(self.constant + by, "index")
        for axis, factor in self.factors:
            total = total + axis * factor if factor >= 0 else total - axis * -factor
        return total


def _greatest(term: Expr) -> int:
    """The greatest value of a term; the least is 0."""
    if isinstance(term, Axis):
        return term.extent - 1
    assert isinstance(term, Arith) and isinstance(term.args[1], Const)
    inner, divisor = affine_of(term.args[0]), int(term.args[1].value)
    assert inner is not None
    return inner.greatest // divisor if term.op == "floordiv" else min(inner.greatest, divisor - 1)


def affine_of(expr: Expr) -> Affine | None:
    """``expr`` as such a sum; None where it is none."""
    if isinstance(expr, Axis):
        return Affine(((expr, 1),), 0)
    if isinstance(expr, Const):
        return Affine((), int(expr.value))
    if not isinstance(expr, Arith):
        return None
    if expr.op in ("floordiv", "rem") and isinstance(expr.args[1], Const):
        inner = affine_of(expr.args[0])
        return Affine(((expr, 1),), 0) if inner is not None and inner.least >= 0 else None
    if expr.op not in ("add", "sub", "mul"):
        return None
    a, b = (affine_of(arg) for arg in expr.args)
    if a is None or b is None:
        return None
    if expr.op == "mul":
        a, b = (b, a) if not a.factors else (a, b)
        return _scaled(a, b.constant) if not b.factors else None
    b = b if expr.op == "add" else _scaled(b, -1)
    factors = dict(a.factors)
    for axis, factor in b.factors:
        factors[axis] = factors.get(axis, 0) + factor
    return Affine(tuple(factors.items()), a.constant + b.constant)


def _scaled(place: Affine, by: int) -> Affine:
    return Affine(tuple((axis, factor * by) for axis, factor in place.factors), place.constant * by)
