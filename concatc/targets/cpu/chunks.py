"""How rows of a table are cut for several threads: by their shapes alone, so that a run is like any other.

    begin 0, end 64, two threads   ->   chunks of 8 iterations, which threads take as they come

Which chunk an iteration is in changes nothing of what it computes (`loops/cuts.py`): results have the same bits for any
number of threads.  A row is cut where that gains more than it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from concatc.loops.cuts import Cut

if TYPE_CHECKING:
    from concatc.targets.cpu.step import Ints, StepNumbers

# Work (operations of a sum) of a launch that is worth cutting, about 5 us, and of a chunk, about 1 us.
WORTH, LEAST = 1 << 21, 1 << 19
# Chunks for each thread: with more than one, a thread that is held up leaves its share to the others.
EACH = 4


def chunk_of(cut: Cut, extent: int, sizes: Ints, threads: int) -> int:
    """How many iterations of a launch are a chunk; 0 where it is not cut."""
    work = cut.work_of(extent, sizes.tolist())
    grains = -(-extent // cut.grain)
    # What is done in every chunk is done once by each thread at the most.
    most = min(threads if cut.repeats else threads * EACH, grains, work // LEAST)
    if work < WORTH or most < 2:
        return 0
    return -(-grains // most) * cut.grain


def chunks_of(table: StepNumbers, threads: int) -> Ints:
    """The chunk of each row; 0 for rows that are run by one thread."""
    found = np.zeros(len(table.kernels), np.int64)
    for k, kernel in enumerate(table.kernels):
        cut = table.cuts.get(kernel)
        if cut is not None:
            _, begin, end, _ = table.rest[k].tolist()
            most = 1 + max((number for _, _, of in cut.work for number in of), default=-1)
            at = table.sizes_at[k]
            found[k] = chunk_of(cut, end - begin, table.numbers[at : at + most], threads)
    return found


def own_bytes(table: StepNumbers, row: int) -> int:
    """How much memory each thread has of its own for a row: from the first such window to the end of the last."""
    at = [int(table.windows_at[row]) + window + 1 for window in table.cuts[table.kernels[row]].private]
    return int(table.numbers[at[-1]] - table.numbers[at[0]] + table.rest[row, 3]) if at else 0


def private_numbers(table: StepNumbers, chunks: Ints) -> Ints:
    """The numbers of a table whose rows find what is each thread's own in the base behind the others."""
    numbers = table.numbers.copy()
    for k in np.flatnonzero(chunks).tolist():
        at = [int(table.windows_at[k]) + window for window in table.cuts[table.kernels[k]].private]
        begin = int(numbers[at[0] + 1]) if at else 0
        for base in at:
            numbers[base] = len(table.bases)
            numbers[base + 1] -= begin
    return numbers
