"""The table of a step as text, and back: one launch a line, so that a table is read without being held as text.

    {"bases": [["inputs", 196672], ["arena", 326080]], "symbols": {"k0_relu": "k0_relu"},
        "takes": {"k0_relu": [2, 7, 7]}, "cuts": {}}
    ["k0_relu", "forward", 0, 0, 8, [[0, 0, 196608, 6144, 256, 16, 1], [1, 64, 196672, 6144, 256, 16, 1]], [24, 16]]

The first line names the bases with their bytes, the symbol of each kernel in the object code, what it takes (how many
sizes, and the length of each window), and under ``cuts`` how kernels may be cut for several threads, the fields of each
:class:`Stretch` in order.  A launch is its
kernel, its phase, its ``add`` bits, where its chunk begins and ends, its windows and its sizes; a window is the number
of its base, where it begins and ends there in bytes, and its strides in elements.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from concatc.loops.cuts import Cut
from concatc.targets.cpu.step import PHASES, Row, StepNumbers, StepTable

LARGEST = (1 << 62) - 1


class TableError(Exception):
    """The text is no table of a step; says which line is wrong, and how."""


def table_text(table: StepTable, symbols: Mapping[str, str], grains: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """The lines of a table."""
    cuts = {kernel: cut.with_grains(grains.get(kernel, ())).data() for kernel, cut in table.cuts.items()}
    takes = {row.kernel: _form(_windows(row), row.sizes) for row in table.rows}
    yield json.dumps({"bases": table.bases, "symbols": dict(symbols), "takes": takes, "cuts": cuts}) + "\n"
    for row in table.rows:
        windows = _windows(row)
        yield json.dumps([row.kernel, row.phase, row.add, row.begin, row.end, windows, row.sizes]) + "\n"


def _windows(row: Row) -> list[list[int]]:
    stops = [*row.starts[1:], len(row.windows)]
    return [
        [*row.windows[at : at + 2], end, *row.windows[at + 2 : stop]]
        for at, stop, end in zip(row.starts, stops, row.ends, strict=True)
    ]


def _form(windows: Sequence[Any], sizes: Sequence[Any]) -> list[int]:
    """What a kernel takes: how many sizes, and the length of each window."""
    return [len(sizes), *(len(window) if isinstance(window, list) else 0 for window in windows)]


def read_table(lines: Iterable[str | bytes]) -> tuple[StepNumbers, dict[str, str]]:
    """The table, and the symbols of its kernels.

    Raises :class:`TableError` for text of another form, for launches of kernels without a symbol, and for windows that
    do not lie in their base.
    """
    reader: _Reader | None = None
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            if reader is None:
                reader = _Reader.of(data)
            else:
                reader.add(data)
        except (ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, _WrongError) else "it is no JSON"
            raise TableError(f"line {number}: {why}") from None
    if reader is None:
        raise TableError("it is empty")
    return reader.table(), reader.symbols


class _WrongError(ValueError):
    """What is wrong in a line."""


@dataclass
class _Reader:
    """What was read so far: names, and all numbers one behind the other."""

    bases: list[tuple[str, int]]
    symbols: dict[str, str]
    takes: dict[str, list[int]]
    cuts: dict[str, Cut]

    def __post_init__(self) -> None:
        self._names = {kernel: kernel for kernel in self.symbols}  # one text for all launches of a kernel
        self._kernels: list[str] = []
        self._phases: list[str] = []
        self._numbers, self._at, self._rest = array("q"), array("q"), array("q")

    @staticmethod
    def of(data: Any) -> _Reader:
        """The first line."""
        if not isinstance(data, dict) or set(data) != {"bases", "symbols", "takes", "cuts"}:
            raise _WrongError("not the bases, symbols and cuts of a table")
        bases, symbols, takes, cuts = data["bases"], data["symbols"], data["takes"], data["cuts"]
        if not isinstance(bases, list) or not all(_is_base(base) for base in bases):
            raise _WrongError("bases are names, each with its bytes")
        if not isinstance(symbols, dict) or not all(isinstance(symbol, str) for symbol in symbols.values()):
            raise _WrongError("symbols are a name for each kernel")
        if not isinstance(cuts, dict) or not all(map(_is_cut, cuts.values())):
            raise _WrongError("cuts are what each thread has of its own, and how much is done, for kernels")
        if not isinstance(takes, dict) or not all(map(_is_form, takes.values())):
            raise _WrongError("what kernels take is how many sizes, and the length of each window")
        made = {kernel: Cut.of(cut) for kernel, cut in cuts.items()}
        return _Reader([(name, size_bytes) for name, size_bytes in bases], symbols, takes, made)

    def add(self, data: Any) -> None:
        """A launch."""
        if not isinstance(data, list) or len(data) != 7:
            raise _WrongError("not a launch")
        kernel, phase, *rest, windows, sizes = data
        if not isinstance(kernel, str) or kernel not in self._names:
            raise _WrongError("a kernel without a symbol")
        if phase not in PHASES:
            raise _WrongError("an unknown phase")
        if not (all(map(_is_size, rest)) and rest[1] <= rest[2]):
            raise _WrongError("what is added, or where the chunk begins and ends, is wrong")
        if not isinstance(windows, list) or not isinstance(sizes, list) or not all(map(_is_size, sizes)):
            raise _WrongError("not windows and sizes")
        if self.takes.get(kernel) != _form(windows, sizes):
            raise _WrongError(f"the kernel {kernel} takes other windows and sizes")
        self._at.append(len(self._numbers))
        for window in windows:
            self._add_window(window)
        self._at.append(len(self._numbers))
        self._numbers.extend(sizes)
        self._rest.extend((*rest, self._own_bytes(kernel, windows, len(sizes))))
        self._kernels.append(self._names[kernel])
        self._phases.append(PHASES[PHASES.index(phase)])

    def _own_bytes(self, kernel: str, windows: list[list[int]], sizes: int) -> int:
        """The bytes of the last window of which each thread has a copy."""
        cut = self.cuts.get(kernel)
        if cut is None:
            return 0
        starts = itertools.accumulate((len(window) - 1 for window in windows), initial=0)
        found = dict(zip(starts, windows, strict=False))
        moved = [place for s in cut.stretches if s.slicing is not None for place in s.slicing.moved]
        counts = {s.slicing.size_count for s in cut.stretches if s.slicing is not None}
        lacks = bool(counts - {sizes}) or any(at not in found or axis + 3 >= len(found[at]) for at, axis, _ in moved)
        if lacks or not all(at in found for at in cut.private) or any(k >= sizes for k in cut.sizes):
            raise _WrongError(f"the kernel {kernel} is cut by what it does not have")
        own = [found[at] for at in cut.private]
        if any(base != after or end > begin for (base, _, end, *_), (after, begin, *_) in itertools.pairwise(own)):
            raise _WrongError("what each thread has of its own is not in order")
        return own[-1][2] - own[-1][1] if own else 0

    def _add_window(self, window: Any) -> None:
        if not isinstance(window, list) or len(window) < 3 or not all(map(_is_integer, window)):
            raise _WrongError("not a window")
        base, begin, end, *strides = window
        if not 0 <= base < len(self.bases):
            raise _WrongError("a window of an unknown base")
        name, size_bytes = self.bases[base]
        if not 0 <= begin <= end <= size_bytes:
            raise _WrongError(f"bytes {begin} to {end} are not all in {name}, which has {size_bytes}")
        self._numbers.extend((base, begin, *strides))

    def table(self) -> StepNumbers:
        """The table."""
        at = np.array(self._at, np.int64).reshape(-1, 2)
        return StepNumbers(
            self.bases,
            tuple(self._kernels),
            tuple(self._phases),
            np.array(self._numbers, np.int64),
            at[:, 0],
            at[:, 1],
            np.array(self._rest, np.int64).reshape(-1, 4),
            self.cuts,
        )


def _is_integer(value: Any) -> bool:
    return type(value) is int and -LARGEST <= value <= LARGEST


def _is_size(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_form(value: Any) -> bool:
    """Whether there is a window at least: what a kernel writes."""
    return isinstance(value, list) and len(value) > 1 and all(map(_is_size, value))


def _is_cut(value: Any) -> bool:
    """Whether it is the data of a :class:`Cut`: only the last stretch has what is left."""
    if not isinstance(value, list) or not value or not all(map(_is_stretch, value)):
        return False
    return all((stretch[4] is None) == (k + 1 == len(value)) for k, stretch in enumerate(value))


def _is_stretch(value: Any) -> bool:
    """Whether it is the fields of a :class:`Stretch`, in order."""
    if not isinstance(value, list) or len(value) != 7:
        return False
    private, repeats, work, grain, extent, alone, slicing = value
    return (
        isinstance(private, list)
        and all(map(_is_size, private))
        and private == sorted(set(private))
        and type(repeats) is bool
        and isinstance(work, list)
        and all(map(_is_term, work))
        and _is_size(grain)
        and grain > 0
        and (extent is None or _is_extent(extent))
        and type(alone) is bool
        and (slicing is None or _is_slicing(slicing))
    )


def _is_slicing(value: Any) -> bool:
    """Whether it is the fields of a :class:`Slicing`, in order."""
    if not isinstance(value, list) or len(value) != 6:
        return False
    sizes, moved, private, work, *counts = value
    return (
        all(isinstance(of, list) for of in (sizes, moved, private, work))
        and all(map(_is_size, (*sizes, *private, *counts)))
        and private == sorted(set(private))
        and all(isinstance(of, list) and len(of) == 3 and all(map(_is_size, of)) for of in moved)
        and all(map(_is_term, work))
        and counts[1] > 0
    )


def _is_term(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and _is_size(value[0])
        and type(value[1]) is bool
        and isinstance(value[2], list)
        and all(map(_is_size, value[2]))
    )


def _is_extent(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
        return False
    return all(map(_is_size, (value[0], *value[1])))


def _is_base(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _is_size(value[1])
