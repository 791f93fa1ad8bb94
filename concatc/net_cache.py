"""What the cache knows of whole nets, so that one that was compiled before runs without being compiled again.

    text, options, versions, CPU   ->   name, dims, warnings, imports; what running it takes (`runtime/runnable.py`)
      + imports, phase, update     ->   table of launches, and the keys of the object code that it runs
      + imports, phase             ->   the entry that says how it follows from batch sizes (`batch_sizes/store.py`)

A key holds all that the result depends on.  Imports are not known before the text is parsed: the entry of a net lists
them with their hashes, and holds as long as they are what they were.  What is damaged counts as not there.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from concatc.diagnostics import Diagnostic, Loc
from concatc.frontend.grammar import language_digest
from concatc.frontend.source import SourceFiles
from concatc.loops.cuts import Cut
from concatc.options import Options
from concatc.runtime.runnable import DataError, Runnable, data_of, from_data
from concatc.runtime.source import Dim, Phase, RunnablePhase
from concatc.targets.cache import DATA, Cache, default_directory, digest
from concatc.targets.cpu.executable import CodeNames, CpuExecutable
from concatc.targets.cpu.native import build_id, host
from concatc.targets.cpu.step import StepNumbers
from concatc.version import source_digest

T = TypeVar("T")


@dataclass(frozen=True)
class Import:
    """A file that a net imports: its name in messages, where it lies below the net's folder, its sha256."""

    name: str
    place: str
    sha256: str

    def is_in(self, files: SourceFiles) -> bool:
        """Whether the same text lies at the same place."""
        try:
            target = files.target(Path(self.name))
        except OSError:
            return False
        if not target.is_relative_to(files.root) or str(target.relative_to(files.root)) != self.place:
            return False
        return files.sha256(target, self.name) == self.sha256


@dataclass(frozen=True)
class KnownNet:
    """What is known of a net before anything of it is compiled."""

    name: str
    dims: Mapping[str, Dim]
    warnings: tuple[Diagnostic, ...]
    imports: tuple[Import, ...]
    train: Runnable


@dataclass(frozen=True)
class KnownCode:
    """The code of a phase, with an update or without: its table, and where its object code is."""

    table: StepNumbers
    names: CodeNames


class NetCache:
    """The entries of one net: its text with the name of its file, and how it is compiled."""

    def __init__(self, text: str, filename: str, options: Options, cache: Cache | None = None) -> None:
        self.cache = cache or Cache(default_directory())
        self._filename = filename
        self._key = digest("net", _compiler(), filename, text, repr(options))
        self._inner_key = self._key

    def load(self, files: SourceFiles) -> KnownNet | None:
        """What is known of the net, if its imports are what ``files`` has."""
        known = self._read(self._key, _known_net)
        if known is None or not all(imported.is_in(files) for imported in known.imports):
            return None
        self._with_imports(known.imports)
        return known

    def save(
        self,
        name: str,
        dims: Mapping[str, Dim],
        warnings: Sequence[Diagnostic],
        imports: Sequence[Import],
        train: RunnablePhase,
    ) -> None:
        """Note a net."""
        self._with_imports(imports)
        data = {
            "file": self._filename,  # the first: `concatc cache list` knows a net by it
            "name": name,
            "dims": dict(dims),
            "warnings": [_diagnostic_data(warning) for warning in warnings],
            "imports": [[i.name, i.place, i.sha256] for i in imports],
            "train": data_of(train),
        }
        self._write(self._key, data)

    def load_phase(self, phase: Phase) -> Runnable | None:
        """What running a phase takes, besides code."""
        return self._read(self._phase_key(phase), from_data)

    def save_phase(self, phase: Phase, runnable: RunnablePhase) -> None:
        """Note it."""
        self._write(self._phase_key(phase), data_of(runnable))

    def load_code(self, phase: Phase, update: object) -> KnownCode | None:
        """The code of a phase with an update; ``update`` is its key, or None."""
        return self._read(self._code_key(phase, update), _known_code)

    def save_code(self, phase: Phase, update: object, executable: CpuExecutable) -> None:
        """Note it."""
        names = executable.names
        if names is not None:
            data = {"table": _plain(executable.table), "units": names.units, "symbols": dict(names.symbols)}
            self._write(self._code_key(phase, update), data)

    def load_sizes(self, phase: Phase) -> tuple[dict[str, Any], StepNumbers | None] | None:
        """How a phase follows from its batch sizes (`batch_sizes.data.data_of`), and its table without an update.

        ``{"reason": why not}`` and None where it does not follow.
        """
        found = self._read(self._sizes_key(phase), _sizes)
        if found is None:
            return None
        entry, table = found
        known = self._read(entry, dict)
        return None if known is None else (known, table)

    def save_sizes(self, phase: Phase, entry: str, table: StepNumbers | None) -> None:
        """Note it; ``entry`` is the key of what says how (`batch_sizes/store.py`)."""
        self._write(self._sizes_key(phase), {"entry": entry, "table": None if table is None else _plain(table)})

    def _with_imports(self, imports: Sequence[Import]) -> None:
        self._inner_key = digest(self._key, *(part for i in imports for part in (i.place, i.sha256)))

    def _phase_key(self, phase: Phase) -> str:
        return digest("phase", self._inner_key, phase)

    def _code_key(self, phase: Phase, update: object) -> str:
        return digest("code", self._inner_key, phase, repr(update))

    def _sizes_key(self, phase: Phase) -> str:
        return digest("sizes", self._inner_key, phase)

    def _read(self, key: str, made: Callable[[Any], T]) -> T | None:
        stored = self.cache.load(key, DATA)
        if stored is None:
            return None
        try:
            return made(json.loads(stored))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, DataError):
            return None  # it has the right hash, so an own error wrote it; it is made anew

    def _write(self, key: str, data: Mapping[str, Any]) -> None:
        self.cache.store(key, json.dumps(data).encode(), DATA)


@functools.cache
def _compiler() -> str:
    """All that compiles, and what for."""
    return digest(source_digest(), language_digest(), build_id(host()), sys.version, np.__version__)


def _known_net(data: Mapping[str, Any]) -> KnownNet:
    return KnownNet(
        data["name"],
        data["dims"],
        tuple(_diagnostic(warning) for warning in data["warnings"]),
        tuple(Import(*found) for found in data["imports"]),
        from_data(data["train"]),
    )


def _known_code(data: Mapping[str, Any]) -> KnownCode:
    return KnownCode(_table(data["table"]), CodeNames(tuple(data["units"]), data["symbols"]))


def _sizes(data: Mapping[str, Any]) -> tuple[str, StepNumbers | None]:
    return data["entry"], None if data["table"] is None else _table(data["table"])


def _table(data: Mapping[str, Any]) -> StepNumbers:
    numbers = {f.name: _made_of(data[f.name]) for f in fields(StepNumbers) if f.name != "cuts"}
    return StepNumbers(**numbers, cuts={kernel: Cut.of(cut) for kernel, cut in data["cuts"].items()})


def _plain(table: StepNumbers) -> dict[str, Any]:
    found = {f.name: getattr(table, f.name) for f in fields(table) if f.name != "cuts"}
    found["cuts"] = {kernel: cut.data() for kernel, cut in table.cuts.items()}
    return {
        name: {"array": value.ravel().tolist(), "shape": value.shape} if isinstance(value, np.ndarray) else value
        for name, value in found.items()
    }


def _made_of(value: Any) -> Any:
    if isinstance(value, dict):
        return np.array(value["array"], np.int64).reshape(value["shape"])
    if all(isinstance(item, str) for item in value):
        return tuple(map(sys.intern, value))
    return [tuple(item) for item in value]


def _diagnostic_data(found: Diagnostic) -> list[Any]:
    loc = found.loc
    where = None if loc is None else [loc.file, loc.line, loc.column, loc.end_line, loc.end_column]
    return [found.message, where, list(found.notes), found.help, found.severity]


def _diagnostic(data: Sequence[Any]) -> Diagnostic:
    message, where, notes, help, severity = data
    return Diagnostic(message, None if where is None else Loc(*where), tuple(notes), help, severity)
