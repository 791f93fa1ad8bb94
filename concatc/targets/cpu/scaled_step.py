"""The table of a step at other sizes of the net: the same kernels, the numbers as polynomials in the dims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

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
    """The table of a plan without reuse, the extents and chunks of outermost loops, the launches, their blocks, and
    where scratch buffers start.
    """

    dims: Mapping[str, int]
    table: StepTable
    chunked: Sequence[tuple[int, int]]
    launches: Sequence[Launch]
    blocks: Blocks
    scratch: Ints


def scaled_step(here: Mapping[str, int], table: StepTable, samples: Sequence[StepSample]) -> ScaledStep:
    """The table at any sizes; raises :class:`NotScalableError` where the samples are not one table."""
    columns: list[tuple[Mapping[str, int], list[int]]] = []
    blocks: list[list[int]] = []
    fixed = [_fixed(row) for row in table.rows]
    for sample in samples:
        rows = sample.table.rows
        if [_fixed(row) for row in rows] != fixed or sample.table.cuts != table.cuts:
            raise NotScalableError("other launches at other sizes")
        buffers = iter(sample.scratch.tolist())
        found = [_in_blocks(sample, row, launch, buffers) for row, launch in zip(rows, sample.launches, strict=True)]
        if next(buffers, None) is not None:
            raise NotScalableError("scratch buffers that kernels do not have")
        numbers = [n for row, _ in found for n in row]
        own = [row.own_bytes(table.cuts.get(row.kernel)) for row in rows]
        columns.append((sample.dims, [*numbers, *(n for n, _ in sample.chunked), *own]))
        blocks.append([block for _, of_row in found for block in of_row])
    if any(b != blocks[0] for b in blocks):
        raise NotScalableError("windows lie in other blocks at other sizes")
    chunks = [[chunk for _, chunk in sample.chunked] for sample in samples]
    if any(c != chunks[0] for c in chunks):
        raise NotScalableError("other chunks at other sizes")
    here_numbers = StepNumbers.of(table)
    begins = here_numbers.windows_at.tolist()
    offsets = [begin + at + 1 for begin, row in zip(begins, table.rows, strict=True) for at in row.starts]
    scratch = [
        begin + at + 1
        for begin, row, launch in zip(begins, table.rows, samples[0].launches, strict=True)
        for at in row.starts[len(launch.reads) + len(launch.writes) :]
        if launch.scratch is not None
    ]
    in_block = np.array(blocks[0], np.int64)
    moving = in_block >= 0
    return ScaledStep(
        here_numbers,
        polynomials(here, columns, here_numbers.numbers.tolist()),
        np.array(offsets, np.int64)[moving],
        in_block[moving],
        np.array(scratch, np.int64),
        np.array(chunks[0], np.int64),
    )


def _fixed(row: Row) -> tuple[object, ...]:
    bases = [row.windows[at] for at in row.starts]
    return row.kernel, row.phase, row.add, row.begin, row.starts, bases, len(row.windows), len(row.sizes)


def _in_blocks(sample: StepSample, row: Row, launch: Launch, buffers: Iterator[int]) -> tuple[list[int], list[int]]:
    """The numbers of a row, offsets as places in blocks, and the block of each window."""
    numbers, blocks = [*row.windows, *row.sizes], []
    windows = [*launch.reads, *launch.writes]
    for k, at in enumerate(row.starts):
        is_empty = 0 in windows[k].shape if k < len(windows) else launch.scratch is None
        base, offset = sample.table.bases[row.windows[at]][0], row.windows[at + 1]
        block, place = (-1, offset) if is_empty else sample.blocks.of_byte(base, offset)
        if k >= len(windows) and not is_empty:
            place -= next(buffers, 0)
        numbers[at + 1] = place
        blocks.append(block)
    return numbers, blocks
