"""The slots of a net's arguments and results at other sizes of the net (see `bases.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from concatc.ir.types import TensorType
from concatc.loops.bases import Interface, is_staged
from concatc.loops.plan import BaseKind, Window
from concatc.loops.polynomials import NotScalableError, Polynomials, polynomials
from concatc.loops.scaled_layout import OWN, Addresses, Blocks


@dataclass(frozen=True)
class ScaledSlots:
    """Slots by key: base, element type and number of axes; extents of all, one behind the other.

    ``fixed`` are the offsets of slots that stay, ``base_bytes`` the bytes of their bases; ``size_bytes`` are the bytes
    of those that move.  Inputs that are ``staged`` in blocks of the plan have a block each, and ``staged_numbers``:
    where they lie in it, and strides.
    """

    slots: tuple[tuple[str, BaseKind, str, int], ...]
    extents: Polynomials
    size_bytes: Polynomials
    fixed: Mapping[str, int]
    base_bytes: Mapping[BaseKind, int]
    staged: Mapping[str, int]
    staged_numbers: Polynomials

    @staticmethod
    def of(
        here: Mapping[str, int],
        interface: Interface,
        samples: Sequence[tuple[Mapping[str, int], Interface]],
        blocks: Sequence[Blocks],
    ) -> ScaledSlots:
        """The slots of ``interface`` at any sizes; ``blocks`` are those of the plan at each sample."""
        kinds = [_kinds(i) for _, i in samples]
        places = [{key: b.of(w) for key, w in i.staged.items()} for (_, i), b in zip(samples, blocks, strict=True)]
        staged = [{key: block for key, (block, _) in found.items()} for found in places]
        if any(found != staged[0] for found in staged):
            raise NotScalableError("inputs are staged elsewhere at other sizes")
        fixed = [_fixed(i) for i in (interface, *(i for _, i in samples))]
        if any(k != _kinds(interface) for k in kinds) or any(f != fixed[0] for f in fixed):
            raise NotScalableError("other arguments or results at other sizes")
        windows = [(dims, list(i.slots.values())) for dims, i in samples]
        return ScaledSlots(
            _kinds(interface),
            polynomials(
                here,
                [(dims, [n for w in ws for n in w.shape]) for dims, ws in windows],
                [n for w in interface.slots.values() for n in w.shape],
                must="equal",
            ),
            polynomials(
                here, [(dims, _moving_bytes(i)) for dims, i in samples], _moving_bytes(interface), must="equal"
            ),
            *fixed[0],
            staged[0],
            polynomials(
                here,
                [
                    (dims, [n for key, w in i.staged.items() for n in (found[key][1], *w.strides)])
                    for (dims, i), found in zip(samples, places, strict=True)
                ],
            ),
        )

    @property
    def moving(self) -> list[tuple[str, str]]:
        """Base and key of the slots that move, in order."""
        return [(base, key) for key, base, _, _ in self.slots if base in OWN and key not in self.staged]

    @property
    def is_whole(self) -> bool:
        """Whether there is an extent for each axis, and an offset and strides for each slot that is staged."""
        extents = sum(rank for _, _, _, rank in self.slots)
        staged = sum(1 + rank for key, _, _, rank in self.slots if key in self.staged)
        return (len(self.extents.constant), len(self.staged_numbers.constant)) == (extents, staged)

    def at(self, sizes: Sequence[int], addresses: Addresses) -> Interface:
        """The slots at these values of the dims."""
        extents = iter(self.extents.at(sizes).tolist())
        staged = iter(self.staged_numbers.at(sizes).tolist())
        made = Interface(size_bytes=dict(self.base_bytes))
        for base in OWN:
            made.size_bytes[base] = addresses.size_bytes[base]
        for key, base, dtype, rank in self.slots:
            shape = tuple(next(extents) for _ in range(rank))
            if key in self.staged:
                offset = int(addresses.starts[self.staged[key]]) + next(staged)
                made.slots[key] = Window(base, offset, shape, tuple(next(staged) for _ in range(rank)), dtype)
                continue
            offset = addresses.slots[key] if base in OWN else self.fixed[key]
            made.slots[key] = Window.dense(base, offset, TensorType(shape, dtype))
        return made


def _moving_bytes(interface: Interface) -> list[int]:
    """The bytes of the slots that move."""
    return [_bytes(w) for key, w in interface.slots.items() if w.base in OWN and not is_staged(key, w)]


def _kinds(interface: Interface) -> tuple[tuple[str, BaseKind, str, int], ...]:
    return tuple((key, cast(BaseKind, w.base), w.dtype, len(w.shape)) for key, w in interface.slots.items())


def _fixed(interface: Interface) -> tuple[dict[str, int], dict[BaseKind, int]]:
    slots = interface.slots.items()
    offsets = {key: w.offset_bytes for key, w in slots if w.base not in OWN and not is_staged(key, w)}
    return offsets, {base: n for base, n in interface.size_bytes.items() if base not in OWN}


def _bytes(window: Window) -> int:
    return window.end_bytes - window.offset_bytes
