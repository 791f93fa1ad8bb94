"""Memory of bases: aligned, zeroed, a process's own, on huge pages where it is large, given back when it goes."""

from __future__ import annotations

import gc
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concatc.loops import memory
from concatc.loops.memory import HUGE_PAGE_BYTES, allocate

MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is mapped on Linux only")


@pytest.mark.parametrize("size", [0, 1, 63, 64, 1000, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 7 * MIB + 4096 + 5])
def test_every_byte_is_there_and_zero(size: int) -> None:
    base = allocate(size)
    assert base.nbytes == size and base.dtype == np.uint8 and base.flags.writeable
    assert size == 0 or base.__array_interface__["data"][0] % 64 == 0
    assert not base.any()
    base[...] = 255
    assert (base == 255).all()


@linux
def test_large_memory_begins_at_a_huge_page_and_no_huge_page_goes_behind_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advised: list[tuple[int, int, int]] = []

    class Mapping(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            advised.append((option, start, length))

    monkeypatch.setattr(memory.mmap, "mmap", Mapping)
    size = 5 * MIB
    base = allocate(size)
    assert base.__array_interface__["data"][0] % HUGE_PAGE_BYTES == 0
    (huge, start, length), (_, populated_from, populated) = advised
    assert (huge, length) == (mmap.MADV_HUGEPAGE, 4 * MIB)
    assert (populated_from, populated) == (start, size)


@linux
def test_a_system_without_huge_pages_gives_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mapping(mmap.mmap):
        def madvise(self, *arguments: Any) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(memory.mmap, "mmap", Mapping)
    base = allocate(3 * MIB)
    base[-1] = 1
    assert base.nbytes == 3 * MIB and base.sum() == 1


@linux
def test_memory_goes_with_its_last_view() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    base = allocate(64 * MIB)
    view = base[10:20]
    base[...] = 1
    assert resident() - before > 60 * MIB
    del base
    gc.collect()
    assert resident() - before > 60 * MIB
    del view
    gc.collect()
    assert resident() - before < 4 * MIB


@linux
def test_a_forked_process_has_memory_of_its_own() -> None:
    base = allocate(2 * MIB)
    child = os.fork()
    if child == 0:
        base[...] = 7
        os._exit(int(base[0]))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert not base.any()


@linux
def test_what_cannot_be_mapped_is_no_memory() -> None:
    for size in (1 << 60, 1 << 70):
        with pytest.raises(MemoryError):
            allocate(size)
