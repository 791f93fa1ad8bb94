"""Lets the weight gradient of a convolution be summed image by image, with channels in the lanes of vectors.

    dw[o, c, a, b] += dy[n, o, i, j] * x[n, c, i + a - 1, j + b - 1]    over n, i, j
    ->
    for n:
      p[u, v, c] = x[n, c, u - 1, v - 1]                                 (0 outside)
      s[o, a, b, c] += sum of dy[n, o, i, j] * p[i + a, j + b, c]        over i, j; 0 before the loop
    dw[o, c, a, b] = s[o, a, b, c]

A sum over the columns of an image would fill vectors badly with 7, 8 or 14 elements, needs a sum along lanes at its
end, and reads every image anew for each few channels.  Over channels vectors are full whatever the size of the image,
the elements of the other factor are scalars for all lanes, and windows may move by any stride.  The sums are kept in
scratch memory from one image to the next; packed is one image.

In lanes are the channels of ``x``, or those of ``dy`` where these fill vectors better or are less to transpose:

      q[i, j, o] = dy[n, o, i, j]
      p[c, u, v] = x[n, c, u - 1, v - 1]                                 (where there is a halo)
      s[c, a, b, o] += sum of q[i, j, o] * p[c, i + a, j + b]            over i, j
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from concatc.loops.expr import Axis, Load, axes_of, loads
from concatc.loops.halo import Halo
from concatc.loops.packing import Packed
from concatc.loops.program import Program, Statement
from concatc.loops.row_blocks import block_of_rows, cut_rows, pack_rows
from concatc.loops.sums_in_turn import parts_for, sum_in_turn

LANES = 16  # channels of a vector, at the most
FILLED = 0.5  # the least part of the lanes that must hold channels
FEW = 64  # channels whose number is part of the code: tiles fit it
MOST = 1 << 22  # elements of a weight
SHUFFLE = 0.3  # cost of an element that is transposed, in vectors of multiplications


@dataclass(frozen=True)
class ImageSums:
    """``image`` is the axis over images, ``dy`` and ``x`` are the loads; ``outputs``: channels of dy lie in lanes."""

    image: Axis
    dy: Load
    x: Load
    outputs: bool


def image_sums_of(fold: Statement) -> ImageSums | None:
    """How ``fold`` may be summed image by image; None where it is no weight gradient, or where that would not pay."""
    piece = fold.piece
    if len(piece.at) != 4 or len(piece.reduce) != 3:
        return None
    image = piece.reduce[0]
    dy, x = _factors(fold, image)
    if dy is None or x is None:
        return None
    output, channel = dy.at[1], x.at[1]
    taps = [a for a in piece.at[2:] if isinstance(a, Axis)]
    if not (isinstance(output, Axis) and isinstance(channel, Axis)) or len(taps) != 2:
        return None
    if piece.at[0] is not output or piece.at[1] is not channel:
        return None
    if channel in axes_of(dy) or output in axes_of(x) or any(tap in axes_of(dy) for tap in taps):
        return None
    # The sums take as much memory as the weight, whatever the batch is.
    if fold.target.type.numel > MOST:
        return None
    windows = math.prod(tap.extent for tap in taps)
    packed = math.prod(Halo(x, ()).shape[2:])
    products = windows * math.prod(axis.extent for axis in piece.reduce[1:])
    inputs_cost = _vectors(channel) * output.extent * products + SHUFFLE * channel.extent * packed
    outputs_cost = _vectors(output) * channel.extent * products + SHUFFLE * output.extent * products / windows
    outputs = outputs_cost < inputs_cost
    few, strided = min(output.extent, channel.extent) < LANES, bool(Halo(x, piece.reduce).phases)
    if few and not strided and piece.reduce[2].extent % LANES == 0:
        return None  # vectors along rows are full, and what is packed would be read a few times only
    lanes = output if outputs else channel
    if lanes.extent < FILLED * LANES * _vectors(lanes):
        return None
    return ImageSums(image, dy, x, outputs)


def _vectors(axis: Axis) -> int:
    return -(-axis.extent // LANES)


def _factors(fold: Statement, image: Axis) -> tuple[Load | None, Load | None]:
    """The loads of the output's gradient and of the image, which reads windows."""
    found = [load for load in loads(fold.piece.value) if len(load.at) == 4 and load.at[0] is image]
    plain = [load for load in found if all(isinstance(i, Axis) for i in load.at[2:])]
    windows = [load for load in found if load not in plain and not isinstance(load.at[2], Axis)]
    if len(found) != 2 or len(plain) != 1 or len(windows) != 1:
        return None, None
    return plain[0], windows[0]


def sum_images(program: Program, fold: Statement, sums: ImageSums) -> None:
    """Let the fold run inside of a loop over images, with the channels of one factor innermost."""
    program.block = 1
    # The taps are one axis of the sums, as they are in the weight: squares of taps and channels are transposed.
    parts = parts_for(fold.target.type.size_bytes, (sums.x, sums.dy))
    order = ((1,), (2, 3), (0,)) if sums.outputs else ((0,), (2, 3), (1,))
    sum_in_turn(program, fold, sums.image, parts, order)
    fold.static += [axis for axis in fold.piece.parallel if axis is not fold.outer and axis.extent <= FEW]
    rows, columns = fold.piece.reduce
    lanes = sums.dy if sums.outputs else sums.x
    channels = lanes.at[1]
    assert isinstance(channels, Axis)
    count = block_of_rows(rows, columns, channels, lanes.dtype)
    block = cut_rows(fold, rows, count) if count is not None else None
    in_blocks = block is not None and sums.outputs
    for load in loads(fold.piece.value):
        if load.at[1] is channels:
            if not in_blocks:
                Packed(fold, load, (0, 2, 3, 1)).insert(program, 0)
        elif fold.buffer(load.ref).inlined or load.where is not None:
            Packed(fold, load, (0, 1, 2, 3)).insert(program, 0)
    if block is not None and in_blocks:
        # Behind what is packed of the whole image: it stands in the loop over blocks.
        (load,) = (load for load in loads(fold.piece.value) if load.at[1] is channels)
        pack_rows(program, fold, load, block)
