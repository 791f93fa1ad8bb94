"""New files that take the place of old ones in one step, with the permissions that the umask gives.

A link is followed: the file that it leads to is replaced.  A device or a pipe (`/dev/null`, `/dev/stdout`) stays what
it is and gets the bytes.  Folders on the way that are missing are made.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from concatc.diagnostics import UsageError


def beside(path: Path, suffix: str) -> Path:
    """A fresh hidden name in the directory of ``path``, so on its disk: a rename to ``path`` is one step."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.{suffix}"


def reason(path: str | os.PathLike[str], error: OSError) -> str:
    """What the system says against a path; where a file stands in the place of a folder, which one does."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
        for folder in reversed(Path(path).parents):
            if folder.exists() and not folder.is_dir():
                return f"{folder} is a file, not a folder"
    return error.strerror or str(error)


def check_replaceable(path: Path) -> None:
    """Raise :class:`UsageError` where :func:`replacing` could not put a file at ``path``; changes nothing."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory")
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise UsageError(f"cannot write {path}: {os.strerror(errno.EACCES)}")
        return
    # Where folders are missing, the first one is made in the last one that is there.
    there = path.resolve()
    while not there.parent.exists() and there != there.parent:
        there = there.parent
    part = beside(there, "part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        part.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {reason(path, error)}") from None


def make_folder_of(path: Path) -> None:
    """Make the folder that ``path`` lies in, and those above, where they are missing: whatever is written, and whoever
    writes it.  Raises :class:`UsageError` for what the system says against it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {reason(path, error)}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new empty file to fill; when the block ends well, it is renamed to ``path``, and else it is removed.

    Raises :class:`UsageError` for what the system says against it.  What it says against another file, which the block
    reads or writes on the way, is the block's to tell, and passes as it is.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory")
    make_folder_of(path.resolve())
    of_another: OSError | None = None
    try:
        with _poured_into(path) if _is_special(path) else _renamed_to(path.resolve()) as part:
            try:
                yield part
            except OSError as error:
                of_another = error if error.filename not in (None, str(part), os.fsencode(part), part) else None
                raise
    except OSError as error:
        if error is of_another:
            raise
        raise UsageError(f"cannot write {path}: {reason(path, error)}") from None


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def _renamed_to(path: Path) -> Iterator[Path]:
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
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


@contextmanager
def _poured_into(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        part = Path(directory) / "part"
        part.touch()
        yield part
        with part.open("rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
