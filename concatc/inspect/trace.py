"""A profile as a Chrome trace: the JSON that Perfetto (ui.perfetto.dev) and ``chrome://tracing`` open.

    {"name": "k7_conv_bias", "cat": "forward", "ph": "X", "ts": 12.345, "dur": 3.21, "pid": 1, "tid": 2, "args": {..}}

Two tracks: steps with their phases, and kernels.  Times are microseconds since the first round began; between two
rounds lies what was not traced.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from concatc.inspect.profile import Launched, Profile

PROCESS, STEPS, KERNELS = 1, 1, 2


def trace_of(profile: Profile) -> dict[str, Any]:
    """The trace: an event for each launch of each round."""
    return {"traceEvents": [*_names(profile), *_events(profile)], "displayTimeUnit": "ns"}


def _names(profile: Profile) -> Iterator[dict[str, Any]]:
    at = ", ".join(f"{name}={value}" for name, value in profile.dims.items())
    yield _metadata("process_name", 0, f"net {profile.net}({at})")
    yield _metadata("thread_name", STEPS, "steps")
    yield _metadata("thread_name", KERNELS, "kernels")


def _metadata(what: str, track: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": PROCESS, "tid": track, "args": {"name": name}}


def _events(profile: Profile) -> Iterator[dict[str, Any]]:
    start = int(profile.stamps[0, 0])
    phases = [(p, len(list(group))) for p, group in itertools.groupby(x.phase for x in profile.launched)]
    args = [_args(profile, launch) for launch in profile.launched]
    for number, stamps in enumerate(profile.stamps.tolist()):
        stamps = [stamp - start for stamp in stamps]
        yield _event(f"step {number}", "step", STEPS, stamps[0], stamps[-1], {})
        at = 0
        for phase, count in phases:
            yield _event(phase, "phase", STEPS, stamps[at], stamps[at + count], {})
            at += count
        for k, launch in enumerate(profile.launched):
            yield _event(launch.kernel, launch.phase, KERNELS, stamps[k], stamps[k + 1], args[k])


def _event(name: str, category: str, track: int, start_ns: int, end_ns: int, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": start_ns / 1000,
        "dur": (end_ns - start_ns) / 1000,
        "pid": PROCESS,
        "tid": track,
        "args": args,
    }


def _args(profile: Profile, launch: Launched) -> dict[str, Any]:
    """What a viewer shows beside a launch."""
    shown: dict[str, Any] = {}
    if launch.ops:
        shown["ops"] = ", ".join(launch.ops)
    if launch.loc is not None:
        shown["line"] = f"{launch.loc.file}:{launch.loc.line}"
    if launch.work is not None:
        work = launch.work
        shown |= {"flops": work.flops, "read_bytes": work.read_bytes, "written_bytes": work.written_bytes}
    return shown
