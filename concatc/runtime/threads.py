"""How many threads run a net."""

from __future__ import annotations

import os

from concatc.diagnostics import Diagnostic, UsageError

VARIABLE = "CONCATC_NUM_THREADS"
MOST = 256


def thread_count(threads: int | None) -> int:
    """``threads``; without it what the environment says, else as many as there are cores that this process may use.

    Raises :class:`UsageError` for what is no number of threads, and where the environment says nonsense.
    """
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST:
            raise UsageError(f"threads must be a number from 1 to {MOST}, not {threads!r}")
        return threads
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return min(_usable_cores(), MOST)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST):
        help = f"unset {VARIABLE} to use all cores"
        raise UsageError(Diagnostic(f"{VARIABLE} must be a number from 1 to {MOST}, not `{text}`", help=help))
    return int(text)


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
