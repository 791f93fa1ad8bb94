"""``.npz`` files of arrays of numbers, read without trust: nothing is unpickled, and no size is believed unchecked."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from concatc.diagnostics import UsageError

Array = np.ndarray[Any, Any]

NPY = ".npy"
NPY_MAGIC = b"\x93NUMPY"
# Deflate makes 258 bytes of 2 bits at best.
MAX_RATIO = 1032
CHUNK_BYTES = 1 << 20
# What zipfile, zlib and the header's parser say about bytes that are not what they should be.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class NoNumbersError(ValueError):
    """An array that is well formed, but of something else."""


class NpzFile(Mapping[str, Array]):
    """The arrays of a file by key; an array is read when it is asked for.

    Everything raises :class:`UsageError` where the file cannot be read, is damaged, or holds no numbers there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members = {}
        try:
            with path.open("rb") as file:
                if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
                    raise UsageError(f"{path} holds one array; a .npz file with an array a name is needed")
                self._bytes = file.seek(0, 2)
                with zipfile.ZipFile(file) as archive:
                    names = [info.filename for info in archive.infolist()]
            self._members = {name.removesuffix(NPY): name for name in names if name.endswith(NPY)}
        except DAMAGE as error:
            raise UsageError(f"{path} is no .npz file of arrays ({error})") from None
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from None

    def renamed(self, keys: Mapping[str, str]) -> NpzFile:
        """The same file, where ``name`` stands for the array at ``keys[name]`` too."""
        other = NpzFile(self.path)
        other._members.update((name, self._members[key]) for name, key in keys.items())
        return other

    def __getitem__(self, key: str) -> Array:
        if key not in self._members:
            raise KeyError(key)
        try:
            with zipfile.ZipFile(self.path) as archive:
                info = archive.getinfo(self._members[key])
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("its compression is not the one of .npz files")
                if info.file_size > MAX_RATIO * self._bytes:
                    raise ValueError("it claims to hold more than the file can")
                with archive.open(info) as file:
                    return _read(file, info.file_size)
        except NoNumbersError as error:
            raise UsageError(f"`{key}` of {self.path}: {error}") from None
        except DAMAGE as error:
            raise UsageError(f"{self.path} is no .npz file of arrays: `{key}`: {error}") from None
        except MemoryError:
            raise UsageError(f"no memory for `{key}` of {self.path}") from None
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror or error}") from None

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _read(file: IO[bytes], file_bytes: int) -> Array:
    """One ``.npy`` of that size; raises one of DAMAGE."""
    shape, is_fortran, dtype = _header(file)
    if dtype.kind not in "biufc":
        wrong = ValueError if dtype.kind == "O" else NoNumbersError  # objects are pickled bytes
        raise wrong(f"it holds {dtype}, no numbers")
    count = 1
    for size in shape:
        if size < 0:
            raise ValueError(f"it has the shape {list(shape)}")
        count *= size
    held = file_bytes - file.tell()
    if count * dtype.itemsize != held:
        raise ValueError(f"{dtype}{list(shape)} takes {count * dtype.itemsize} bytes, but it holds {held}")
    data = np.empty(held, np.uint8)
    for start in range(0, held, CHUNK_BYTES):
        chunk = file.read(min(CHUNK_BYTES, held - start))
        data[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
        if len(chunk) < min(CHUNK_BYTES, held - start):
            raise EOFError("it ends early")
    array = data.view(dtype)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version {version[0]}.{version[1]} is not one of arrays of numbers")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(file)
    except (SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        # The parser of Python literals runs out of its stack, which it calls a MemoryError.
        raise ValueError("its header is no description of an array") from None
