"""What a tile of a strided convolution costs besides: it reads by phases, ``p[c, a % 2, b % 2, i + a // 2, ..]``.

Where the taps of a row are written out, what each reads is known when code is made.  In a loop over them every step
divides, multiplies and adds to make addresses.  But taps that are written out are read ahead, all vectors of a row of
them: where these and the sums do not fit in registers, sums are stored and loaded again around each row.
"""

from __future__ import annotations

from dataclasses import dataclass

from concatc.targets.cpu.guards import TAPS
from concatc.targets.cpu.nest import Nest, NestAxis

DIVIDED = 20.0  # multiplications in the time of which a step makes its addresses
SPILLED = 1.6  # times as much where sums are stored and loaded again


@dataclass(frozen=True)
class PhasedTaps:
    """The innermost axis of the sum of a nest that reads by phases: ``extent`` taps."""

    extent: int

    @staticmethod
    def of(nest: Nest) -> PhasedTaps | None:
        """Of a sum of products without guards; None where it does not read by phases."""
        if nest.term is None or not nest.reduce or nest.conditions():
            return None
        axis = nest.reduce[-1]
        if axis.extent is None or not 1 < axis.extent <= TAPS or not _is_divided(nest, axis):
            return None
        return PhasedTaps(axis.extent)

    def cost(self, cost: float, sums: int, vectors: int, registers: int, written_out: int) -> float:
        """What a step costs with these ``sums`` in registers, if it costs ``cost`` elsewhere and reads ``vectors``.

        Taps are written out where that makes no more than ``written_out`` multiplications.
        """
        if sums * self.extent > written_out:
            return cost + DIVIDED
        return cost * SPILLED if sums + vectors * self.extent + 1 > registers else cost


def _is_divided(nest: Nest, axis: NestAxis) -> bool:
    """Whether an index of a load does not grow by whole steps along an axis."""
    steps = [nest.step(index, axis) for load in nest.loads() for index in load.operands[1:]]
    return any(step is None or step.denominator != 1 for step in steps)
