"""The text of a source file, or of a dump: read, within its limits, and nothing more; no parser is imported for it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from concatc.diagnostics import ConcatcError, Diagnostic, Loc, UsageError
from concatc.files import reason

DUMP_SUFFIX = ".mlir"
SOURCE_BYTES = 250_000  # of one file: some seconds of parsing
# Comments, then an alias of a type, or a module; no `.cnet` text begins so.
_DUMP = re.compile(
    r"(\s|//[^\n]*\n)*(![\w.$-]+ *= *\w|\"?builtin\.module\b|module *(@\w+ *)?(attributes *)?\{|\"?func\.func\b)"
)
_HEAD_BYTES = 1 << 16


class SourceFiles:
    """The files that a net imports, each as it was when it was read first: all phases and sizes are of one text.

    ``texts`` are those that another process has read.
    """

    def __init__(self, filename: str, texts: Mapping[str, str] | None = None) -> None:
        self.filename = filename
        self.name = Path(filename).name
        self.main = Path(filename).resolve()
        self.root = Path(filename).parent.resolve()
        self._targets: dict[Path, Path] = {}
        self._data = {Path(target): text.encode() for target, text in (texts or {}).items()}

    @property
    def texts(self) -> dict[str, str]:
        """What was read, by where it lies; it must be text."""
        return {str(target): data.decode() for target, data in self._data.items()}

    def target(self, path: Path) -> Path:
        """Where a path leads."""
        if path not in self._targets:
            self._targets[path] = path.resolve()
        return self._targets[path]

    def read(self, target: Path, name: str) -> bytes | None:
        """What the file held; None where there is none.

        Raises :class:`ConcatcError` where it is too large, with ``name`` for it, and OSError.
        """
        if target not in self._data:
            if not target.is_file():
                return None
            check_size(target.stat().st_size, name)  # what is too large is refused unread
            self._data[target] = target.read_bytes()
        return self._data[target]

    def sha256(self, target: Path, name: str) -> str | None:
        """The hash of what it held, in hex; None where it cannot be read."""
        try:
            data = self.read(target, name)
        except (ConcatcError, OSError):
            return None
        return hashlib.sha256(data).hexdigest() if data is not None else None


def is_dump(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a dump: by its name, or by how it begins, whatever it is called."""
    head = b""
    if Path(path).is_file():  # a pipe is read once
        with suppress(OSError), Path(path).open("rb") as file:  # reading it says what is wrong
            head = file.read(_HEAD_BYTES)
    return is_dump_text(head.decode(errors="replace"), os.fspath(path))


def is_dump_text(text: str, filename: str) -> bool:
    """The same of a file that was read."""
    return filename.endswith(DUMP_SUFFIX) or _DUMP.match(text) is not None


def read(path: str | Path) -> str:
    """The text of a source file; raises :class:`UsageError` where it cannot be read, ConcatcError
    where it is no text.
    """
    try:
        check_size(Path(path).stat().st_size, str(path))  # what is too large is refused unread
        if Path(path).exists() and not Path(path).is_file():
            help = "give a .cnet file" if Path(path).is_dir() else None
            raise UsageError(Diagnostic(f"{path} cannot be read: it is no file", help=help))
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(Diagnostic(f"{path} cannot be read: {reason(path, error)}", help=_meant(str(path)))) from None
    return decode(data, str(path))


def _meant(path: str) -> str | None:
    """What may be meant by a path at which there is no file."""
    if "{" in path:
        return "concatc.compile_source takes the text of a net, concatc.compile a path"
    near = f"{path}.cnet"
    return f"did you mean `{near}`?" if Path(near).is_file() else None


def read_dump(path: str | os.PathLike[str]) -> str:
    """The text of a dump; its size is bounded by the parser.  Raises :class:`UsageError` where it cannot be read."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(Diagnostic(f"{path} cannot be read: {reason(path, error)}")) from None
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
