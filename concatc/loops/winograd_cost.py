"""Estimates what a convolution costs an image, directly and by Winograd's algorithms, and takes the least.

Counted are cycles of a core that makes two multiplications of a vector each cycle: products, transforms of tiles
(those that hang over the end of an image included), and the transformed filters, which are read again for each block
of tiles.  Constants are fitted to kernels as measured (docs/TARGET_CPU.md has them beside the estimates).  The batch
size is no part of it: kernels serve every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from concatc.loops.pieces import Piece
from concatc.loops.sliding import Windows, WindowSums, window_sums_of, windows_of
from concatc.loops.tiles import Tiles, tiles_of
from concatc.loops.winograd_algorithms import TAPS, Algorithm

LANES = 16
PRODUCTS = 0.85  # of the peak, for products of transformed tiles
DIRECT, DIRECT_SUMS = 0.83, 0.75  # of the peak, for direct convolutions and for their weight gradients
TRANSFORM = {2: 85.0, 4: 300.0}  # of a tile's vector: packed, transformed, and stored; or the same on its way out
IMAGES = 8  # over so many the transform of the filters is spread
NEAR = 1 << 20  # what transformed filters may take to stay in the second cache
FILTER_BYTE, NEAR_BYTE, FAR_BYTE = 1 / 4, 1 / 64, 1 / 16  # cycles to transform one, and to read one again
SUM_NEAR_BYTE, SUM_FAR_BYTE = 1 / 12, 1 / 5  # to read and write a byte of a sum
WORTH = 1.1  # a choice must promise as much
FILLED = 0.75  # the least part of the lanes that must hold channels
LEAST = 16  # channels, on both sides


def best_algorithm(piece: Piece, admitted: Sequence[Algorithm]) -> Algorithm | None:
    """The algorithm by which a piece takes the least time; None where it is best as it is, or is no convolution."""
    found = windows_of(piece) or window_sums_of(piece)
    if found is None or not is_admissible(found) or piece.target.dtype != "f32":
        return None
    ins, outs = _channels(found)
    if min(ins, outs) < LEAST or any(n < FILLED * LANES * _vectors(n) for n in (ins, outs)):
        return None
    costs = [(_cost(found, algorithm), k) for k, algorithm in enumerate(admitted)]
    cost, k = min(costs, default=(math.inf, 0))
    return admitted[k] if cost * WORTH < _direct_cost(found) else None


def is_admissible(found: Windows | WindowSums) -> bool:
    """Whether the windows are of 3 x 3."""
    return all(tap.extent == TAPS for tap in found.taps)


def tiles_for(found: Windows | WindowSums, algorithm: Algorithm) -> Tiles:
    """How the images of a convolution are cut into tiles."""
    return tiles_of(found.rows[0].extent, found.rows[1].extent, algorithm, sum(_channels(found)))


def _channels(found: Windows | WindowSums) -> tuple[int, int]:
    """Channels that are read, and those that lie in lanes of the products."""
    if isinstance(found, Windows):
        return found.reduce.extent, found.channel.extent
    return found.channels[1].extent, found.channels[0].extent


def _direct_cost(found: Windows | WindowSums) -> float:
    ins, outs = _channels(found)
    products = TAPS * TAPS * ins * outs * found.rows[0].extent * found.rows[1].extent
    return products / (2 * LANES) / (DIRECT if isinstance(found, Windows) else DIRECT_SUMS)


def _cost(found: Windows | WindowSums, algorithm: Algorithm) -> float:
    ins, outs = _channels(found)
    tiles = tiles_for(found, algorithm)
    count, size = tiles.blocks * tiles.count, algorithm.tile**2
    products = size * count * ins * _vectors(outs) / 2 / PRODUCTS
    transforms = count * (_vectors(ins) + _vectors(outs)) * TRANSFORM[algorithm.outputs]
    filter_bytes = size * ins * outs * 4
    if isinstance(found, WindowSums):
        sums = filter_bytes * tiles.blocks * (SUM_NEAR_BYTE if filter_bytes <= NEAR else SUM_FAR_BYTE)
        return products + transforms + sums
    again = filter_bytes * tiles.blocks * (NEAR_BYTE if filter_bytes <= NEAR else FAR_BYTE)
    return products + transforms + filter_bytes * FILTER_BYTE / IMAGES + again


def _vectors(channels: int) -> int:
    return -(-channels // LANES)
