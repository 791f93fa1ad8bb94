"""Python's garbage collector, paused while much is made that lives on.

with collector_paused():        making the IR of a net, or its code: each collection would visit all of it, and
    ..                          find nothing; it took half of the time of every pass
    collect_paused()            what was made so far, at once, while this process would wait for others anyway
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_resumed = 0  # pauses that end with the collector on


@contextmanager
def collector_paused() -> Iterator[None]:
    """No collection of cycles inside; where it was on, it is on again afterwards."""
    global _resumed
    was_enabled = gc.isenabled()
    gc.disable()
    _resumed += was_enabled
    try:
        yield
    finally:
        _resumed -= was_enabled
        if was_enabled:
            gc.enable()


def collect_paused() -> None:
    """The collection that the end of a pause would bring, now; none where whoever runs this has turned it off."""
    if _resumed and gc.get_count()[0] > gc.get_threshold()[0]:
        gc.collect(0)
