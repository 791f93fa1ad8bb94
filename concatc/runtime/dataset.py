"""Arrays of a data file as batches for the inputs of a net.

A batch of a net with the inputs ``a: f32[x, 64]``, ``b: f32[y, 64]``, ``label: i32[x + y]`` is ``x + y`` rows of the
data: ``a`` takes the first ``x``, ``b`` the next ``y``, ``label`` all of them.  In general each dim that is alone on a
first axis takes rows of its own, in order of appearance; a first axis that is a formula takes the whole batch, or
repeats it.  :func:`as_one_batch` does the same with all rows of a file at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.types import NUMPY_DTYPES
from concatc.loops.memory import Array
from concatc.runtime.index_check import IndexCheck, check_indices
from concatc.runtime.inputs import MASKED, class_numbers_help, describe
from concatc.runtime.signature import Input


def matching(inputs: Mapping[str, Input], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that are inputs, in the inputs' element types where that loses no kind of number."""
    taken = {}
    problems = []
    for name, spec in inputs.items():
        if name not in arrays:
            continue
        try:
            taken[name] = convert(arrays[name], spec)
        except UsageError as error:
            problems += error.diagnostics
    if problems:
        raise UsageError(problems)
    return taken


def convert(array: Array, spec: Input) -> Array:
    """The array in the element type of an input: integers may become floats, never the other way."""
    if isinstance(array, np.ma.MaskedArray):
        raise UsageError(f"`{spec.name}`: {MASKED}")
    dtype = NUMPY_DTYPES[spec.type.dtype]
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype.kind != "f"):
        message = f"`{spec.name}` holds {array.dtype}, but the net takes {describe(spec)}"
        raise UsageError(Diagnostic(message, help=class_numbers_help(spec, array)))
    converted = array.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(converted, array):
        raise UsageError(f"`{spec.name}` holds numbers that do not fit {dtype.name}")
    return np.asarray(converted)


@dataclass(frozen=True)
class Slots:
    """Which rows of a batch an input takes."""

    input: str
    rows: Array


class Dataset:
    """Rows for the inputs of a net, split into rows to train on and the last ones, held out."""

    def __init__(self, inputs: Mapping[str, Input], arrays: Mapping[str, Array], held_out: float = 0.2) -> None:
        """Take the arrays of a file.  Raises one UsageError with all that does not fit."""
        if not 0.0 <= held_out < 1.0:
            raise UsageError(f"the held-out part is from 0 to below 1, not {held_out}")
        check_names(inputs, arrays)
        self._arrays = matching(inputs, arrays)
        self.rows = _row_count(inputs, self._arrays)
        self.batch_rows, self._slots, self._whole = _slots(inputs, self._arrays, self.rows)
        if not self.batch_rows:
            raise UsageError(Diagnostic("a batch of no rows trains nothing", help="choose dims of at least 1"))
        held_rows = round(self.rows * held_out)
        self.train_rows = np.arange(self.rows - held_rows)
        self.held_rows = np.arange(self.rows - held_rows, self.rows)
        if len(self.train_rows) < self.batch_rows:
            message = f"a batch takes {self.batch_rows} rows, but there are {len(self.train_rows)} to train on"
            kept = f" ({held_rows} of {self.rows} rows are held out)" if held_rows else ""
            raise UsageError(
                Diagnostic(f"{message}{kept}", help="choose a smaller batch by its dims, or give more data")
            )

    def check(self, checks: Iterable[IndexCheck]) -> None:
        """Raise one :class:`UsageError` with every input that holds an index out of range, in whatever row.

        Where only some elements of a batch are indices, steps look at them.
        """
        check_indices((c for c in checks if c.kind == "input" and c.positions is None), {"input": self._arrays})

    def slots(self, name: str) -> Array | None:
        """The rows of a batch that an input takes; None for an input that takes the same array always."""
        return next((s.rows for s in self._slots if s.input == name), None)

    def batch(self, rows: Array) -> dict[str, Array]:
        """The inputs for these rows of the data (as many as a batch takes)."""
        inputs = {s.input: self._arrays[s.input][rows[s.rows]] for s in self._slots}
        return {**inputs, **{name: self._arrays[name] for name in self._whole}}

    def epoch(self, rng: np.random.Generator) -> Iterator[dict[str, Array]]:
        """The training rows in a random order, batch by batch; what does not fill a batch waits for another epoch."""
        order = rng.permutation(self.train_rows)
        for start in range(0, len(order) - self.batch_rows + 1, self.batch_rows):
            yield self.batch(order[start : start + self.batch_rows])

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.train_rows) // self.batch_rows

    def held_batches(self) -> Iterator[tuple[dict[str, Array], int]]:
        """The held-out rows, batch by batch, and how many rows of the batch count; the last is filled up with row 0."""
        for start in range(0, len(self.held_rows), self.batch_rows):
            rows = self.held_rows[start : start + self.batch_rows]
            filled = np.concatenate([rows, np.full(self.batch_rows - len(rows), self.held_rows[0])])
            yield self.batch(filled), len(rows)


def check_names(inputs: Mapping[str, Input], arrays: Mapping[str, Any]) -> None:
    """Raise one UsageError that names every input which the data do not have."""
    missing = [name for name in inputs if name not in arrays]
    held = ", ".join(f"`{key}`" for key in arrays) or "nothing"
    problems = [
        Diagnostic(
            f"the data have no `{name}` ({describe(inputs[name])})",
            help=did_you_mean(name, arrays) or f"they hold {held}; --key {name}=KEY takes another one",
        )
        for name in missing
    ]
    if problems:
        raise UsageError(problems)


def as_one_batch(
    inputs: Mapping[str, Input], arrays: Mapping[str, Array], key_of: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, range]]:
    """All rows of a file as one batch, and which rows each input takes where branches share them.

    Arrays are taken as they are, unless the file has one row for all branches: an array (``key_of`` an input is its
    name in the file) that inputs of different dims read, or an input that takes all rows of a batch
    (``label: i32[x + y]``) and has as many rows as each branch.  Then the dims take rows in the proportion of their
    sizes, in order of appearance, as in training.
    """
    taken = matching(inputs, arrays)
    branches = {name: inputs[name].dims[0] for name in taken if _takes_rows(inputs[name]) and taken[name].ndim}
    sizes = {dim: inputs[name].type.shape[0] for name, dim in branches.items()}
    batch_rows = sum(sizes.values())
    counts = [len(taken[name]) for name in branches]
    if not batch_rows or min(counts) != max(counts):
        return taken, {}
    rows = counts[0]
    repeats = {name: _repeats(inputs[name], taken[name], rows, batch_rows) for name in taken if name not in branches}
    readers = list(dict.fromkeys((key_of[name], dim) for name, dim in branches.items()))
    array_is_shared = len(readers) > len(dict(readers))
    if not array_is_shared and all(n * len(sizes) <= 1 for n in repeats.values()):
        return taken, {}
    ranges: dict[str, range] = {}
    start = total = 0
    for dim, size in sizes.items():
        total += size
        ranges[dim] = range(start, rows * total // batch_rows)
        start = ranges[dim].stop
    parts = {name: ranges[dim] for name, dim in branches.items()}
    shared = {name: taken[name][r.start : r.stop] for name, r in parts.items()}
    tiled = {name: np.concatenate([taken[name]] * n) for name, n in repeats.items() if n > 0}
    return {**taken, **shared, **tiled}, parts


def _repeats(spec: Input, array: Array, rows: int, batch_rows: int) -> int:
    """How often an input that is no branch takes all rows of a batch, where the array has one of each; else 0."""
    if not array.ndim or not spec.type.rank or len(array) != rows or spec.type.shape[0] % batch_rows:
        return 0
    return spec.type.shape[0] // batch_rows


def _row_count(inputs: Mapping[str, Input], arrays: Mapping[str, Array]) -> int:
    """How many rows the data have: the first axis of the inputs whose first axis is a dim."""
    counts = {name: len(arrays[name]) for name, spec in inputs.items() if _takes_rows(spec) and arrays[name].ndim}
    if not counts:
        raise UsageError(
            Diagnostic(
                "no input has a dim as its first axis, so the data cannot be cut into batches",
                help="declare one: `input image: f32[n, 8, 8]`",
            )
        )
    if len(set(counts.values())) > 1:
        found = ", ".join(f"`{name}` {n}" for name, n in counts.items())
        raise UsageError(f"inputs have different numbers of rows in the data: {found}")
    return next(iter(counts.values()))


def _takes_rows(spec: Input) -> bool:
    return bool(spec.dims) and bool(spec.dims[0])


def _slots(
    inputs: Mapping[str, Input], arrays: Mapping[str, Array], rows: int
) -> tuple[int, list[Slots], tuple[str, ...]]:
    starts: dict[str, int] = {}
    batch_rows = 0
    for spec in inputs.values():
        if _takes_rows(spec) and spec.dims[0] not in starts:
            starts[spec.dims[0]] = batch_rows
            batch_rows += spec.type.shape[0]
    slots: list[Slots] = []
    whole: list[str] = []
    problems: list[Diagnostic] = []
    for name, spec in inputs.items():
        array = arrays[name]
        if array.shape == spec.type.shape and not (_takes_rows(spec) and len(array) == rows):
            whole.append(name)
            continue
        if array.ndim != spec.type.rank or array.shape[1:] != spec.type.shape[1:] or len(array) != rows:
            found = f"`{name}` has shape {list(array.shape)} in the data of {rows} rows"
            problems.append(Diagnostic(f"{found}, but the net takes {describe(spec)}"))
            continue
        if _takes_rows(spec):
            start = starts[spec.dims[0]]
            slots.append(Slots(name, np.arange(start, start + spec.type.shape[0])))
            continue
        repeats, rest = divmod(spec.type.shape[0], batch_rows)
        if rest:
            problems.append(
                Diagnostic(f"`{name}` takes {spec.type.shape[0]} rows, which is no multiple of a batch of {batch_rows}")
            )
            continue
        slots.append(Slots(name, np.tile(np.arange(batch_rows), repeats)))
    if problems:
        raise UsageError(problems)
    return batch_rows, slots, tuple(whole)
