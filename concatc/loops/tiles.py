"""How an image is cut into tiles, and which tiles are worked on together.

    7 x 7 results in tiles of 2 x 2:   4 rows of 4 tiles, which hang over the end by one
    32 x 32, 16 channels to 16:        4 blocks of 4 rows of 16 tiles

A block is some rows of tiles.  What is made of it on the way (transformed inputs, products) stays in the second cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.loops.winograd_algorithms import Algorithm

BLOCK_BYTES = 1 << 17  # of transformed inputs and products
LEAST = 16  # tiles of a block: so many at least share what is read of the filters


@dataclass(frozen=True)
class Tiles:
    """``blocks`` times ``rows`` times ``columns`` tiles of ``outputs`` x ``outputs`` results."""

    blocks: int
    rows: int
    columns: int
    outputs: int

    @property
    def count(self) -> int:
        """Tiles of a block."""
        return self.rows * self.columns

    @property
    def pitch(self) -> int:
        """Tiles from one plane of products to the next: odd, or all planes would meet in the same lines of a cache."""
        return self.count | 1

    @property
    def block_height(self) -> int:
        """Rows of results of a block."""
        return self.rows * self.outputs

    @property
    def height(self) -> int:
        """Rows of results that the tiles cover."""
        return self.blocks * self.block_height

    @property
    def width(self) -> int:
        """Columns of results that the tiles cover."""
        return self.columns * self.outputs


def tiles_of(height: int, width: int, algorithm: Algorithm, channels: int) -> Tiles:
    """The tiles of ``height`` x ``width`` results; ``channels`` are those that are read and those that are made."""
    down, along = -(-height // algorithm.outputs), -(-width // algorithm.outputs)
    most = max(LEAST, BLOCK_BYTES // (algorithm.tile**2 * channels * 4))
    blocks = -(-down // max(1, min(down, most // along)))
    return Tiles(blocks, -(-down // blocks), along, algorithm.outputs)
