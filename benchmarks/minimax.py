"""Computes the coefficients of `concatc/targets/cpu/coefficients.py`: minimax polynomials by the exchange of Remez.

    python -m benchmarks.minimax            prints the tables, and how far each is from its function, in bits

A polynomial `c0 + c1 x + ..` stands for `g(x)` such that the largest `weight(x) * |error|` is as small as it can be
(E. Remez 1934): its error has one extremum more than coefficients, equal and of alternating signs.  Here the extrema
are looked for on a grid.  Coefficients are then rounded to the precision they are used in, the lowest first, and those
above it are computed anew each time, so that they make up for what rounding lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath as mp
import numpy as np

from concatc.targets.cpu.coefficients import DOUBLE, ERF_CUT, SINGLE

mp.mp.dps = 50
GRID = 700
Number = Any  # mpmath's
Function = Callable[[Number], Number]


@dataclass(frozen=True)
class Task:
    """What one table is for: `exact` says which low coefficients stand in the code and are not in the table."""

    name: str
    doc: str
    g: Function
    weight: Function
    low: Number
    high: Number
    degrees: tuple[int, int]  # for f32 and f64


def _exp() -> Task:
    half = mp.log(2) / 2 * mp.mpf("1.0001")  # n is the nearest number but for rounding
    return Task(
        "EXP",
        "(exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2",
        lambda r: (mp.expm1(r) - r) / r**2,
        lambda r: r**2 / mp.expm1(r),
        -half,
        half,
        (4, 10),
    )


def _log() -> Task:
    return Task(
        "LOG",
        "(log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2)",
        lambda f: (mp.log1p(f) - f + f * f / 2) / f**3,
        lambda f: f**3 / mp.log1p(f),
        mp.sqrt(0.5) - 1,
        mp.sqrt(2) - 1,
        (7, 18),
    )


def _exp2() -> Task:
    half = mp.mpf("0.5001")
    return Task(
        "EXP2",
        "(2^r - 1) / r for |r| <= 1/2",
        lambda r: (mp.mpf(2) ** r - 1) / r,
        lambda r: r / mp.mpf(2) ** r,
        -half,
        half,
        (4, 10),
    )


def _erf_inner() -> Task:
    return Task(
        "ERF_INNER",
        "erf(x) / x - 1, in x^2, for |x| <= ERF_CUT",
        lambda u: mp.erf(mp.sqrt(u)) / mp.sqrt(u) - 1,
        lambda u: mp.sqrt(u) / mp.erf(mp.sqrt(u)),
        mp.mpf(0),
        mp.mpf(ERF_CUT) ** 2,
        (5, 10),
    )


def _erf_outer(high: float) -> Task:
    return Task(
        "ERF_OUTER",
        f"log2(1 - erf(x)) for ERF_CUT <= x <= {high}",
        lambda x: mp.log(mp.erfc(x), 2),
        lambda x: mp.log(2) * mp.erfc(x) / mp.erf(x),
        mp.mpf(ERF_CUT),
        mp.mpf(high),
        (6, 17),
    )


def tasks(kind: type[np.floating[Any]]) -> list[tuple[Task, int]]:
    """The tables of one precision, with their degrees."""
    single = kind is np.float32
    outer = _erf_outer((SINGLE if single else DOUBLE).erf_high)
    return [(task, task.degrees[0 if single else 1]) for task in (_exp(), _exp2(), _log(), _erf_inner(), outer)]


def minimax(g: Sequence[Number], weight: Sequence[Number], x: Sequence[Number], degree: int) -> list[Number]:
    """The coefficients, the lowest first; ``g`` and ``weight`` at the points ``x``, which grow."""
    count = degree + 2
    spread = [(1 - mp.cos(mp.pi * k / (count - 1))) / 2 for k in range(count)]
    at = [round(float(s) * (len(x) - 1)) for s in spread]
    coefficients: list[Number] = []
    for _ in range(30):
        rows = mp.matrix(count, count)
        for k, i in enumerate(at):
            for d in range(degree + 1):
                rows[k, d] = x[i] ** d
            rows[k, degree + 1] = (-1) ** k / weight[i]
        solved = mp.lu_solve(rows, mp.matrix([g[i] for i in at]))
        coefficients = [solved[d] for d in range(degree + 1)]
        error = [w * (mp.polyval(coefficients[::-1], t) - v) for w, t, v in zip(weight, x, g, strict=True)]
        found = _extrema(error, count)
        if len(found) < count or found == at:
            break
        at = found
    return coefficients


def _extrema(error: Sequence[Number], count: int) -> list[int]:
    """The points of the largest error between changes of its sign; of too many, the smallest at an end are left out."""
    found: list[int] = []
    for i, e in enumerate(error):
        if found and (e > 0) == (error[found[-1]] > 0):
            if abs(e) > abs(error[found[-1]]):
                found[-1] = i
        else:
            found.append(i)
    while len(found) > count:
        found.pop(0 if abs(error[found[0]]) < abs(error[found[-1]]) else -1)
    return found


def table(task: Task, degree: int, kind: type[np.floating[Any]]) -> tuple[list[float], float, float]:
    """Rounded coefficients, and the largest relative error of the function before and after they are rounded."""
    middle, half = (task.low + task.high) / 2, (task.high - task.low) / 2
    x = [middle - half * mp.cos(mp.pi * (k + mp.mpf(1) / 3) / GRID) for k in range(GRID)]
    g, weight = [task.g(t) for t in x], [abs(task.weight(t)) for t in x]
    exact = minimax(g, weight, x, degree)
    rounded = [mp.mpf(float(kind(mp.nstr(c, 30)))) for c in exact]

    def error(coefficients: Sequence[Number]) -> float:
        return float(
            max(abs(w * (mp.polyval(coefficients[::-1], t) - v)) for w, t, v in zip(weight, x, g, strict=True))
        )

    return [float(c) for c in rounded], error(exact), error(rounded)


def main() -> None:
    """Print all tables."""
    for kind in (np.float32, np.float64):
        for task, degree in tasks(kind):
            coefficients, exact, error = table(task, degree, kind)
            print(f"# {task.name} {kind.__name__}: {task.doc}; off by 2^{math.log2(error):.1f}, {math.log2(exact):.1f}")
            print(f"({', '.join(str(kind(c)) for c in coefficients)})\n", flush=True)


if __name__ == "__main__":
    main()
