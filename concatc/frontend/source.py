"""The text of a source file, or of a dump: read, within its limits, and nothing more; no parser is imported for it."""

from __future__ import annotations

import os
from pathlib import Path

from concatc.diagnostics import ConcatcError, Diagnostic, Loc, UsageError

DUMP_SUFFIX = ".mlir"
SOURCE_BYTES = 250_000  # of one file: some seconds of parsing


def read(path: str | Path) -> str:
    """The text of a source file; raises :class:`UsageError` where it cannot be read, ConcatcError
    where it is no text.
    """
    try:
        check_size(Path(path).stat().st_size, str(path))  # what is too large is refused unread
        if Path(path).exists() and not Path(path).is_file():
            raise UsageError(Diagnostic(f"{path} cannot be read: it is no file"))
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(Diagnostic(f"{path} cannot be read: {error.strerror}")) from None
    return decode(data, str(path))


def read_dump(path: str | os.PathLike[str]) -> str:
    """The text of a dump; its size is bounded by the parser.  Raises :class:`UsageError` where it cannot be read."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(Diagnostic(f"{path} cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError as error:
        raise UsageError(Diagnostic(f"{path} is no text: byte {error.start} is not UTF-8")) from None


def decode(data: bytes, filename: str) -> str:
    """Bytes of a file as text; raises :class:`ConcatcError` where they are not UTF-8."""
    check_size(len(data), filename)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        raise ConcatcError(
            Diagnostic(
                f"byte 0x{data[error.start]:02x} is not UTF-8",
                Loc(filename, line, column, line, column + 1),
                help="save the file as UTF-8",
            )
        ) from None


def check_size(length: int, filename: str) -> None:
    """Raise :class:`ConcatcError` where a file is larger than the limit."""
    if length <= SOURCE_BYTES:
        return
    message = f"{filename} holds {length / 1e6:.2f} MB; a source file may hold {SOURCE_BYTES // 1000} kB"
    raise ConcatcError(Diagnostic(message, help="data belongs into arrays, repeated code into blocks and loops"))
