"""New files that take the place of old ones in one step, with the permissions that the umask gives."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from concatc.diagnostics import UsageError


def beside(path: Path, suffix: str) -> Path:
    """A fresh hidden name in the directory of ``path``, so on its disk: a rename to ``path`` is one step."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.{suffix}"


def check_replaceable(path: Path) -> None:
    """Raise :class:`UsageError` where :func:`replacing` could not put a file at ``path``; changes nothing."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory")
    part = beside(path, "part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        part.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new empty file to fill; when the block ends well, it is renamed to ``path``, and else it is removed.

    Raises :class:`UsageError` for what the system says against it.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory")
    part = beside(path, "part")
    try:
        # Not tempfile: its files are 0600 whatever the umask, and to ask for the umask is to set it.
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(handle).st_mode & 0o777
        os.close(handle)
        yield part
        # Who fills the file may have put another one in its place (safetensors does).
        part.chmod(mode)
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
        raise
