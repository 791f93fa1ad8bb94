"""Amounts of memory as people write them: ``64MiB`` (64 * 1024 * 1024 bytes), ``1.5 GB``, ``65536``."""

from __future__ import annotations

import re
from fractions import Fraction

from concatc.diagnostics import Diagnostic, UsageError

UNITS = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**k for k, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**k for k, prefix in enumerate("kmgt", 1)},
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_bytes(amount: int | str, what: str) -> int:
    """Whole bytes, at least one; a part of a byte is dropped.  ``what`` names the option in messages.

    Raises :class:`UsageError` for anything else than a positive number, alone or with a unit of B, KB, MB, GB, TB
    (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).
    """
    text = str(amount)
    match = None if isinstance(amount, bool) or not isinstance(amount, int | str) else _AMOUNT.fullmatch(text)
    if match is None or match[2].lower() not in UNITS:
        unit = match[2].lower() if match is not None else ""
        help = "write an amount such as 64MiB (64 * 1024 * 1024 bytes), 64MB (64 * 1000 * 1000) or 67108864"
        if unit in ("k", "m", "g", "t"):
            big = unit.upper()
            help = f"{big}iB counts by 1024, {big}B by 1000: write {match[1] if match else ''}{big}iB"
        raise UsageError(Diagnostic(f"{what}: `{text}` is no amount of memory", help=help))
    count = int(Fraction(match[1]) * UNITS[match[2].lower()])
    if count < 1:
        raise UsageError(Diagnostic(f"{what}: `{text}` is less than a byte", help="a net needs some memory"))
    return count


def exact_text(count: int) -> str:
    """An amount that is not less than ``count`` bytes, and reads well: ``97MiB``, ``1234KiB``, ``40``."""
    for unit, size in (("MiB", 1024**2), ("KiB", 1024)):
        if count >= 10 * size:
            return f"{-(-count // size)}{unit}"
    return str(count)
