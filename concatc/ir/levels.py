"""The levels of a net: graph (00) to loops (06)."""

from __future__ import annotations

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean

LEVELS = ("graph", "split", "joint", "optimized", "kernels", "plan", "loops")
BLOB_LEVELS = LEVELS[:-1]  # where values have the names of blobs


def level_name(level: str) -> str:
    """The name of a level that is given by name or number."""
    if level.isdecimal() and int(level) < len(LEVELS):
        return LEVELS[int(level)]
    if level not in LEVELS:
        hint = did_you_mean(level, LEVELS) or f"there are {', '.join(LEVELS)}"
        raise UsageError(Diagnostic(f"no level `{level}`", help=hint))
    return level
