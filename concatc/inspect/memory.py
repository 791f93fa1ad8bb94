"""What a plan does with memory, as data: bytes of each base, who lives in the arena and when, what is copied.

All of it is read off the plan: a store begins a stored value, which lives until the last launch that reads or adds to
its bytes.  Values that share a piece of the arena at one time are a block: parts of a concat, what is made in place.
The live set at a launch is the blocks that are alive while it runs, its scratch memory among them; as long as blocks
stay whole, no arena can be smaller than the largest one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

from concatc.diagnostics import Loc
from concatc.ir.core import Attr
from concatc.ir.types import ELEMENT_BYTES
from concatc.loops.bases import is_staged
from concatc.loops.plan import Launch, Plan, Remark, RemarkKind, Window


@dataclass
class Stored:
    """What one launch stored in the arena: ``first`` is that launch, ``last`` the last one that uses these bytes.

    The scratch memory of a launch counts as stored by it, under the name of the kernel.
    """

    name: str
    window: Window
    first: int
    last: int
    loc: Loc | None = None
    is_scratch: bool = False

    @property
    def title(self) -> str:
        """How people see it: ``%h``, ``scratch of @k3_softmax``."""
        return f"scratch of @{self.name}" if self.is_scratch else f"%{self.name}"

    @property
    def bytes(self) -> int:
        """Bytes of the elements, gaps between them left out."""
        return _numel(self.window) * ELEMENT_BYTES[self.window.dtype]


@dataclass(eq=False)
class ArenaBlock:
    """Stored values that share a piece of the arena at one time: a concat and its parts, values made in place."""

    members: list[Stored]

    @property
    def offset_bytes(self) -> int:
        """Where it begins."""
        return min(s.window.offset_bytes for s in self.members)

    @property
    def end_bytes(self) -> int:
        """One past its last byte."""
        return max(s.window.end_bytes for s in self.members)

    @property
    def bytes(self) -> int:
        """Its extent."""
        return self.end_bytes - self.offset_bytes

    @property
    def first(self) -> int:
        """The launch that stores the first of its values."""
        return min(s.first for s in self.members)

    @property
    def last(self) -> int:
        """The last launch that uses one of its values."""
        return max(s.last for s in self.members)

    @property
    def title(self) -> str:
        """Its largest value: ``%h``, and how many others there are."""
        largest = max(self.members, key=lambda s: s.bytes)
        others = len(self.members) - 1
        return largest.title + (f" and {others} more" if others else "")


@dataclass
class PlanReport:
    """Bytes of a plan.

    ``live_bytes[k]`` are those of the values that are alive at launch ``k``, ``scratch_bytes`` the most of one launch.
    """

    net: str
    bases: dict[str, int]
    launches: int
    kernels: int
    stored: list[Stored]
    live_bytes: list[int]
    scratch_bytes: int
    fill_bytes: int
    input_bytes: int = 0
    remarks: tuple[Remark, ...] = field(default=())
    notes: Mapping[str, Attr] = field(default_factory=dict)  # cnet.order, cnet.order_bytes, cnet.budget

    @property
    def arena_bytes(self) -> int:
        """Size of the arena."""
        return self.bases.get("arena", 0)

    @property
    def live_set_bytes(self) -> int:
        """The largest live set: what a perfect placement of the blocks would need."""
        return max(self.block_bytes, default=0)

    @property
    def need_bytes(self) -> int:
        """All bases together."""
        return sum(self.bases.values())

    @property
    def moved_bytes(self) -> dict[RemarkKind, int]:
        """Bytes moved in a step, by column; staging holds what callers' arrays are copied to as well."""
        moved: dict[RemarkKind, int] = dict.fromkeys(get_args(RemarkKind), 0)
        for remark in self.remarks:
            moved[remark.kind] += remark.bytes
        moved["input staging"] += self.input_bytes
        return moved

    @property
    def peak_launch(self) -> int:
        """The first launch with the largest live set."""
        return self.block_bytes.index(self.live_set_bytes) if self.block_bytes else 0

    @cached_property
    def block_bytes(self) -> list[int]:
        """The live set of each launch: extents of blocks, parts that are not stored yet or not read again included."""
        return _alive_bytes([(b.first, b.last, b.bytes) for b in self.blocks()], self.launches)

    def at_peak(self) -> list[Stored]:
        """What is alive at the launch with the largest live set, the largest first."""
        peak = self.peak_launch
        alive = [s for s in self.stored if s.first <= peak <= s.last]
        return sorted(alive, key=lambda s: (-s.bytes, s.first))

    def blocks(self) -> list[ArenaBlock]:
        """What lies in the arena, by offset, then by time."""
        found: list[ArenaBlock] = []
        open_blocks: list[ArenaBlock] = []
        for stored in sorted(self.stored, key=lambda s: (s.window.offset_bytes, s.first)):
            open_blocks = [b for b in open_blocks if b.end_bytes > stored.window.offset_bytes]
            joined = [b for b in open_blocks if any(_meet(stored, s) for s in b.members)]
            block = ArenaBlock([*(s for b in joined for s in b.members), stored])
            found = [b for b in found if b not in joined] + [block]
            open_blocks = [b for b in open_blocks if b not in joined] + [block]
        return sorted(found, key=lambda b: (b.offset_bytes, b.first))


def plan_report(plan: Plan) -> PlanReport:
    """Read the report off a plan."""
    trace = _Trace(plan)
    for k, launch in enumerate(plan.launches):
        trace.launch(k, launch)
    scratch = [w for launch in plan.launches if (w := launch.scratch) is not None]
    fills = [launch for launch in plan.launches if _is_fill(plan, launch)]
    return PlanReport(
        net=plan.name,
        bases={base.name: base.size_bytes for base in plan.bases.values()},
        launches=len(plan.launches),
        kernels=len(plan.kernels),
        stored=trace.stored,
        live_bytes=_live_bytes(trace.stored, trace.in_place, len(plan.launches)),
        scratch_bytes=max((_numel(w) for w in scratch), default=0),
        fill_bytes=sum(_numel(w) * ELEMENT_BYTES[w.dtype] for launch in fills for w in launch.writes),
        input_bytes=sum(
            _numel(s.window) * ELEMENT_BYTES[s.window.dtype]
            for name, segments in plan.values.items()
            for s in segments
            if name.startswith("input:")
        ),
        remarks=tuple(plan.remarks),
        notes=dict(plan.net.attributes) if plan.net is not None else {},
    )


class _Trace:
    """Which stored value each read of the arena reads."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names: dict[Window, list[str]] = {}
        for name, segments in plan.values.items():
            for segment in segments:
                self.names.setdefault(segment.window, []).append(name)
        # Inputs that the caller puts in the arena are there from the first launch on.
        self.stored: list[Stored] = [
            Stored(self._next_name(window), window, 0, 0)
            for key, segments in plan.values.items()
            for window in (s.window for s in segments)
            if is_staged(key, window) and window.base == "arena"
        ]
        self.visible = list(self.stored)  # not covered by a later store, the newest last
        self.in_place: dict[int, int] = {}  # bytes that a launch stores over what it reads last

    def launch(self, k: int, launch: Launch) -> None:
        added = [w for w, add in zip(launch.writes, launch.add, strict=True) if add]
        for window in (*launch.reads, *added):
            if window.base == "arena":
                for stored in self.sources(window):
                    stored.last = k
        for window, add in zip(launch.writes, launch.add, strict=True):
            if window.base != "arena" or add or _numel(window) == 0:
                continue
            if window in launch.reads:
                self.in_place[k] = self.in_place.get(k, 0) + _numel(window) * ELEMENT_BYTES[window.dtype]
            self.visible = [s for s in self.visible if not _covers(window, s.window)]
            made = Stored(self._next_name(window, launch), window, k, k, launch.loc)
            self.visible.append(made)
            self.stored.append(made)
        if launch.scratch is not None and _numel(launch.scratch):
            self.stored.append(Stored(launch.kernel, launch.scratch, k, k, launch.loc, is_scratch=True))

    def _next_name(self, window: Window, launch: Launch | None = None) -> str:
        name = self._copied(launch) if launch is not None else ""
        if not name:
            names = self.names.get(window, [])
            name = names.pop(0) if len(names) > 1 else (names or [self._around(window)])[0]
        return name.removeprefix("input:")

    def _copied(self, launch: Launch) -> str:
        """The value that a launch only copies; "" where it computes something, or where that has no name."""
        if any(op.name not in ("cnet.split", "func.return") for op in self.plan.kernels[launch.kernel].ops):
            return ""
        source = launch.reads[0]
        names = [s.name for s in self.sources(source)] if source.base == "arena" else self.names.get(source, [])
        return names[0].rpartition(":")[2] if names else ""

    def _around(self, window: Window) -> str:
        """The smallest value that holds a place without a name."""
        around = [w for w in self.names if w.base == window.base and w.dtype == window.dtype and _covers(w, window)]
        return self.names[min(around, key=_numel)][0] if around else f"arena+{window.offset_bytes}"

    def sources(self, window: Window) -> list[Stored]:
        """The stored values whose bytes a window shows, the newest first, until all its elements are found."""
        found: list[Stored] = []
        missing = _numel(window)
        for stored in reversed(self.visible):
            if missing <= 0:
                break
            if not _may_overlap(stored.window, window):
                continue
            found.append(stored)
            missing -= _numel(window) if _covers(stored.window, window) else min(_numel(stored.window), missing)
        return found


def _live_bytes(stored: list[Stored], in_place: dict[int, int], launches: int) -> list[int]:
    alive = _alive_bytes([(s.first, s.last, s.bytes) for s in stored], launches)
    return [n - in_place.get(k, 0) for k, n in enumerate(alive)]


def _alive_bytes(lives: Sequence[tuple[int, int, int]], launches: int) -> list[int]:
    """How many bytes are alive at each launch, of lives from a launch to a launch."""
    changes = [0] * (launches + 1)
    for first, last, size_bytes in lives:
        changes[first] += size_bytes
        changes[last + 1] -= size_bytes
    return list(itertools.accumulate(changes[:-1]))


def _meet(a: Stored, b: Stored) -> bool:
    """Whether they are alive at one time within each other's extents."""
    in_time = a.first <= b.last and b.first <= a.last
    return in_time and a.window.offset_bytes < b.window.end_bytes and b.window.offset_bytes < a.window.end_bytes


def _is_fill(plan: Plan, launch: Launch) -> bool:
    kernel = plan.kernels[launch.kernel]
    return not launch.reads and all(op.name in ("cnet.constant", "func.return") for op in kernel.ops)


def _may_overlap(a: Window, b: Window) -> bool:
    return a.offset_bytes < b.end_bytes and b.offset_bytes < a.end_bytes and not _interleaved(a, b)


def _interleaved(a: Window, b: Window) -> bool:
    """Whether both are parts of one block along one axis, beside each other: ``[n, 0:3]`` and ``[n, 3:5]``."""
    if a.strides != b.strides or a.dtype != b.dtype:
        return False
    step = ELEMENT_BYTES[a.dtype]
    distance = abs(a.offset_bytes - b.offset_bytes)
    first, second = (a, b) if a.offset_bytes < b.offset_bytes else (b, a)
    return any(
        stride > 0
        and distance % (stride * step) == 0
        and n <= distance // (stride * step)
        and _row(first, second, axis)
        for axis, (n, stride) in enumerate(zip(first.shape, first.strides, strict=True))
    )


def _row(first: Window, second: Window, axis: int) -> bool:
    """Whether the step from one to the other along ``axis`` stays within the next larger stride."""
    stride = first.strides[axis]
    larger = [s for s in first.strides if s > stride]
    reach = (second.offset_bytes - first.offset_bytes) // ELEMENT_BYTES[first.dtype] + second.shape[axis] * stride
    return not larger or reach <= min(larger)


def _covers(a: Window, b: Window) -> bool:
    """Whether every byte of ``b`` is one of ``a``; may be false where it is so."""
    if a == b:
        return True
    dense = a.end_bytes - a.offset_bytes == _numel(a) * ELEMENT_BYTES[a.dtype]
    inside = a.offset_bytes <= b.offset_bytes and b.end_bytes <= a.end_bytes
    return inside and (dense or (a.strides == b.strides and _holds_box(a, b)))


def _holds_box(a: Window, b: Window) -> bool:
    rest = (b.offset_bytes - a.offset_bytes) // ELEMENT_BYTES[a.dtype]
    for d in sorted(range(len(a.shape)), key=lambda d: -a.strides[d]):
        start, rest = divmod(rest, a.strides[d]) if a.strides[d] else (0, rest)
        if start + b.shape[d] > a.shape[d]:
            return False
    return rest == 0


def _numel(window: Window) -> int:
    return math.prod(window.shape)
