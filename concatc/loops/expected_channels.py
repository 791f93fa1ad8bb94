"""Says of loops over few channels of a convolution's result how many there are, so that tiles of registers fit them.

    for o in 0 .. n_o: for i: for j: y[o, i, j] += x[c, i + a, j + b] * w[o, c, a, b]
    ->
    the same, with %n_o: index {cnet.expected = 16 : i64}                     2 tiles of 8 channels, not 3 of 6

A tile for an extent that is known at run time only is the best for many: its last one is computed whole where few rows
are left.  What is expected chooses tiles and nothing else: the code holds for any extent, so launches may be run in
slices of it (`slices.py`).  Only axes of the factor that stands still while windows move are expected: none of them is
the batch, on which code may not depend.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.loops.expr import Axis, axes_of, loads
from concatc.loops.packing import is_contraction
from concatc.loops.program import Statement

# At most so many channels, and whole groups of them: other widths grow from layer to layer, and would be kernels each.
MOST, GROUP = 64, 16


def expect_channels(statements: Sequence[Statement]) -> None:
    """Mark such loops."""
    for fold in statements:
        if fold.kind == "fold" and is_contraction(fold.piece):
            channels = _still_axes(fold)
            for axis, nest in zip(fold.piece.parallel, fold.path, strict=True):
                nest.expected |= axis in channels


def _still_axes(fold: Statement) -> list[Axis]:
    """The axes of a result with few channels that index the factor which no window moves over."""
    moving = {load: [i for i in load.at if len(set(axes_of(i))) > 1] for load in loads(fold.piece.value)}
    windows = [axis for places in moving.values() for index in places for axis in axes_of(index)]
    if not windows:
        return []
    still = [axis for load, places in moving.items() if not places for i in load.at for axis in axes_of(i)]
    return [a for a in fold.piece.parallel if a in still and a.extent <= MOST and a.extent % GROUP == 0]
