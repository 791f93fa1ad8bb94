"""The files of a written module: each is compared with its hash in the manifest when it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from concatc.diagnostics import Diagnostic, UsageError
from concatc.ir.core import Module
from concatc.loops.plan import Base
from concatc.manifest import WRITE_AGAIN

CHUNK_BYTES = 1 << 14
MAX_LINE_BYTES = 1 << 24
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class WrittenFiles:
    """The files of a written module, each compared with its hash when it is read; none is held."""

    directory: Path
    digests: Mapping[str, str]

    def check(self, names: list[str]) -> None:
        """Compare files with their hashes; raises :class:`UsageError` for the first that is another."""
        for name in names:
            for _ in self._chunks(name):
                pass

    def check_there(self, names: list[str]) -> None:
        """Raises :class:`UsageError` for the first file that is not there; opens none."""
        for name in names:
            try:
                (self.directory / name).stat()
            except OSError as error:
                raise self._incomplete(name, error) from None

    def read(self, name: str) -> bytes:
        """A file.  Raises :class:`UsageError` where it is not there or not as it was written."""
        return b"".join(self._chunks(name))

    def text(self, name: str) -> str:
        """A file that holds text."""
        return self.read(name).decode()

    def lines(self, name: str) -> Iterator[bytes]:
        """A file by lines; whether it is as it was written is known behind the last one."""
        rest = b""
        for chunk in self._chunks(name):
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise self.damaged(name, "a line is too long")
            yield from whole
        if rest:
            yield rest

    def damaged(self, name: str, why: str) -> UsageError:
        """The error for a file that holds something wrong."""
        return UsageError(Diagnostic(f"{self.directory / name} is damaged: {why}", help=WRITE_AGAIN))

    def _chunks(self, name: str) -> Iterator[bytes]:
        path, hasher = self.directory / name, hashlib.sha256()
        try:
            with path.open("rb") as file:
                if path.stat().st_size > MAX_FILE_BYTES:
                    raise self.damaged(name, "it is too large to be a part of a module")
                while chunk := file.read(CHUNK_BYTES):
                    hasher.update(chunk)
                    yield chunk
        except OSError as error:
            raise self._incomplete(name, error) from None
        if hasher.hexdigest() != self.digests[name]:
            raise UsageError(Diagnostic(f"{path} was changed or damaged after it was written", help=WRITE_AGAIN))

    def _incomplete(self, name: str, error: OSError) -> UsageError:
        return UsageError(Diagnostic(f"{self.directory} is incomplete: {name}: {error.strerror}", help=WRITE_AGAIN))


class ReadPhase(Protocol):
    """A phase of a written module (`written.py`), as far as its code is concerned."""

    @property
    def bases(self) -> dict[str, Base]:
        """What its launches read and write."""
        ...

    @property
    def loops(self) -> Module:
        """Level 06."""
        ...

    def generated(self, what: str) -> str:
        """The generated code as text."""
        ...
