"""Numbers that follow from the sizes of a net, as polynomials in its dims, read off what is made at large sizes.

    bytes at n = 67108859:  824633659392 = 12288 * 67108859      ->      12288 n      (at n = 64: 786432)

Where a dim is far larger than every coefficient, the digits of a number in base ``n`` *are* the coefficients.  So one
evaluation gives the whole polynomial.  A coefficient that is too large for a digit would be read as another polynomial,
which agrees at the large size only: what is made at the usual size confirms every number, or refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

DEGREE = 2
LIMIT = 1 << 62
TOO_LARGE = "numbers of more than 62 bits"
Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


class NotScalableError(Exception):
    """What is made at other sizes does not follow from what is made here."""


@dataclass(frozen=True)
class Polynomials:
    """Number ``k`` is ``constant[k]``; numbers ``moving[m]`` get the terms ``factors[m] @ powers`` besides.

    ``powers`` are ``x, x^2, y, y^2, ..`` of the dims in order.
    """

    constant: Ints
    moving: Ints
    factors: np.ndarray[tuple[int, int], np.dtype[np.int64]]

    def at(self, sizes: Sequence[int]) -> Ints:
        """All numbers at these values of the dims.

        Raises :class:`NotScalableError` where one is too large.
        """
        exact = [size**d for size in sizes for d in range(1, DEGREE + 1)]
        most = np.abs(self.factors).astype(float) @ np.array(exact, float)
        if most.max(initial=0.0) >= LIMIT:
            raise NotScalableError(TOO_LARGE)
        # A power that is too large has no factor.
        powers = np.array([power if power < LIMIT else 0 for power in exact], np.int64)
        numbers = self.constant.copy()
        numbers[self.moving] += self.factors @ powers
        return numbers


def polynomials(
    here: Mapping[str, int],
    samples: Sequence[tuple[Mapping[str, int], Sequence[int]]],
    known: Sequence[int] = (),
    must: Literal["", "equal", "suffice"] = "",
) -> Polynomials:
    """The polynomials behind numbers.

    ``here`` are the dims as they are, ``known`` the first numbers there: what is that at every sample too is a
    constant, however large it is (the key of a dropout).  The polynomials ``must`` equal what is known, or suffice,
    which is be no less: a buffer may hold fewer rows here than at large sizes.  Sample ``k`` is at a large value of
    dim ``k`` alone, and where there are several dims the last sample is at large values of all, which must agree: no
    product of two dims is found otherwise.
    Raises :class:`NotScalableError` where there are no such polynomials.
    """
    names = list(here)
    columns = [_integers(numbers) for _, numbers in samples]
    if len({len(column) for column in columns}) != 1:
        raise NotScalableError("other numbers at other sizes")
    constant = np.zeros(len(columns[0]), np.int64)
    constant[: len(known)] = _integers(known)
    is_constant = np.arange(len(constant)) < len(known)
    for column in columns:
        is_constant &= column == constant
    constant[~is_constant] = 0
    columns = [column - constant for column in columns]
    digits = [_digits(columns[k], samples[k][0][name]) for k, name in enumerate(names)]
    factors = np.stack([d for digit in digits for d in digit[1:]], axis=1)
    values = np.array([here[name] ** d for name in names for d in range(1, DEGREE + 1)], np.int64)
    constants = []
    for k, digit in enumerate(digits):
        others = values.copy()
        others[DEGREE * k : DEGREE * (k + 1)] = 0  # of the dim that is large
        constants.append(digit[0] - factors @ others)
    if any((constant != constants[0]).any() for constant in constants):
        raise NotScalableError("numbers that are no sum of polynomials in one dim each")
    (moving,) = np.nonzero(factors.any(axis=1))
    found = Polynomials(constants[0] + constant, moving, factors[moving])
    at_here = found.at(list(here.values()))
    is_equal, suffices = at_here.tolist() == list(known), bool((at_here[: len(known)] >= _integers(known)).all())
    if not {"": True, "equal": is_equal, "suffice": suffices}[must]:
        raise NotScalableError("numbers that are otherwise here, or too large to be read off")
    at_all = [samples[-1][0][name] for name in names]
    if len(names) > 1 and (found.at(at_all) != columns[-1] + constant).any():
        raise NotScalableError("numbers that depend on a product of dims")
    return found


def _integers(numbers: Sequence[int]) -> Ints:
    if any(not -LIMIT < n < LIMIT for n in numbers):
        raise NotScalableError(TOO_LARGE)
    return np.array(numbers, np.int64)


def _digits(numbers: Ints, base: int) -> list[Ints]:
    """Digits from ``-base/2`` to ``base/2``, the lowest first."""
    found = []
    for _ in range(DEGREE):
        digit = (numbers + base // 2) % base - base // 2
        found.append(digit)
        numbers = (numbers - digit) // base
    if (abs(numbers) >= base // 2).any():
        raise NotScalableError("polynomials of a high degree")
    return [*found, numbers]
