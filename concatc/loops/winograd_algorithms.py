"""Winograd's minimal algorithms for windows of three, in exact numbers, and their transforms as expressions.

    F(m, 3):  m sums of 3 products each, from m + 2 products

    y = At [(G g) * (Bt d)]         d: m + 2 neighbours of a row, g: 3 taps, y: m results
    Y = At [(G g Gt) * (Bt d B)] A  of an image: tiles of (m + 2) x (m + 2), 2.25 products a result for m = 2, not 9

Lavin and Gray, "Fast algorithms for convolutional neural networks" (2015).  The sums are those of the direct form, in
another order and with intermediate values that are larger than the results: errors grow with m.  They depend on the
points from which an algorithm is made.  0, 1 and -1 for m = 2; for m = 4 the usual 2 and -2 besides these err seven
times as much at the worst as 3/4, -3/4, 3/2 and -3/2, of which transforms of inputs and results are exact in binary
(docs/TARGET_CPU.md has the errors as measured).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from concatc.loops.expr import Expr

Matrix = tuple[tuple[Fraction, ...], ...]
TAPS = 3


@dataclass(frozen=True)
class Algorithm:
    """``F(outputs, 3)``: the transforms ``Bt`` of inputs, ``G`` of filters and ``At`` of results."""

    name: str
    outputs: int
    inputs: Matrix
    filters: Matrix
    results: Matrix

    @property
    def tile(self) -> int:
        """Inputs, and products, of a tile along one axis."""
        return self.outputs + TAPS - 1


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the product of ``x - root``, lowest first."""
    made = [Fraction(1)]
    for root in roots:
        made = [low - root * high for low, high in zip([Fraction(0), *made], [*made, Fraction(0)], strict=True)]
    return made


def minimal(outputs: int, points: Sequence[Fraction]) -> Algorithm:
    """``F(outputs, 3)`` from ``outputs + 1`` points, and infinity (Toom and Cook).

    Products are those of two polynomials at the points; ``Bt`` has the polynomials that vanish at all points but one.
    """
    zero, one = Fraction(0), Fraction(1)
    inputs, filters = [], []
    for k, point in enumerate(points):
        others = [*points[:k], *points[k + 1 :]]
        scale = math.prod(point - other for other in others)
        inputs.append((*_polynomial(others), zero))
        filters.append(tuple(point**tap / scale for tap in range(TAPS)))
    inputs.append(tuple(_polynomial(points)))
    filters.append((zero, zero, one))
    results = [(*(point**i for point in points), one if i == outputs - 1 else zero) for i in range(outputs)]
    return Algorithm(f"winograd f({outputs},3)", outputs, tuple(inputs), tuple(filters), tuple(results))


F2 = minimal(2, [Fraction(n) for n in (0, 1, -1)])
F4 = minimal(4, [Fraction(n, 4) for n in (0, 3, -3, 6, -6)])
ALGORITHMS = {algorithm.name: algorithm for algorithm in (F2, F4)}


def transposed(matrix: Matrix) -> Matrix:
    """The transpose."""
    return tuple(zip(*matrix, strict=True))


def transform(matrix: Matrix, tile: Sequence[Sequence[Expr]]) -> list[list[Expr]]:
    """``matrix tile matrix^T``; what several elements need of a column is one expression."""
    rows = _rows(matrix)
    columns = [_times(rows, column) for column in zip(*tile, strict=True)]
    return [_times(rows, row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class _Sum:
    """``scale * (factor * element + ..)`` of a vector, as factors and numbers of elements; 1.0 is no product."""

    scale: float
    terms: tuple[tuple[float, int], ...]

    def of(self, vector: Sequence[Expr]) -> Expr:
        """The sum as an expression."""
        (factor, k), *rest = self.terms
        total = vector[k] if factor == 1 else vector[k] * factor
        for factor, k in rest:
            term = vector[k] if abs(factor) == 1 else vector[k] * abs(factor)
            total = total + term if factor > 0 else total - term
        return total if self.scale == 1 else total * self.scale


@dataclass(frozen=True)
class _Row:
    """Row ``at`` of a product with a matrix is ``same``; with a ``twin`` they are ``same`` +- ``opposite``."""

    at: int
    same: _Sum
    twin: int | None = None
    opposite: _Sum | None = None


@functools.cache
def _rows(matrix: Matrix) -> tuple[_Row, ...]:
    """How a matrix is multiplied; two rows that differ in signs are the sum and the difference of two parts.

    A net asks for the same few matrices for every tile, and exact numbers are slow.
    """
    made: dict[int, None] = {}
    rows = []
    for r, row in enumerate(matrix):
        if r in made:
            continue
        twin = next((q for q in range(r + 1, len(matrix)) if q not in made and _differ_in_signs(row, matrix[q])), None)
        made[r] = None
        if twin is None:
            rows.append(_Row(r, _sum([(c, k) for k, c in enumerate(row)])))
            continue
        made[twin] = None
        pairs = list(zip(row, matrix[twin], strict=True))
        same, opposite = (_sum([(a, k) for k, (a, b) in enumerate(pairs) if a == sign * b]) for sign in (1, -1))
        rows.append(_Row(r, same, twin, opposite))
    return tuple(rows)


def _times(rows: Sequence[_Row], vector: Sequence[Expr]) -> list[Expr]:
    made: dict[int, Expr] = {}
    for row in rows:
        made[row.at] = same = row.same.of(vector)
        if row.twin is not None and row.opposite is not None:
            opposite = row.opposite.of(vector)
            made[row.at], made[row.twin] = same + opposite, same - opposite
    return [made[r] for r in range(len(made))]


def _differ_in_signs(row: Sequence[Fraction], other: Sequence[Fraction]) -> bool:
    """Whether both have the same sizes everywhere, some signs in common and some not."""
    pairs = [(a, b) for a, b in zip(row, other, strict=True) if a or b]
    agree = [a == b for a, b in pairs]
    return all(abs(a) == abs(b) for a, b in pairs) and any(agree) and not all(agree)


def _sum(terms: Sequence[tuple[Fraction, int]]) -> _Sum:
    """The sum of factors times elements; a factor that all have is multiplied once."""
    there = sorted(((c, k) for c, k in terms if c), key=lambda term: term[0] < 0)
    sizes = list(dict.fromkeys(abs(c) for c, _ in there))
    scale = sizes[0] if len(sizes) == 1 else Fraction(1)
    return _Sum(float(scale), tuple((float(c / scale), k) for c, k in there))
