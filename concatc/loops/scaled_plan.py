"""A plan at other sizes of the net: the same launches, every number in them as a polynomial in the dims.

    launch k3  reads arena+1024 [64, 128]            launch k3  reads arena+128 [7, 128]
    at n = 64                                 ->     at n = 7

The numbers are those of windows (their place in a block, extents, strides), of kernels and of the net's declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from concatc.ir.core import FuncOp
from concatc.ir.numbers import digest_of, numbers_of, with_numbers
from concatc.loops.bases import Interface
from concatc.loops.plan import ALIGN_BYTES, Launch, Plan, Segment, Window
from concatc.loops.polynomials import Ints, NotScalableError, polynomials
from concatc.loops.scaled_layout import Addresses, Blocks, Layout, aligned, blocks_of, gaps_of, put_order
from concatc.loops.scaled_slots import ScaledSlots

Sizes = Mapping[str, int]
ScratchOf = Callable[[FuncOp], Sequence[int]]
# Offsets of blocks that are given by their first and last launch and their bytes.
Placing = Callable[[Sequence[tuple[int, int, int]]], Sequence[int]]
SCRATCH = "i8"  # the element type of scratch


@dataclass(frozen=True)
class PlanSample:
    """What a plan without reuse at one choice of dims says of others, as data.

    ``interface`` is where its arguments and results lie, ``scratch_blocks`` are the blocks of scratch that is used, and
    ``ends`` the block of each window of the arena and where it ends there (:func:`_ends_of`).
    """

    interface: Interface
    blocks: Blocks
    numbers: PlanNumbers
    scratch_blocks: tuple[int, ...]
    ends: tuple[tuple[int, int], ...]

    @staticmethod
    def of(plan: Plan, interface: Interface, scratch: ScratchOf) -> PlanSample:
        """That of a plan; ``scratch`` gives the bytes of the scratch buffers of a kernel.

        Raises :class:`NotScalableError` where scratch is not made of these.
        """
        blocks = blocks_of(plan, interface)
        in_use = [x.scratch for x in plan.launches if x.scratch is not None and 0 not in x.scratch.shape]
        return PlanSample(
            interface,
            blocks,
            _numbers_of(plan, blocks, scratch),
            tuple(blocks.of(window)[0] for window in in_use),
            tuple(_ends_of(plan, blocks.of, scratch)),
        )


class ScaledPlan:
    """A plan at any sizes of its dims.

    ``plan`` is the plan at ``here``, ``samples`` are those that :func:`polynomials` asks for; ``scratch`` gives the
    bytes of the scratch buffers of a kernel, ``place`` puts blocks into an arena.  Raises :class:`NotScalableError`
    where they are not one plan at several sizes.
    """

    def __init__(
        self,
        here: Sizes,
        plan: Plan,
        interface: Interface,
        samples: Sequence[tuple[Sizes, PlanSample]],
        scratch: ScratchOf,
        place: Placing,
    ) -> None:
        self.here = here
        self.plan = plan
        self.interface = interface
        self.samples = samples
        self.blocks = [sample.blocks for _, sample in samples]
        if not all(blocks.is_like(self.blocks[0]) for blocks in self.blocks):
            raise NotScalableError("other blocks of memory at other sizes")
        found = [sample.numbers for _, sample in samples]
        mine = _numbers_of(plan, None, scratch)  # places of windows are offsets
        if any(f.rest != mine.rest or f.blocks != found[0].blocks for f in found):
            raise NotScalableError("other launches, windows or kernels at other sizes")
        self.window_blocks, self.window_places = found[0].blocks, found[0].places
        self.scratch_of, self.scratch_first = scratch, found[0].scratch_first
        self.numbers = polynomials(here, [(dims, sample.numbers.numbers) for dims, sample in samples], mine.numbers)
        self.scratch, self.scratch_here, self.place = [f.scratch for f in found], mine.scratch, place
        interfaces = [(dims, sample.interface) for dims, sample in samples]
        self.slots = ScaledSlots.of(here, interface, interfaces, self.blocks)
        self.starts = self._starts(mine.numbers)
        self.layout = self._layout()

    def at(self, dims: Sizes, addresses: Addresses | None = None) -> Plan:
        """The plan at these dims."""
        sizes = [dims[name] for name in self.here]
        addresses = addresses or self.layout.at(sizes)
        numbers = iter(self.numbers.at(sizes).tolist())
        blocks = iter(self.window_blocks)
        buffers = iter(addresses.scratch_bytes.tolist())

        def window(old: Window, is_scratch: bool = False) -> Window:
            block = next(blocks)
            place = next(numbers) + (int(addresses.starts[block]) if block >= 0 else 0)
            if is_scratch:
                return Window(old.base, place, (sum(next(buffers) for _ in range(next(numbers))),), (1,), SCRATCH)
            shape, strides = (tuple(next(numbers) for _ in old.shape) for _ in range(2))
            return Window(old.base, place, shape, strides, old.dtype)

        launches = [_rewritten(launch, window) for launch in self.plan.launches]
        values = {
            key: tuple(Segment(tuple(next(numbers) for _ in s.start), window(s.window)) for s in segments)
            for key, segments in self.plan.values.items()
        }
        remarks = [replace(remark, bytes=next(numbers)) for remark in self.plan.remarks]
        functions = _functions_of(self.plan)
        made = dict(zip((f.sym_name for f in functions), with_numbers(functions, numbers), strict=True))
        declared = self.plan.net.sym_name if self.plan.net is not None else None
        return Plan(
            self.plan.name,
            {n: replace(b, size_bytes=addresses.size_bytes.get(n, b.size_bytes)) for n, b in self.plan.bases.items()},
            {name: made[f.sym_name] for name, f in self.plan.kernels.items()},
            launches,
            values,
            remarks,
            made[declared] if declared is not None else None,
        )

    def _starts(self, numbers: Sequence[int]) -> Ints:
        """Where blocks start here.

        ``numbers`` are those of the plan here, with offsets in place of places in blocks.
        """
        at_here = self.numbers.at(list(self.here.values())).tolist()
        starts = [-1] * len(self.blocks[0].bases)
        for k, block in zip(self.window_places, self.window_blocks, strict=True):
            if block >= 0:
                start = numbers[k] - at_here[k]
                if start < 0 or starts[block] not in (-1, start):
                    raise NotScalableError("windows lie otherwise in a block here")
                starts[block] = start
                at_here[k] = numbers[k]
        if at_here != list(numbers):
            raise NotScalableError("numbers do not follow from the dims")
        return np.array(starts, np.int64)

    def _large_starts(self, ends: Sequence[tuple[int, int]]) -> list[int]:
        """Where the blocks of the arena would start at the largest sizes: an order that is good at most sizes."""
        blocks = self.blocks[-1]
        size_bytes: dict[int, int] = {k: 0 for k, base in enumerate(blocks.bases) if base == "arena"}
        for k, end in ends:
            size_bytes[k] = max(size_bytes[k], end)
        lives = [(blocks.first[k], blocks.last[k], n) for k, n in size_bytes.items()]
        starts = [0] * len(blocks.bases)
        for k, start in zip(size_bytes, self.place(lives), strict=True):
            starts[k] = start
        return starts

    def _layout(self) -> Layout:
        scratch = self.samples[0][1].scratch_blocks
        ends = [sample.ends for _, sample in self.samples]
        order, below = put_order(self.blocks[0], self._large_starts(ends[-1]), scratch)
        keys = list(dict.fromkeys(zip(*ends, strict=True)))  # windows that end alike at all samples
        ends_here = self._ends_here(ends)
        columns = [(dims, [key[k][1] for key in keys]) for k, (dims, _) in enumerate(self.samples)]
        block_of_slot = {key: k for k, key in enumerate(self.blocks[0].keys) if key}
        layout = Layout(
            tuple((base, key, block_of_slot.get(key, -1)) for base, key in self.slots.moving),
            self.slots.size_bytes,
            polynomials(self.here, columns, [ends_here[key] for key in keys], must="suffice"),
            np.array([key[0][0] for key in keys], np.int64),
            order,
            below,
            gaps_of(self.blocks[0], scratch),
            polynomials(
                self.here,
                [(dims, used) for (dims, _), used in zip(self.samples, self.scratch, strict=True)],
                self.scratch_here,
                must="suffice",
            ),
            np.array(self.scratch_first, np.int64),
        )
        slots = layout.at(list(self.here.values())).slots
        if any(slots[key] != self.interface.slots[key].offset_bytes for key in slots):
            raise NotScalableError("arguments and results do not lie one behind the other")
        return layout

    def _ends_here(self, ends: Sequence[Sequence[tuple[int, int]]]) -> dict[tuple[tuple[int, int], ...], int]:
        """Where the windows end here behind the starts of their blocks, by where they end at the samples."""
        in_order = iter([block for block, _ in ends[0]])

        def located(window: Window) -> tuple[int, int]:
            block = next(in_order)
            return block, window.offset_bytes - int(self.starts[block])

        found: dict[tuple[tuple[int, int], ...], int] = {}
        here = [end for _, end in _ends_of(self.plan, located, self.scratch_of)]
        for key, end in zip(zip(*ends, strict=True), here, strict=True):
            if found.setdefault(key, end) != end:
                raise NotScalableError("windows that end elsewhere in a block here")
        return found


def _rewritten(launch: Launch, window: Callable[[Window, bool], Window]) -> Launch:
    reads, writes = (tuple(window(w, False) for w in windows) for windows in (launch.reads, launch.writes))
    scratch = window(launch.scratch, True) if launch.scratch is not None else None
    return replace(launch, reads=reads, writes=writes, scratch=scratch)


@dataclass(frozen=True)
class PlanNumbers:
    """The integers of a plan; where of those windows have their place, and in which block; and a digest of the rest.

    Of scratch buffers, whose sum is no polynomial since each is aligned, there are the bytes of each, apart.
    """

    rest: str
    numbers: list[int] = field(default_factory=list)
    scratch: list[int] = field(default_factory=list)
    scratch_first: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


def _numbers_of(plan: Plan, blocks: Blocks | None, scratch: ScratchOf) -> PlanNumbers:
    """In the order in which :meth:`ScaledPlan.at` takes them; without blocks a place is an offset."""
    found = PlanNumbers("")
    rest: list[object] = [plan.name, list(plan.bases)]

    def add(window: Window, is_scratch: bool = False) -> None:
        empty = 0 in window.shape
        block, place = blocks.of(window) if blocks is not None else (-1, 0 if empty else window.offset_bytes)
        found.places.append(len(found.numbers))
        found.blocks.append(block)
        found.numbers.extend([place, *window.shape, *window.strides] if not is_scratch else [place])
        rest.append((window.base, len(window.shape), window.dtype, empty))

    def add_scratch(window: Window, buffers: Sequence[int]) -> None:
        if window.shape != (sum(map(aligned, buffers)),):
            raise NotScalableError("scratch of another size than its buffers")
        add(window, is_scratch=True)
        found.numbers.append(len(buffers))
        found.scratch_first.extend([len(found.scratch)] * len(buffers))
        found.scratch.extend(buffers)

    for launch in plan.launches:
        counts = len(launch.reads), len(launch.writes), launch.scratch is None
        rest.append((launch.kernel, launch.phase, launch.add, counts))
        for window in (*launch.reads, *launch.writes):
            add(window)
        if launch.scratch is not None:
            add_scratch(launch.scratch, scratch(plan.kernels[launch.kernel]))
    for key, segments in plan.values.items():
        rest.append((key, len(segments)))
        for segment in segments:
            found.numbers.extend(segment.start)
            add(segment.window)
    rest += [(remark.message, remark.kind) for remark in plan.remarks]
    found.numbers.extend(remark.bytes for remark in plan.remarks)
    numbers, other = numbers_of(_functions_of(plan))
    found.numbers.extend(numbers)
    return replace(found, rest=digest_of([rest, other]))


def _functions_of(plan: Plan) -> list[FuncOp]:
    return [*plan.kernels.values(), *([plan.net] if plan.net is not None else [])]


def _ends_of(plan: Plan, located: Callable[[Window], tuple[int, int]], scratch: ScratchOf) -> Iterator[tuple[int, int]]:
    """Of each window of the arena its block, and where it ends behind the block's start.

    ``located`` gives the block of a window, and where it starts in it.

    For scratch a polynomial that is no less: each buffer may take another 63 bytes.
    """
    for launch in plan.launches:
        if launch.scratch is not None and 0 not in launch.scratch.shape:
            block, place = located(launch.scratch)
            yield block, place + sum(n + ALIGN_BYTES - 1 for n in scratch(plan.kernels[launch.kernel]))
    windows = [w for launch in plan.launches for w in (*launch.reads, *launch.writes)]
    windows += [s.window for segments in plan.values.values() for s in segments]
    for window in windows:
        if window.base == "arena" and 0 not in window.shape:
            block, place = located(window)
            yield block, place + window.end_bytes - window.offset_bytes
