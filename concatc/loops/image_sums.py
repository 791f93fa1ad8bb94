"""Lets the weight gradient of a convolution be summed image by image, with channels in the lanes of vectors.

    dw[o, c, a, b] += dy[n, o, i, j] * x[n, c, i + a - 1, j + b - 1]    over n, i, j
    ->
    for n:
      p[u, v, c] = x[n, c, u - 1, v - 1]                                 (0 outside)
      s[o, a, b, c] = (s[o, a, b, c] if n > 0 else 0) + sum of dy[n, o, i, j] * p[i + a, j + b, c]    over i, j
    dw[o, c, a, b] = s[o, a, b, c]

A sum over the columns of an image would fill vectors with 7, 8 or 14 elements, and needs a sum along lanes at its end.
Over channels vectors are full whatever the size of the image, the elements of ``dy`` are scalars for all lanes, and
windows may move by any stride.  The sums are kept in scratch memory from one image to the next; packed is one image.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.loops.expr import Axis, Load, axes_of, loads
from concatc.loops.outer_loop import sum_in_turn
from concatc.loops.packing import Packed
from concatc.loops.program import Program, Statement

LANES = 16  # channels of a vector, at the most
FILLED = 0.5  # the least part of the lanes that must hold channels
MOST = 1 << 22  # elements of a weight
TAPS = 4  # with fewer taps, an element that is packed is not read often enough


@dataclass(frozen=True)
class ImageSums:
    """``image`` is the axis over images, ``channel`` the one that comes to lie in lanes, ``load`` reads the image."""

    image: Axis
    channel: Axis
    load: Load


def image_sums_of(fold: Statement) -> ImageSums | None:
    """How ``fold`` may be summed image by image; None where it is no weight gradient, or where that would not pay."""
    piece = fold.piece
    if len(piece.at) != 4 or len(piece.reduce) != 3:
        return None
    image = piece.reduce[0]
    dy, x = _factors(fold, image)
    if dy is None or x is None:
        return None
    channel = x.at[1]
    taps = [a for a in piece.at[2:] if isinstance(a, Axis)]
    if not isinstance(channel, Axis) or piece.at[1] is not channel or len(taps) != 2:
        return None
    if channel in axes_of(dy) or any(tap in axes_of(dy) for tap in taps):
        return None
    if taps[0].extent * taps[1].extent < TAPS or channel.extent < FILLED * LANES * -(-channel.extent // LANES):
        return None
    if all(axis.extent % LANES == 0 for axis in piece.reduce[2:]):
        return None  # whole vectors along rows need no packing
    # The sums take as much memory as the weight, whatever the batch is.
    return ImageSums(image, channel, x) if fold.target.type.numel <= MOST else None


def _factors(fold: Statement, image: Axis) -> tuple[Load | None, Load | None]:
    """The loads of the output's gradient and of the image, which reads windows."""
    found = [load for load in loads(fold.piece.value) if len(load.at) == 4 and load.at[0] is image]
    plain = [load for load in found if all(isinstance(i, Axis) for i in load.at[2:])]
    windows = [load for load in found if load not in plain and not isinstance(load.at[2], Axis)]
    if len(found) != 2 or len(plain) != 1 or len(windows) != 1:
        return None, None
    return plain[0], windows[0]


def sum_images(program: Program, fold: Statement, sums: ImageSums) -> None:
    """Let the fold run inside of a loop over images, with channels innermost."""
    program.block = 1
    sum_in_turn(program, fold, sums.image, (0, 2, 3, 1))
    for load in loads(fold.piece.value):
        is_window = not isinstance(load.at[2], Axis)
        if is_window or fold.buffer(load.ref).inlined:
            Packed(fold, load, (0, 2, 3, 1) if is_window else (0, 1, 2, 3)).insert(program, 0)
