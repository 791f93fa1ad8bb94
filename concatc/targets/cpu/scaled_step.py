"""The table of a step at other sizes of the net: the same kernels, the numbers as polynomials in the dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from concatc.ir.numbers import digest_of
from concatc.loops.plan import Launch
from concatc.loops.polynomials import NotScalableError, Polynomials, polynomials
from concatc.loops.scaled_layout import Addresses, Blocks
from concatc.targets.cpu.step import Ints, Row, StepNumbers, StepTable


@dataclass(frozen=True)
class ScaledStep:
    """A table at any sizes.

    ``table`` is the one here; ``numbers`` are its numbers, then the extent of the loop that each row cuts, of which
    ``chunk`` iterations are one: a row ends after the last of these, whole or not; then the bytes of the last window of
    which threads have copies.  Numbers at ``offsets`` are places in ``blocks``, those at ``scratch`` the starts of
    scratch buffers, in order.
    """

    table: StepNumbers
    numbers: Polynomials
    offsets: Ints
    blocks: Ints
    scratch: Ints
    chunk: Ints

    def at(self, sizes: Sequence[int], addresses: Addresses) -> StepNumbers:
        """The table at these values of the dims."""
        found = self.numbers.at(sizes)
        found[self.offsets] += addresses.starts[self.blocks]
        found[self.scratch] += addresses.scratch
        count, rows = len(self.table.numbers), len(self.table.kernels)
        rest = self.table.rest.copy()
        rest[:, 2] = -(-found[count : count + rows] // self.chunk)
        rest[:, 3] = found[count + rows :]
        bases = [(name, addresses.size_bytes.get(name, n)) for name, n in self.table.bases]
        return replace(self.table, bases=bases, numbers=found[:count], rest=rest)

    def is_at(self, sizes: Sequence[int], addresses: Addresses, table: StepNumbers) -> bool:
        """Whether the table at these values of the dims is that one, where blocks lie as ``addresses`` says."""
        mine = self.at(sizes, addresses)
        same = (mine.numbers == table.numbers).all() and (mine.rest[:, :3] == table.rest[:, :3]).all()
        # A block of rows is smaller where there are fewer rows than it may hold: threads have room for a whole one.
        return bool(same and (mine.rest[:, 3] >= table.rest[:, 3]).all())


@dataclass(frozen=True)
class StepSample:
    """What the table of a plan without reuse says of other sizes, as data.

    ``rest`` is a digest of what is no number of a size.  ``numbers`` are those of all rows, offsets as places in
    ``blocks``, the blocks of all windows; ``extents`` and ``chunks`` those of the outermost loops; ``own_bytes`` the
    bytes of the last window of which threads have copies.
    """

    rest: str
    numbers: list[int]
    blocks: list[int]
    extents: list[int]
    chunks: list[int]
    own_bytes: list[int]

    @staticmethod
    def of(
        table: StepTable, chunked: Sequence[tuple[int, int]], launches: Sequence[Launch], blocks: Blocks
    ) -> StepSample:
        """That of a table of these launches, with the extents and chunks of their outermost loops."""
        found = [_in_blocks(table, blocks, row, launch) for row, launch in zip(table.rows, launches, strict=True)]
        return StepSample(
            _rest_of(table),
            [n for row, _ in found for n in row],
            [block for _, of_row in found for block in of_row],
            [extent for extent, _ in chunked],
            [chunk for _, chunk in chunked],
            [row.own_bytes(table.cuts.get(row.kernel)) for row in table.rows],
        )


def scaled_step(
    here: Mapping[str, int],
    table: StepTable,
    launches: Sequence[Launch],
    samples: Sequence[tuple[Mapping[str, int], StepSample, Ints]],
) -> ScaledStep:
    """The table of some launches at any sizes; samples are given with where their scratch buffers start.

    Raises :class:`NotScalableError` where the samples are not one table.
    """
    rest = _rest_of(table)
    if any(sample.rest != rest for _, sample, _ in samples):
        raise NotScalableError("other launches at other sizes")
    blocks, chunks = samples[0][1].blocks, samples[0][1].chunks
    if any(sample.blocks != blocks for _, sample, _ in samples):
        raise NotScalableError("windows lie in other blocks at other sizes")
    if any(sample.chunks != chunks for _, sample, _ in samples):
        raise NotScalableError("other chunks at other sizes")
    here_numbers = StepNumbers.of(table)
    begins = here_numbers.windows_at.tolist()
    offsets = [begin + at + 1 for begin, row in zip(begins, table.rows, strict=True) for at in row.starts]
    scratch = [
        begin + at + 1
        for begin, row, launch in zip(begins, table.rows, launches, strict=True)
        for at in row.starts[len(launch.reads) + len(launch.writes) :]
        if launch.scratch is not None
    ]
    columns: list[tuple[Mapping[str, int], list[int]]] = []
    for dims, sample, buffers in samples:
        if len(buffers) != len(scratch):
            raise NotScalableError("scratch buffers that kernels do not have")
        numbers = list(sample.numbers)
        for at, start in zip(scratch, buffers.tolist(), strict=True):
            numbers[at] -= start
        columns.append((dims, [*numbers, *sample.extents, *sample.own_bytes]))
    in_block = np.array(blocks, np.int64)
    moving = in_block >= 0
    return ScaledStep(
        here_numbers,
        polynomials(here, columns, here_numbers.numbers.tolist()),
        np.array(offsets, np.int64)[moving],
        in_block[moving],
        np.array(scratch, np.int64),
        np.array(chunks, np.int64),
    )


def _rest_of(table: StepTable) -> str:
    cuts = [(name, cut.data()) for name, cut in sorted(table.cuts.items())]
    return digest_of(([_fixed(row) for row in table.rows], cuts))


def _fixed(row: Row) -> tuple[object, ...]:
    bases = [row.windows[at] for at in row.starts]
    return row.kernel, row.phase, row.add, row.begin, row.starts, bases, len(row.windows), len(row.sizes)


def _in_blocks(table: StepTable, blocks: Blocks, row: Row, launch: Launch) -> tuple[list[int], list[int]]:
    """The numbers of a row, offsets as places in blocks, and the block of each window."""
    numbers, found = [*row.windows, *row.sizes], []
    windows = [*launch.reads, *launch.writes]
    for k, at in enumerate(row.starts):
        is_empty = 0 in windows[k].shape if k < len(windows) else launch.scratch is None
        base, offset = table.bases[row.windows[at]][0], row.windows[at + 1]
        block, numbers[at + 1] = (-1, offset) if is_empty else blocks.of_byte(base, offset)
        found.append(block)
    return numbers, found
