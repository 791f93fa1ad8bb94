"""What lies in the cache, and taking it away: used by people, while other processes use the cache.

An entry is a file that is there whole or not at all, so any of them may be removed at any time: who finds one missing
makes it anew.  Only files that look like entries are listed and removed, whatever else the directory holds.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concatc.targets.cache import DATA, OBJECT, SOURCE, Cache

ENTRY = re.compile(r"[0-9a-f]{64}")
KINDS = {OBJECT: "object code", DATA: "nets and batch sizes", SOURCE: "generated source"}
LEFT_BEHIND_S = 3600.0  # a file that is still being written is younger


@dataclass(frozen=True)
class Entry:
    """A file of the cache; ``used_s`` is when it was written or last read, in seconds since 1970."""

    path: Path
    kind: str
    size_bytes: int
    used_s: float


def entries(cache: Cache) -> list[Entry]:
    """The entries, those used last in front."""
    found = [entry for path in _files(cache) if ENTRY.fullmatch(path.stem) and (entry := _entry(path)) is not None]
    return sorted(found, key=lambda entry: (-entry.used_s, entry.path.name))


def nets(cache: Cache) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """The entries of whole nets, and what they hold (`net_cache.py`)."""
    for entry in entries(cache):
        if entry.kind == DATA:
            stored = cache.look(entry.path.stem, DATA)
            if stored is not None and stored.startswith(b'{"file"'):
                with contextlib.suppress(ValueError):
                    yield entry, json.loads(stored)


def to_remove(found: Sequence[Entry], older_than_s: float | None, most_bytes: int | None) -> list[Entry]:
    """The entries that were not used for that long, and the least used ones until the rest fits."""
    oldest_s = None if older_than_s is None else time.time() - older_than_s
    removed, kept_bytes = [], 0
    for entry in sorted(found, key=lambda entry: -entry.used_s):
        is_old = oldest_s is not None and entry.used_s < oldest_s
        if is_old or (most_bytes is not None and kept_bytes + entry.size_bytes > most_bytes):
            removed.append(entry)
        else:
            kept_bytes += entry.size_bytes
    return removed


def remove(cache: Cache, doomed: Sequence[Entry]) -> list[Entry]:
    """Remove entries, what writers that were killed left behind, and folders that are empty then.

    Returns the entries that are gone; others cannot be removed by this user.
    """
    gone = []
    for entry in doomed:
        with contextlib.suppress(OSError):
            entry.path.unlink(missing_ok=True)
            gone.append(entry)
    for path in list(_files(cache)):
        with contextlib.suppress(OSError):
            if path.name.startswith(".") and time.time() - path.stat().st_mtime > LEFT_BEHIND_S:
                path.unlink(missing_ok=True)
    for folder in list(_folders(cache)):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only where it is empty
    return gone


def _folders(cache: Cache) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for folder in sorted(cache.directory.iterdir()):
            if re.fullmatch(r"[0-9a-f]{2}", folder.name) and folder.is_dir() and not folder.is_symlink():
                yield folder


def _files(cache: Cache) -> Iterator[Path]:
    """The files in the folders of entries, as far as they are of a kind that the cache writes."""
    for folder in _folders(cache):
        with contextlib.suppress(OSError):
            for path in sorted(folder.iterdir()):
                if path.suffix in KINDS:
                    yield path


def _entry(path: Path) -> Entry | None:
    try:
        found = path.lstat()
    except OSError:
        return None  # another process removed it
    return Entry(path, path.suffix, found.st_size, found.st_mtime)
