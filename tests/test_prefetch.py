"""What tiles of sliding windows ask for ahead, and in which order they read."""

from __future__ import annotations

import re

import pytest

from concatc.op import Op
from concatc.ops.conv import Conv
from concatc.ops.conv_input_grad import ConvInputGrad
from concatc.ops.conv_weight_grad import ConvWeightGrad
from concatc.ops.matmul import Matmul
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.stage import Stage
from concatc.targets.cpu.tile import Tile
from tests.contraction_code import contraction_of

AVX512 = Host("x86-64-v4", "", vector_bytes=64, registers=32, fma=True, masked=True)
AVX2 = Host("x86-64-v3", "", vector_bytes=32, registers=16, fma=True, masked=True)
IMAGES, WEIGHT = (4, 16, 32, 32), (16, 16, 3, 3)
FORWARD, GRADIENT = Conv(pad=(1, 1)), ConvInputGrad(image=(32, 32), pad=(1, 1))


def _made(op: Op, *shapes: tuple[int, ...], host: Host = AVX512) -> tuple[str, Tile]:
    text, tiles = contraction_of(op, shapes, host)
    return text, tiles[-1]


def _inner_loop(text: str) -> str:
    """The block with most multiplications."""
    return max(re.split(r"\n(?=\S+:)", text), key=lambda block: block.count("llvm.fma"))


@pytest.mark.parametrize("op", [FORWARD, GRADIENT], ids=["forward", "gradient"])
def test_taps_are_read_in_the_order_of_memory(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[int, ...]] = []
    step = Stage._step

    def record(self: Stage, term: object, offsets: dict[object, int], total: object) -> object:
        met.append(tuple(offsets[tap] for tap in self.nest.reduce if tap in self.tile.taps))  # type: ignore[index]
        return step(self, term, offsets, total)  # type: ignore[arg-type]

    monkeypatch.setattr(Stage, "_step", record)
    _, tile = _made(op, IMAGES, WEIGHT)
    order = list(dict.fromkeys(met))
    assert tile.taps
    assert len(order) == 3 ** len(tile.taps)
    assert order == sorted(order, reverse=op is GRADIENT)


@pytest.mark.parametrize("op", [FORWARD, GRADIENT], ids=["forward", "gradient"])
@pytest.mark.parametrize("host", [AVX512, AVX2], ids=["avx512", "avx2"])
def test_each_channel_asks_for_the_rows_of_the_next_tile(op: Op, host: Host) -> None:
    text, tile = _made(op, IMAGES, WEIGHT, host=host)
    assert tile.vector is not None
    lines = -(-tile.row(tile.vector) * tile.lanes * 4 // 64)
    rows = [n for axis, n in tile.rows.items() if axis.extent == 32 and axis is not tile.vector]
    assert len(re.findall(r"call void @\"?llvm\.prefetch", _inner_loop(text))) == lines * (rows[0] if rows else 1)


def test_what_stands_behind_a_sum_is_asked_for_in_front_of_it() -> None:
    text, tile = _made(FORWARD, IMAGES, WEIGHT)
    blocks = re.split(r"\n(?=\S+:)", text)
    inner = blocks.index(_inner_loop(text))
    before = "\n".join(blocks[:inner])
    # What the result holds, which is added to where `%add0` says so.
    sums = 1
    for rows in tile.rows.values():
        sums *= rows
    assert len(re.findall(r"call void @\"?llvm\.prefetch", before)) == sums


def test_what_transposes_an_image_asks_for_what_lies_further_on() -> None:
    text, _ = _made(ConvWeightGrad(kernel=(3, 3), pad=(1, 1)), IMAGES, IMAGES)
    asks = [block for block in re.split(r"\n(?=\S+:)", text) if 'call void @"llvm.prefetch' in block]
    # A square of 16 channels and 16 columns.
    assert [block.count('call void @"llvm.prefetch') for block in asks] == [16]
    assert "llvm.fma" not in asks[0]


def test_products_ask_for_nothing() -> None:
    text, _ = _made(Matmul(), (64, 256), (256, 784))
    assert "llvm.fma" in text
    assert "prefetch" not in text
