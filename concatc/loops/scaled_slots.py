"""The slots of a net's arguments and results at other sizes of the net (see `bases.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from concatc.ir.types import TensorType
from concatc.loops.bases import Interface
from concatc.loops.plan import BaseKind, Window
from concatc.loops.polynomials import NotScalableError, Polynomials, polynomials
from concatc.loops.scaled_layout import OWN, Addresses


@dataclass(frozen=True)
class ScaledSlots:
    """Slots by key: base, element type and number of axes; extents of all, one behind the other.

    ``fixed`` are the offsets of slots that stay, ``base_bytes`` the bytes of their bases; ``size_bytes`` are the bytes
    of those that move.
    """

    slots: tuple[tuple[str, BaseKind, str, int], ...]
    extents: Polynomials
    size_bytes: Polynomials
    fixed: Mapping[str, int]
    base_bytes: Mapping[BaseKind, int]

    @staticmethod
    def of(
        here: Mapping[str, int], interface: Interface, samples: Sequence[tuple[Mapping[str, int], Interface]]
    ) -> ScaledSlots:
        """The slots of ``interface`` at any sizes."""
        kinds = [_kinds(i) for _, i in samples]
        fixed = [_fixed(i) for i in (interface, *(i for _, i in samples))]
        if any(k != _kinds(interface) for k in kinds) or any(f != fixed[0] for f in fixed):
            raise NotScalableError("other arguments or results at other sizes")
        windows = [(dims, list(i.slots.values())) for dims, i in samples]
        return ScaledSlots(
            _kinds(interface),
            polynomials(here, [(dims, [n for w in ws for n in w.shape]) for dims, ws in windows]),
            polynomials(here, [(dims, [_bytes(w) for w in ws if w.base in OWN]) for dims, ws in windows]),
            *fixed[0],
        )

    @property
    def moving(self) -> list[tuple[str, str]]:
        """Base and key of the slots that move, in order."""
        return [(base, key) for key, base, _, _ in self.slots if base in OWN]

    def at(self, sizes: Sequence[int], addresses: Addresses) -> Interface:
        """The slots at these values of the dims."""
        extents = iter(self.extents.at(sizes).tolist())
        made = Interface(size_bytes=dict(self.base_bytes))
        for base in OWN:
            made.size_bytes[base] = addresses.size_bytes[base]
        for key, base, dtype, rank in self.slots:
            offset = addresses.slots[key] if base in OWN else self.fixed[key]
            made.slots[key] = Window.dense(base, offset, TensorType(tuple(next(extents) for _ in range(rank)), dtype))
        return made


def _kinds(interface: Interface) -> tuple[tuple[str, BaseKind, str, int], ...]:
    bases = interface.bases
    return tuple((key, bases[w.base].name, w.dtype, len(w.shape)) for key, w in interface.slots.items())


def _fixed(interface: Interface) -> tuple[dict[str, int], dict[BaseKind, int]]:
    offsets = {key: w.offset_bytes for key, w in interface.slots.items() if w.base not in OWN}
    return offsets, {base: n for base, n in interface.size_bytes.items() if base not in OWN}


def _bytes(window: Window) -> int:
    return window.end_bytes - window.offset_bytes
