"""The grammar of ``.cnet``, and what a text means besides concatc's own code.  No parser is imported for it."""

from __future__ import annotations

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path


def grammar_bytes() -> bytes:
    """The grammar: beside the front end in an installed package, in ``grammar/`` of a checkout."""
    here = Path(__file__).resolve().parent
    for path in (here / "cnet" / "grammar" / "cnet.lark", here.parents[1] / "grammar" / "cnet.lark"):
        if path.is_file():
            return path.read_bytes()
    raise FileNotFoundError("cnet.lark is missing from this installation of concatc")


@functools.cache
def language_digest() -> str:
    """The sha256, in hex, of the grammar and of lark's module that names its version."""
    # Read, not imported: a net that was compiled before starts without lark.
    found = find_spec("lark")
    lark = Path(found.origin).read_bytes() if found is not None and found.origin else b""
    return hashlib.sha256(hashlib.sha256(grammar_bytes()).digest() + lark).hexdigest()
