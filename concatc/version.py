"""The version of concatc; ``pyproject.toml`` says the same."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from pathlib import Path

__version__ = "0.1.0"


_IMPORTED = time.time()


@functools.cache
def source_digest(folder: str = ".") -> str:
    """The sha256 of this package's own source, in hex: what another compiler makes may be something else.

    ``folder`` is a part of the package.  Where a file changed after concatc was imported, nobody knows which of its
    texts runs here: the hash is then of this process alone.
    """
    hasher = hashlib.sha256()
    here = Path(__file__).parent / folder
    for path in sorted(here.rglob("*.py")):
        hasher.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
        if path.stat().st_ctime > _IMPORTED:
            hasher.update(f"{_IMPORTED} {os.getpid()}".encode())
    return hasher.hexdigest()
