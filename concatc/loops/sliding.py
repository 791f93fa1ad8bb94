"""Recognises sums over windows that move by one element: convolutions of stride 1 and their gradients.

Windows     y[n, o, i, j]  += x[n, c, i + a - 1, j + b - 1] * w[o, c, a, b]      over c, a, b; also  i - a + 1
WindowSums  dw[o, c, a, b] += dy[n, o, i, j] * x[n, c, i + a - 1, j + b - 1]     over n, i, j
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from concatc.loops.affine import affine_of
from concatc.loops.expr import Axis, Expr, Load, loads
from concatc.loops.packing import is_contraction
from concatc.loops.pieces import Piece


@dataclass(frozen=True)
class Windows:
    """Each result at ``rows`` sums over ``reduce`` and ``taps`` what the image ``x`` has there, times ``w``.

    ``low`` is the first row and column that the window of result 0, 0 reads.  ``flipped``: it reads from its end on,
    as the gradient of an image does.
    """

    image: Axis
    channel: Axis
    rows: tuple[Axis, Axis]
    reduce: Axis
    taps: tuple[Axis, Axis]
    x: Load
    w: Load
    low: tuple[int, int]
    flipped: bool


@dataclass(frozen=True)
class WindowSums:
    """Each result at ``channels`` (of ``dy``, of ``x``) and ``taps`` sums over images and ``rows``."""

    image: Axis
    channels: tuple[Axis, Axis]
    rows: tuple[Axis, Axis]
    taps: tuple[Axis, Axis]
    dy: Load
    x: Load
    low: tuple[int, int]


def windows_of(piece: Piece) -> Windows | None:
    """The windows that a piece sums over; None where it does something else."""
    if not _is_plain(piece):
        return None
    n, o, i, j = cast(tuple[Axis, Axis, Axis, Axis], piece.at)
    c, a, b = piece.reduce
    found = loads(piece.value)
    for x, w in (found, found[::-1]):
        if x.at[:2] != (n, c) or w.where is not None or len(w.at) != 4 or set(w.at) != {o, c, a, b}:
            continue
        moved = _moved(x.at[2:], (i, j), (a, b))
        if moved is not None:
            low, step = moved
            return Windows(n, o, (i, j), c, (a, b), x, w, low, flipped=step < 0)
    return None


def window_sums_of(piece: Piece) -> WindowSums | None:
    """The sums over images that a piece makes; None where it does something else."""
    if not _is_plain(piece):
        return None
    o, c, a, b = cast(tuple[Axis, Axis, Axis, Axis], piece.at)
    n, i, j = piece.reduce
    found = loads(piece.value)
    for dy, x in (found, found[::-1]):
        if dy.at != (n, o, i, j) or dy.where is not None or x.at[:2] != (n, c):
            continue
        moved = _moved(x.at[2:], (i, j), (a, b))
        if moved is not None and moved[1] > 0:
            return WindowSums(n, (o, c), (i, j), (a, b), dy, x, moved[0])
    return None


def _is_plain(piece: Piece) -> bool:
    """Whether it is a contraction of two loads, from four axes and three that are summed."""
    if not is_contraction(piece) or piece.where is not None or len(loads(piece.value)) != 2:
        return False
    axes = [index for index in piece.at if isinstance(index, Axis)]
    return len(piece.at) == 4 and len(axes) == 4 and set(axes) == set(piece.parallel) and len(piece.reduce) == 3


def _moved(at: Sequence[Expr], rows: tuple[Axis, Axis], taps: tuple[Axis, Axis]) -> tuple[tuple[int, int], int] | None:
    """The least index at row and column 0, and by how much a tap moves it (1 or -1); None for other indices."""
    if len(at) != 2:
        return None
    low: list[int] = []
    steps: list[int] = []
    for index, row, tap in zip(at, rows, taps, strict=True):
        place = affine_of(index)
        if place is None or len(place.factors) != 2 or place.step(row) != 1 or abs(place.step(tap)) != 1:
            return None
        steps.append(place.step(tap))
        low.append(place.constant + min(0, steps[-1] * (tap.extent - 1)))
    return ((low[0], low[1]), steps[0]) if steps[0] == steps[1] else None
