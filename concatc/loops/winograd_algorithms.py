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
    columns = [_times(matrix, column) for column in zip(*tile, strict=True)]
    return [_times(matrix, row) for row in zip(*columns, strict=True)]


def _times(matrix: Matrix, vector: Sequence[Expr]) -> list[Expr]:
    """``matrix vector``; two rows that differ in signs are the sum and the difference of two parts."""
    made: dict[int, Expr] = {}
    for r, row in enumerate(matrix):
        if r in made:
            continue
        twin = next((q for q in range(r + 1, len(matrix)) if q not in made and _differ_in_signs(row, matrix[q])), None)
        if twin is None:
            made[r] = _sum(list(zip(row, vector, strict=True)))
            continue
        terms = list(zip(row, matrix[twin], vector, strict=True))
        same, opposite = _sum([(a, v) for a, b, v in terms if a == b]), _sum([(a, v) for a, b, v in terms if a == -b])
        made[r], made[twin] = same + opposite, same - opposite
    return [made[r] for r in range(len(matrix))]


def _differ_in_signs(row: Sequence[Fraction], other: Sequence[Fraction]) -> bool:
    """Whether both have the same sizes everywhere, some signs in common and some not."""
    pairs = [(a, b) for a, b in zip(row, other, strict=True) if a or b]
    agree = [a == b for a, b in pairs]
    return all(abs(a) == abs(b) for a, b in pairs) and any(agree) and not all(agree)


def _sum(terms: Sequence[tuple[Fraction, Expr]]) -> Expr:
    """The sum of factors times expressions; a factor that all have is multiplied once."""
    there = sorted(((c, v) for c, v in terms if c), key=lambda term: term[0] < 0)
    sizes = list(dict.fromkeys(abs(c) for c, _ in there))
    if len(sizes) == 1 and sizes[0] != 1:
        return _sum([(c / sizes[0], v) for c, v in there]) * float(sizes[0])
    first, *rest = there
    total = first[1] if first[0] == 1 else first[1] * float(first[0])
    for factor, value in rest:
        term = value if abs(factor) == 1 else value * float(abs(factor))
        total = total + term if factor > 0 else total - term
    return total
