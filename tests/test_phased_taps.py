"""Tiles of strided convolutions, which read by phases: taps written out, and no more than registers hold."""

from __future__ import annotations

from fractions import Fraction

import pytest

from concatc.op import load_all_ops
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.phased_taps import DIVIDED, SPILLED, PhasedTaps
from concatc.targets.cpu.tile import choose_tile
from tests.test_contractions import conv_of
from tests.test_products import sums_of

load_all_ops()
AVX512 = Host("znver4", "", 64, 32, fma=True, masked=True, embedded=True)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_taps_are_written_out_in_registers(kernel: int) -> None:
    ((nest, _),) = sums_of(conv_of((1, 3, 33, 224), 64, kernel=kernel, stride=(2, 2)))
    taps = PhasedTaps.of(nest)
    tile = choose_tile(nest, AVX512)
    assert taps is not None and taps.extent == kernel and tile is not None and nest.reduce[-1] in tile.taps
    channel, row, column = nest.parallel
    assert tile.vector is column
    vectors = tile.row(row) * tile.row(column)
    assert vectors * tile.row(channel) + vectors * kernel + 1 <= AVX512.registers


def test_taps_that_move_by_whole_steps_are_none_of_these() -> None:
    ((nest, _),) = sums_of(conv_of((1, 3, 32, 224), 64, kernel=3))
    assert PhasedTaps.of(nest) is None
    assert all(nest.step(index, nest.reduce[-1]) in (0, 1) for load in nest.loads() for index in load.operands[1:])
    ((nest, _),) = sums_of(conv_of((1, 3, 33, 224), 64, kernel=3, stride=(2, 2)))
    steps = [nest.step(index, nest.reduce[-1]) for load in nest.loads() for index in load.operands[1:]]
    assert Fraction(1, 2) in steps or None in steps


def test_what_a_step_costs() -> None:
    taps = PhasedTaps(3)
    assert taps.cost(30.0, sums=16, vectors=2, registers=32, written_out=128) == 30.0
    assert taps.cost(30.0, sums=24, vectors=3, registers=32, written_out=128) == 30.0 * SPILLED
    assert taps.cost(30.0, sums=24, vectors=3, registers=32, written_out=64) == 30.0 + DIVIDED
