"""Which contractions `choose-recompute` may run a second time without a budget: those that free much for little work.

%r = "cnet.conv"(%x, %w)      64 -> 64 channels, 1x1: 0.3% of the step's arithmetic, %h is 11% of what is kept
%h = "cnet.relu"(%r)          so %r may be computed again, from %x, which is kept
%z = "cnet.conv"(%h, %v)      reads what is computed again: it is not computed again itself
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from concatc.ir.core import Operation, Value
from concatc.passes.iteration import Iterations
from concatc.passes.recompute_buffers import Buffer

# How much greater its share of the kept bytes must be than its share of the arithmetic.
LEAST_GAIN = 4


@dataclass
class _Candidate:
    op: Operation
    buffer: Buffer
    work: int
    saved_bytes: int


def repeatable_contractions(
    forward: Sequence[Operation],
    buffer_of: Mapping[Value, Buffer],
    iterations: Iterations,
    is_cheap: Callable[[Operation], bool],
    all_work: int,
    most_work: int,
) -> dict[Operation, None]:
    """Contractions of at most ``most_work`` together, those first that free the most bytes for their work.

    Each frees :data:`LEAST_GAIN` times as large a share of what is kept as it takes of ``all_work``, and none reads,
    through operations that ``is_cheap``, what another one makes: each is then computed from what is kept.
    ``Buffer.is_recomputed`` says what is kept without them.
    """
    index = {op: k for k, op in enumerate(forward)}
    kept = [b for b in dict.fromkeys(buffer_of.values()) if _is_kept(b)]
    kept_from = [0] * (len(forward) + 1)  # the bytes of kept buffers that are begun at an operation or behind it
    for b in kept:
        # What nothing makes, such as a concat of inputs, is there from the start.
        kept_from[min((index[maker] for maker in b.makers), default=0)] += b.size_bytes
    kept_from = list(itertools.accumulate(reversed(kept_from)))[::-1]
    candidates = []
    for op in forward:
        buffer = buffer_of[op.results[0]] if op.results else None
        if buffer is None or buffer.makers != [op] or iterations.of(op).kind != "contraction":
            continue
        work = iterations.of(op).work
        made = _made_from(buffer, buffer_of, is_cheap)
        saved = sum(b.size_bytes for b in made if _is_kept(b))
        last = max((index[r] for b in made for v in b.values for r in v.readers if r in index), default=len(forward))
        if kept_from[min(last + 1, len(forward))] < saved:
            continue  # it is needed again when the most is alive
        if 0 < work <= most_work and saved * all_work >= LEAST_GAIN * work * kept_from[0]:
            candidates.append(_Candidate(op, buffer, work, saved))
    candidates.sort(key=lambda c: -c.saved_bytes / c.work)  # stable: in order of the net among equals

    chosen: dict[Operation, None] = {}
    taken: dict[Buffer, None] = {}
    needed: dict[Buffer, None] = {}  # what the chosen ones are computed from
    left = most_work
    for candidate in candidates:
        sources = _sources(candidate.op, buffer_of, is_cheap)
        if candidate.work > left or candidate.buffer in needed or any(s in taken for s in sources):
            continue
        chosen[candidate.op] = None
        taken[candidate.buffer] = None
        needed.update(dict.fromkeys(sources))
        left -= candidate.work
    return chosen


def _is_kept(buffer: Buffer) -> bool:
    return buffer.is_read_back and not (buffer.is_given or buffer.is_returned or buffer.is_recomputed)


def _made_from(
    buffer: Buffer, buffer_of: Mapping[Value, Buffer], is_cheap: Callable[[Operation], bool]
) -> dict[Buffer, None]:
    """The buffer, and those that cheap operations make from it, and from nothing else that is not kept."""
    found = {buffer: None}
    pending = [buffer]
    while pending:
        readers = (r for v in pending.pop().values for r in v.readers)
        for b in dict.fromkeys(buffer_of[y] for r in readers for y in r.results if y in buffer_of):
            if b in found or not b.makers or not all(map(is_cheap, b.makers)):
                continue
            sources = [s for maker in b.makers for s in _sources(maker, buffer_of, is_cheap)]
            if all(s is buffer or _is_kept(s) for s in sources):
                found[b] = None
                pending.append(b)
    return found


def _sources(op: Operation, buffer_of: Mapping[Value, Buffer], is_cheap: Callable[[Operation], bool]) -> list[Buffer]:
    """The buffers that an operation is computed from, behind those that cheap operations make."""
    found: dict[Buffer, None] = {}
    seen: dict[Buffer, None] = {}
    pending = [buffer_of[x] for x in op.operands]
    while pending:
        buffer = pending.pop()
        if buffer in seen or buffer.is_given:
            continue
        seen[buffer] = None
        if not buffer.arguments and all(map(is_cheap, buffer.makers)):
            pending += [buffer_of[x] for maker in buffer.makers for x in maker.operands]
            continue
        found[buffer] = None
    return list(found)
