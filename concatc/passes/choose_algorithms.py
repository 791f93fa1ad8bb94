"""``choose-algorithms``: let convolutions run by Winograd's algorithms, where that is faster and exact enough.

    %y = cnet.conv(%x, %w) {pad = [1, 1]}   ->   %y = cnet.conv(%x, %w) {algorithm = "winograd f(2,3)", pad = [1, 1]}

What an operation means stays as it is; ``algorithm`` says how the target computes it, and can be edited in a dump.
Convolutions of 3 x 3 and stride 1, and both of their gradients, have a choice; found by their pieces, not by name, and
made by estimated time (`loops/winograd_cost.py`), whatever the batch is.  ``precision`` says what is admitted:

    exact   nothing: sums of products as written
    high    F(2,3), whose errors are those of direct f32 convolution, and F(4,3) for gradients of weights, likewise
    fast    F(4,3) for gradients of images, too, and for convolutions of up to `FEW` channels: errors two to three times
            as large, which grow with the root of the channels; where signs follow from results, that decides gradients

Invariant: only attributes change, and every kernel that has one can run so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from concatc.ir.core import Module, Operation
from concatc.loops.contractions import can_run_by_tiles
from concatc.loops.pieces import Piece
from concatc.loops.program import ALGORITHM
from concatc.loops.sliding import window_sums_of
from concatc.loops.winograd_algorithms import F2, F4, TAPS, Algorithm
from concatc.loops.winograd_cost import best_algorithm
from concatc.op import DIALECT, lowered
from concatc.passes.graph import is_backward, require_tensors
from concatc.passes.kernel_table import KernelTable

Precision = Literal["exact", "high", "fast"]
FEW = 64  # channels that F(4,3) adds up, where a result may decide signs


@dataclass(frozen=True)
class ChooseAlgorithms:
    """Choose how convolutions are computed; ``precision`` says which errors are admitted."""

    name = "choose-algorithms"
    precision: Precision = "high"

    def run(self, module: Module) -> None:
        """Set attributes of operations in place."""
        require_tensors(module.main, self.name, kernels=True)
        if self.precision == "exact":
            return
        for kernel in module.main.ops:
            for op, algorithm in self._choices(kernel):
                op.attributes[ALGORITHM] = algorithm.name
                if not can_run_by_tiles(KernelTable(0).function_of(kernel), lowered):
                    del op.attributes[ALGORITHM]

    def _choices(self, kernel: Operation) -> Iterator[tuple[Operation, Algorithm]]:
        ops = kernel.regions[0].block.ops[:-1] if kernel.name == "cnet.kernel" else [kernel]
        for op in ops:
            for piece in lowered(op) if op.name.startswith(DIALECT) and _may_convolve(op) else ():
                algorithm = best_algorithm(piece, self._admitted(op, piece))
                if algorithm is not None:
                    yield op, algorithm

    def _admitted(self, op: Operation, piece: Piece) -> Sequence[Algorithm]:
        if window_sums_of(piece) is not None:
            return F2, F4
        if self.precision != "fast":
            return (F2,)
        is_gradient = is_backward(op) and "recomputes" not in op.attributes
        terms = math.prod(axis.extent for axis in piece.reduce)
        return (F2, F4) if is_gradient or terms <= FEW * TAPS * TAPS else (F2,)


def has_algorithms(module: Module) -> bool:
    """Whether an algorithm was chosen for any operation."""
    return any(ALGORITHM in op.attributes for op in module.main.walk())


def _may_convolve(op: Operation) -> bool:
    """Whether two images are multiplied: others need not be lowered to know."""
    return len(op.operands) == 2 and all(v.tensor.rank == 4 for v in (*op.operands, *op.results))
