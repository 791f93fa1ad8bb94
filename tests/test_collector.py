"""The garbage collector while IR is made."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from concatc.collector import collect_paused, collector_paused


class Node:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was_enabled else gc.disable)()


def garbage() -> weakref.ref[Node]:
    """A cycle that nobody holds, among enough others for a collection."""
    gc.collect()
    first = weakref.ref(Node())
    others = [Node() for _ in range(gc.get_threshold()[0] + 1)]
    del others
    return first


def test_nothing_is_collected_in_a_pause_until_it_is_asked_for() -> None:
    with collector_paused():
        with collector_paused():
            made = garbage()
            assert made() is not None
        assert not gc.isenabled()
        assert made() is not None
        collect_paused()
        assert made() is None
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with collector_paused():
        made = garbage()
        collect_paused()
    assert not gc.isenabled()
    assert made() is not None
