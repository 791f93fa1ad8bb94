"""The version of concatc; ``pyproject.toml`` says the same."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__version__ = "0.1.0"


@functools.cache
def source_digest() -> str:
    """The sha256 of this package's own source, in hex: what another compiler makes may be something else."""
    hasher = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        hasher.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()
