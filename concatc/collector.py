"""Python's garbage collector, paused while much is made that lives on.

with collector_paused():        making the IR of a net, or its code: each collection would visit all of it, and
    ..                          find nothing; it took half of the time of every pass
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collection of cycles inside; where it was on, it is on again afterwards."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
