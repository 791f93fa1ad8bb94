"""What a tile asks for ahead: the processor fetches it while it multiplies.

    before    for channels: total += image[n, k, i + a, j ..] * w[c, k, a, b]
              y[n, c, i, j ..] = f(total, z[n, c, i, j ..])

    after     prefetch z[n, c, i, j ..]                                what stands behind the sum reads
              for channels:
                  prefetch image[n, k, i + rows + last a, j ..]    what the next tile reads first
                  total += image[n, k, i + a, j ..] * w[c, k, a, b]
              y[n, c, i, j ..] = f(total, z[n, c, i, j ..])

Such a tile reads one or two vectors of each of many channels, an image's size from each other: the processor follows no
such stream by itself, and waits for memory once a channel.  A prefetch computes nothing and never fails, whatever its
address; so results are the same, and nobody need know where an image ends.

What transposes an image reads as many channels at a time as a vector has lanes:

    before    for images n:
                p[u, v, c] = image[n, c, u, v ..]
    after     for images n:
                prefetch image[n, c, u, v + 128 ..]              of all channels of a square
                p[u, v, c] = image[n, c, u, v ..]
"""

from __future__ import annotations

from concatc.ir.core import Operation
from concatc.targets.cpu.nest import Nest
from concatc.targets.cpu.tile import Tile

LINE = 64  # bytes that come together
FURTHER_ON = 128  # elements of a row: what comes while memory answers


def waits_for_memory(nest: Nest, tile: Tile) -> bool:
    """Whether a tile adds up written-out taps of many channels along rows of images."""
    if nest.term is None or tile.vector is None or tile.vector.reduce or tile.zipped is not None:
        return False
    return 0 < len(tile.taps) < len(nest.reduce)


def read_behind(nest: Nest, tile: Tile) -> list[Operation]:
    """The loads along lanes that stand behind the sum."""
    return [load for load in nest.loads_of([store.operands[0] for store in nest.stores]) if _is_row(nest, tile, load)]


def next_rows(nest: Nest, tile: Tile) -> list[tuple[Operation, list[int]]]:
    """The loads along lanes of which the sum takes taps of channels, and how far each index is on in the next tile.

    The next tile lies along the innermost axis of the result that is not in lanes: the rows of an image.
    """
    others = [axis for axis in nest.parallel if axis is not tile.vector]
    if not others or nest.term is None:
        return []
    rows, taps = others[-1], frozenset(tile.taps)
    channels = frozenset(nest.reduce) - taps
    found = []
    for load in nest.loads_of([nest.term]):
        axes = nest.axes_of(load.result)
        if not (_is_row(nest, tile, load) and rows in axes and axes & channels and axes & taps):
            continue
        steps = [nest.step(index, rows) for index in load.operands[1:]]
        if all(step is not None for step in steps):
            found.append((load, [int((step or 0) * tile.row(rows)) for step in steps]))
    return found


def rows_of_image(nest: Nest, tile: Tile) -> list[Operation]:
    """The loads of a map that transposes images, one after the other, where these lie in memory."""
    if tile.across is None or not nest.outer:
        return []
    image = nest.outer[-1]
    loads = [load for load in nest.loads() if "cnet.scratch" not in load.operands[0].attrs]
    return [load for load in loads if any(image in nest.axes_of(index) for index in load.operands[1:])]


def _is_row(nest: Nest, tile: Tile, load: Operation) -> bool:
    assert tile.vector is not None
    return nest.lane_step(tile.vector, load.operands[0], load.operands[1:]) == 1
