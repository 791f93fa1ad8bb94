"""1x1 convolutions as products along long rows, weight gradients by blocks of rows, the rest behind whole tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from concatc.ir.core import FuncOp
from concatc.loops import row_blocks, sums_in_turn
from concatc.loops.expr import Axis
from concatc.op import load_all_ops
from concatc.passes.lower_to_loops import lower_to_loops, scratch_bytes
from concatc.targets.cache import Cache
from concatc.targets.cpu.native import host
from concatc.targets.cpu.nest import Nest, nests_in, recognize
from concatc.targets.cpu.target import CpuTarget
from concatc.targets.cpu.tile import Tile, choose_tiles
from tests.test_contractions import conv_of, input_grad_of, masked_weight_grad, weight_grad_of, with_dtype
from tests.test_every_op import assert_close
from tests.test_packing import interpret, launch_of, reference, run

load_all_ops()


def check(kernel: FuncOp, terms: int, gap: int, tmp_path: Any) -> None:
    """In the interpreter and native, added to what is there, in windows with and without gaps."""

    def native(loops: Any, arena: np.ndarray) -> None:
        CpuTarget(Cache(tmp_path)).build_loops(loops).run({"arena": arena}, "step")

    plan, launch = launch_of(kernel, gap)
    arrays = with_dtype(kernel, "f32")
    want = reference(kernel, arrays) + 1
    for runner in (interpret, native):
        assert_close(run(plan, launch, arrays, runner), want, terms, "f32")


def sums_of(kernel: FuncOp, gap: int = 0) -> list[tuple[Nest, Tile]]:
    """The sums of a kernel, with their tiles on this machine."""
    (function,) = [f for f in lower_to_loops(launch_of(kernel, gap)[0]).functions[1:] if f.declared is None]
    tiles = choose_tiles(nests_in(recognize(function) or []), host())
    assert tiles is not None
    return [(nest, tile) for nest, tile in tiles.items() if nest.term is not None]


# 5 x 7 elements are two vectors and three elements, 7 x 7 three and one, 9 x 9 five and one.
SINGLE = {
    "forward_35": (conv_of((3, 5, 5, 7), 9, kernel=1), 5),
    "forward_49": (conv_of((1, 11, 7, 7), 25, kernel=1), 11),
    "forward_81": (conv_of((2, 3, 9, 9), 13, kernel=1), 3),
    "forward_1": (conv_of((5, 17, 1, 1), 6, kernel=1), 17),
    "forward_one_channel": (conv_of((2, 1, 5, 5), 6, kernel=1), 1),
    "forward_groups": (conv_of((2, 6, 5, 7), 4, kernel=1, groups=2), 3),
    "forward_pad": (conv_of((2, 3, 5, 7), 4, kernel=1, pad=(1, 1)), 3),
    "forward_stride": (conv_of((2, 3, 9, 9), 4, kernel=1, stride=(2, 2)), 3),
    "forward_1x3": (conv_of((2, 3, 5, 7), 4, kernel=1, dilation=(2, 2)), 3),
    "gradient_35": (input_grad_of((3, 5, 5, 7), (5, 9, 1, 1), (5, 7)), 5),
    "gradient_169": (input_grad_of((1, 4, 13, 13), (4, 13, 1, 1), (13, 13)), 4),
    "gradient_stride": (input_grad_of((2, 5, 4, 4), (5, 3, 1, 1), (7, 8), stride=(2, 2)), 5),
    "weight_35": (weight_grad_of((2, 5, 5, 7), (2, 17, 5, 7), kernel=1), 70),
}


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("name", SINGLE)
def test_windows_of_one_element(name: str, gap: int, tmp_path: Any) -> None:
    check(*SINGLE[name], gap, tmp_path)


@pytest.mark.parametrize("name", ["forward_35", "forward_49", "gradient_169"])
def test_rows_and_columns_become_one_axis(name: str) -> None:
    ((nest, tile),) = sums_of(SINGLE[name][0])
    assert [axis.extent for axis in nest.parallel][-1] == int(name.split("_")[1]), "one axis, part of the code"
    assert len(nest.reduce) == 1
    assert tile.vector is nest.parallel[-1]
    assert tile.row(nest.parallel[0]) == 1, "images lie apart, and there may be one only"


def test_rows_with_gaps_stay_apart() -> None:
    ((nest, _),) = sums_of(SINGLE["forward_35"][0], gap=3)
    assert [axis.extent for axis in nest.parallel][-2:] == [5, 7]


def test_the_last_vectors_are_a_smaller_tile() -> None:
    ((_, tile),) = sums_of(conv_of((2, 8, 13, 13), 64, kernel=1))
    vector = tile.vector
    assert vector is not None and vector.extent == 169
    vectors = -(-169 // tile.lanes)
    left = vectors % tile.row(vector)
    assert (tile.rest.row(vector) if tile.rest is not None else 0) == left


def test_a_batch_is_another_table_over_the_same_code() -> None:
    for make in (
        lambda n: conv_of((n, 5, 5, 7), 9, kernel=1),
        lambda n: input_grad_of((n, 5, 5, 7), (5, 9, 1, 1), (5, 7)),
        lambda n: weight_grad_of((n, 32, 12, 12), (n, 3, 25, 25), stride=(2, 2)),
    ):
        texts = {str(lower_to_loops(launch_of(make(n), 0)[0]).functions[1]) for n in (2, 3, 50)}
        assert len(texts) == 1


# -- blocks of rows ----------------------------------------------------------------------------------------------------
@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "WORTH_BYTES", 512)
    monkeypatch.setattr(row_blocks, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(row_blocks, "SHORTEST", 4)


CUT = {
    "outputs_in_lanes": (weight_grad_of((2, 16, 6, 7), (2, 3, 6, 7), pad=(1, 1)), 84),
    "outputs_in_lanes_by_2": (weight_grad_of((3, 17, 6, 7), (3, 3, 13, 15), stride=(2, 2)), 126),
    "7x7_by_2": (weight_grad_of((2, 18, 8, 8), (2, 3, 16, 16), kernel=7, pad=(3, 3), stride=(2, 2)), 128),
    "inputs_in_lanes": (weight_grad_of((2, 5, 6, 7), (2, 18, 6, 7), pad=(1, 1)), 84),
    "inputs_in_lanes_1x1": (weight_grad_of((1, 20, 6, 7), (1, 18, 6, 7), kernel=1), 42),
    "of_maps": (masked_weight_grad(), 24),
    "a_prime_number_of_rows": (weight_grad_of((2, 16, 7, 7), (2, 3, 7, 7), pad=(1, 1)), 98),
}


@pytest.mark.usefixtures("small_caches")
@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("name", CUT)
def test_sums_by_blocks_of_rows(name: str, gap: int, tmp_path: Any) -> None:
    kernel, terms = CUT[name]
    ((nest, _),) = sums_of(kernel)
    rows = kernel.args[0].tensor.shape[2]
    block = next(axis.extent for axis in nest.reduce)
    assert block is not None and rows % block == 0 and block < rows
    check(kernel, terms, gap, tmp_path)


@pytest.mark.usefixtures("small_caches")
def test_what_is_packed_is_one_block() -> None:
    cut = scratch_bytes(CUT["7x7_by_2"][0])
    image = 18 * 8 * 8 * 4
    sums = 3 * 49 * 18 * 4
    halo = 3 * 21 * 21 * 4
    _, parts = sums_in_turn.SMALL
    assert cut < parts * sums + halo + image


def test_blocks_are_equal_and_as_long_as_fits() -> None:
    lanes = Axis("o", 64)
    assert row_blocks.block_of_rows(Axis("i", 112), Axis("j", 112), lanes, "f32") == 4
    assert row_blocks.block_of_rows(Axis("i", 111), Axis("j", 111), lanes, "f32") == 3
    assert row_blocks.block_of_rows(Axis("i", 113), Axis("j", 113), lanes, "f32") == 1
    assert row_blocks.block_of_rows(Axis("i", 28), Axis("j", 28), lanes, "f32") is None, "fits in the second cache"


@pytest.mark.usefixtures("small_caches")
def test_rows_of_a_block_stay_a_loop_around_columns() -> None:
    """Written out around a loop they would be more code for the same work: no guard becomes known."""
    ((nest, tile),) = sums_of(weight_grad_of((2, 16, 6, 20), (2, 3, 6, 20), pad=(1, 1)))
    rows, columns = nest.reduce
    assert (rows.extent, columns.extent) == (3, 20)
    assert tile.taps == ()


def test_taps_that_guards_ask_for_are_written_out_around_a_loop() -> None:
    """Convolutions of small images with channels in lanes: a tap beyond the padding is known when code is made."""
    ((nest, tile),) = sums_of(conv_of((2, 48, 7, 7), 128, kernel=5, pad=(2, 2)))
    assert nest.reduce[-1] not in tile.taps, "the sum over channels is a loop"
    assert nest.reduce[-2] in tile.taps
