"""How rows of a table are cut for several threads: by their shapes alone, so that a run is like any other.

    begin 0, end 64, two threads          ->   chunks of 8 iterations, which threads take as they come
    stretches of 16 and 64 iterations     ->   a row for each: 0 to 16, then 16 to 80; threads meet in between
    one image of 64 channels              ->   slices of 32 channels, each with extents and windows of its own

Which chunk or slice an iteration is in changes nothing of what it computes (`loops/cuts.py`, `loops/slices.py`):
results have the same bits for any number of threads.  A row is cut where that gains more than it costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from concatc.loops.cuts import Cut, Stretch
from concatc.loops.slices import Slicing

if TYPE_CHECKING:
    from concatc.targets.cpu.step import Ints, StepNumbers

# Work (operations of a sum) of a launch that is worth cutting, about 5 us, and of a chunk, about 1 us.
WORTH, LEAST = 1 << 21, 1 << 19
# Chunks for each thread: with more than one, a thread that is held up leaves its share to the others.
EACH = 4
# What every slice repeats may be such a part of the work; below the second one there may be several a thread.
MOST_REPEATED, FEW_REPEATED = 0.5, 0.03


def chunk_of(stretch: Stretch, extent: int, sizes: Sequence[int], threads: int) -> int:
    """How many iterations of a stretch are a chunk; 0 where it is not cut."""
    if stretch.alone:
        return 0
    work = stretch.work_of(extent, sizes)
    grains = -(-extent // stretch.grain)
    # What is done in every chunk is done once by each thread at the most.
    most = min(threads if stretch.repeats else threads * EACH, grains, work // LEAST)
    if work < WORTH or most < 2:
        return 0
    return -(-grains // most) * stretch.grain


def slices_in(stretch: Stretch, extent: int, sizes: Sequence[int], threads: int) -> tuple[tuple[int, int], ...]:
    """The slices in which so many iterations of a stretch are run, from where to where; none where it is not sliced."""
    slicing = stretch.slicing
    if slicing is None or threads < 2:
        return ()
    length = slicing.extent(sizes)
    sliced, repeated = (extent * work for work in slicing.work_of(length, sizes))
    grains = -(-length // slicing.grain)
    each = EACH if repeated < FEW_REPEATED * sliced else 1
    most = min(threads * each, grains, sliced // LEAST)
    if sliced < WORTH or repeated > MOST_REPEATED * sliced or most < 2:
        return ()
    step = -(-grains // most) * slicing.grain
    return tuple((at, min(at + step, length)) for at in range(0, length, step))


@dataclass(frozen=True)
class Share:
    """Iterations of a launch between two meetings of the threads; ``chunk`` of them at a time, or 0: by one thread.

    With ``slices`` all of them are run in each slice.
    """

    begin: int
    end: int
    chunk: int
    private: tuple[int, ...]
    slicing: Slicing | None = None
    slices: tuple[tuple[int, int], ...] = ()


def shares_of(cut: Cut, begin: int, end: int, sizes: Sequence[int], threads: int) -> list[Share]:
    """The shares of a launch; one that is not cut where that is not worth it."""
    made: list[Share] = []
    at = begin
    for stretch in cut.stretches:
        until = stretch.end(at, end, sizes)
        chunk = chunk_of(stretch, until - at, sizes, threads)
        chunks = -(-(until - at) // chunk) if chunk else 1
        slices = slices_in(stretch, until - at, sizes, threads) if chunks < threads else ()
        if len(slices) > chunks and stretch.slicing is not None:
            made.append(Share(at, until, until - at, stretch.slicing.private, stretch.slicing, slices))
        elif made and not chunk and not made[-1].chunk:
            made[-1] = replace(made[-1], end=until)
        else:
            made.append(Share(at, until, chunk, stretch.private if chunk else ()))
        at = until
    return made


@dataclass(frozen=True)
class SharedTable:
    """A table with a row for each share.

    ``windows_at`` says where the windows of a row begin among ``numbers`` when it is run by several threads: there,
    what is each thread's own lies in the base behind the others, ``own_bytes`` of it at the most.  ``sizes_at`` is the
    same for its sizes.  ``slices`` says in how many slices a row is run, and how many numbers each has: windows, sizes.
    """

    table: StepNumbers
    chunks: Ints
    numbers: Ints
    windows_at: Ints
    sizes_at: Ints
    slices: Ints
    own_bytes: int


def share(table: StepNumbers, threads: int) -> SharedTable:
    """Cut the rows of a table for so many threads."""
    found = [(k, part) for k in range(len(table.kernels)) for part in _shares(table, k, threads)]
    rows = np.array([k for k, _ in found], np.int64)
    rest = table.rest[rows]
    rest[:, 1:3] = np.array([(part.begin, part.end) for _, part in found], np.int64).reshape(-1, 2)
    windows_at, sizes_at = table.windows_at[rows], table.sizes_at[rows]
    slices = np.zeros((len(rows), 2), np.int64)
    copies: list[Ints] = []
    count, own_bytes = len(table.numbers), 0
    for number, (k, part) in enumerate(found):
        if not part.private and not part.slices:
            continue
        windows = _private_windows(table, k, part.private)
        windows_at[number] = count
        if part.slices:
            copies += _slices(table, k, part, windows)
            sizes_at[number] = count + len(windows)
            slices[number] = len(part.slices), len(copies[-1])
        else:
            copies.append(windows)
        count += len(copies[-1]) * max(1, len(part.slices))
        if part.private:
            own_bytes = max(own_bytes, _own_bytes(table, k))
    shared = replace(
        table,
        kernels=tuple(table.kernels[k] for k in rows),
        phases=tuple(table.phases[k] for k in rows),
        windows_at=table.windows_at[rows],
        sizes_at=table.sizes_at[rows],
        rest=rest,
    )
    chunks = np.array([part.chunk for _, part in found], np.int64)
    numbers = np.concatenate([table.numbers, *copies])
    return SharedTable(shared, chunks, numbers, windows_at, sizes_at, slices, own_bytes)


def shared_part(table: StepNumbers, row: int, threads: int) -> float:
    """Which part of the work of a row so many threads share."""
    cut = table.cuts.get(table.kernels[row])
    if cut is None:
        return 0.0
    shares = list(_shares(table, row, threads))
    sizes = _sizes(table, row, cut)
    work = shared = 0
    at, end = shares[0].begin, shares[-1].end
    for stretch in cut.stretches:
        until = stretch.end(at, end, sizes)
        here = stretch.work_of(until - at, sizes)
        work += here
        shared += here if any(part.chunk and part.begin == at for part in shares) else 0
        at = until
    return shared / work if work else 0.0


def _shares(table: StepNumbers, row: int, threads: int) -> Iterator[Share]:
    _, begin, end, _ = table.rest[row].tolist()
    cut = table.cuts.get(table.kernels[row])
    if cut is None or threads < 2:
        yield Share(begin, end, 0, ())
        return
    yield from shares_of(cut, begin, end, _sizes(table, row, cut), threads)


def _sizes(table: StepNumbers, row: int, cut: Cut) -> list[int]:
    """The sizes of a row, as far as its work is said by them."""
    at = int(table.sizes_at[row])
    return [int(n) for n in table.numbers[at : at + 1 + max(cut.sizes, default=-1)]]


def _own_bytes(table: StepNumbers, row: int) -> int:
    """How much memory each thread has of its own for a row: from the first such window to the end of the last."""
    at = [int(table.windows_at[row]) + window + 1 for window in table.cuts[table.kernels[row]].private]
    return int(table.numbers[at[-1]] - table.numbers[at[0]] + table.rest[row, 3])


def _private_windows(table: StepNumbers, row: int, private: Sequence[int]) -> Ints:
    """The numbers of the windows of a row that finds what is each thread's own in the base behind the others."""
    first = int(table.windows_at[row])
    windows = table.numbers[first : int(table.sizes_at[row])].copy()
    if not private:
        return windows
    begin = int(windows[table.cuts[table.kernels[row]].private[0] + 1])
    for window in private:
        windows[window] = len(table.bases)
        windows[window + 1] -= begin
    return windows


def _slices(table: StepNumbers, row: int, part: Share, windows: Ints) -> list[Ints]:
    """The windows and sizes of each slice of a row."""
    slicing = part.slicing
    assert slicing is not None
    first = int(table.sizes_at[row])
    whole = np.concatenate([windows, table.numbers[first : first + slicing.size_count]])
    made: list[Ints] = []
    for begin, end in part.slices:
        numbers = whole.copy()
        for at, axis, element_bytes in slicing.moved:
            numbers[at + 1] += begin * whole[at + 2 + axis] * element_bytes
        numbers[[len(windows) + k for k in slicing.sizes]] = end - begin
        made.append(numbers)
    return made
