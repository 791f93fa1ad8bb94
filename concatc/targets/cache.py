"""The content-addressed cache: generated sources and object code, shared by all processes of a user.

    ~/.cache/concatc/ab/abcdef0123....o        sha256 of what it was made from, the host's CPU and the versions
    ~/.cache/concatc/cd/cdef012345....json     what is known of a net (`net_cache.py`)

Entries are written beside their place and then renamed, so that parallel processes see whole entries only.  Each entry
but for sources starts with the hash of its key and its bytes; one that does not match is made anew.
``CONCATC_CACHE_DIR`` names another directory.  One that cannot be used is said once, as a warning, and done without.
**Objects are code**: who can write to the directory can run code as you.  It is made for its owner alone, and entries
that belong to another user are not loaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from concatc.diagnostics import ConcatcWarning, Diagnostic

MAGIC = b"concatc-object-1\n"
OBJECT, DATA, SOURCE = ".o", ".json", ".py"  # object code, what is known of a net, generated source
USED_EVERY_S = 3600.0  # how exactly the cache knows when an entry was used last


def default_directory() -> Path:
    """``$CONCATC_CACHE_DIR`` unless that is empty, else ``concatc`` in the user's cache directory."""
    chosen = os.environ.get("CONCATC_CACHE_DIR")
    if chosen:
        return Path(os.path.expanduser(chosen))  # noqa: PTH111, Path's raises for users that there are not
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "concatc"


def digest(*parts: str) -> str:
    """The sha256 of texts, in hex; their borders count."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass")  # names of files need not be UTF-8
        hasher.update(f"{len(data)}:".encode())
        hasher.update(data)
    return hasher.hexdigest()


def _checksum(key: str, payload: bytes) -> bytes:
    """Of both, so that code moved to another key is not that key's code."""
    return hashlib.sha256(key.encode() + b":" + payload).hexdigest().encode()


def _make_private(directory: Path) -> list[Path]:
    """Make a directory, and those above it that are missing, for their owner alone; returns those, the lowest first."""
    # Not mkdir(parents=True), whose mode is for the last one only.
    missing = []
    while not _exists(directory):
        missing.append(directory)
        directory = directory.parent
    for level in reversed(missing):
        level.mkdir(mode=0o700, exist_ok=True)
    return missing


def _exists(path: Path) -> bool:
    # Path.exists raises for names that are too long and for what may not be looked into.
    return os.path.exists(path)  # noqa: PTH110


@functools.cache
def _warn(directory: Path, why: str) -> None:
    """Say that nothing is kept; once in a process."""
    message = Diagnostic(
        f"the cache {directory} cannot be used: {why}",
        notes=("nets run, and are compiled again by each process",),
        help="set CONCATC_CACHE_DIR to a directory of yours",
        severity="warning",
    )
    warnings.warn(message.render(), ConcatcWarning, stacklevel=2)


@dataclass(frozen=True)
class Cache:
    """A directory of entries by key.  Where it cannot be written, everything is made each time."""

    directory: Path

    def path(self, key: str, suffix: str) -> Path:
        """Where the entry stands."""
        return self.directory / key[:2] / f"{key}{suffix}"

    def problem(self) -> str | None:
        """Why the cache cannot be used; None where it can.  Leaves no directory behind that was not there."""
        try:
            if _exists(self.directory):
                os.scandir(self.directory).close()
            else:
                for made in _make_private(self.directory):
                    made.rmdir()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def holds(self, key: str) -> bool:
        """Whether there is object code under ``key``, good or damaged, that this user may see."""
        return _exists(self.path(key, OBJECT))

    def load(self, key: str, kind: str = OBJECT) -> bytes | None:
        """What is stored under ``key``, for use; None where there is nothing, or where it is damaged."""
        payload = self.look(key, kind)
        if payload is not None:
            path = self.path(key, kind)
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > USED_EVERY_S:
                    os.utime(path)  # `concatc cache prune` removes what was not used for long
        return payload

    def look(self, key: str, kind: str) -> bytes | None:
        """The same, without being a use."""
        path = self.path(key, kind)
        try:
            with path.open("rb") as file:
                if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
                    return None
                data = file.read()
        except OSError:
            return None
        checksum, payload = data[len(MAGIC) : len(MAGIC) + 64], data[len(MAGIC) + 64 :]
        if not data.startswith(MAGIC) or _checksum(key, payload) != checksum:
            return None
        return payload

    def store(self, key: str, payload: bytes, kind: str = OBJECT) -> None:
        """Store object code, or what is known of a net."""
        self._write(self.path(key, kind), MAGIC + _checksum(key, payload) + payload)

    def source(self, key: str, text: str) -> Path:
        """The file that holds a generated source; written if it does not hold just that."""
        path = self.path(key, SOURCE)
        data = text.encode()
        try:
            if path.read_bytes() == data:
                return path
        except OSError:
            pass
        self._write(path, data)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        try:
            _make_private(path.parent)
        except OSError as error:
            _warn(self.directory, error.strerror or str(error))
            return
        try:
            handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
        except FileNotFoundError:
            return  # another process cleared the cache just now
        except OSError as error:
            _warn(self.directory, error.strerror or str(error))
            return
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            # A full disk or a lost directory must not fail the compilation.
            if not isinstance(error, OSError):
                raise
            if not isinstance(error, FileNotFoundError):
                _warn(self.directory, error.strerror or str(error))
