"""How much memory a process can still take: what the system calls available, within the limits of its control groups.

The system gives more addresses than it has memory, and ends processes that use them, so blocks are refused by this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def machine_bytes() -> int:
    """The memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes() -> int:
    """What can be taken without another process losing its memory; all of the machine's where nothing says less."""
    return min(machine_bytes(), _available_bytes(), *_left_in_groups())


def _available_bytes() -> int:
    """What the system can give, swap included; caches of files count, since they make way."""
    try:
        rows = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        return sum(int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, LookupError, ValueError):
        return machine_bytes()  # another system, which does not say


def _left_in_groups() -> Iterator[int]:
    """What the limits of this process's control groups (version 2) leave; a group without a limit says nothing."""
    try:
        own = next(line[3:] for line in OWN_GROUPS.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    group = GROUPS / own.lstrip("/")
    for directory in (group, *group.parents):
        if not directory.is_relative_to(GROUPS):
            return
        try:
            limit = int((directory / "memory.max").read_text())
            taken = int((directory / "memory.current").read_text())
            held = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
            yield max(limit - taken + int(held.get("inactive_file", 0)), 0)
        except (OSError, ValueError):
            continue
