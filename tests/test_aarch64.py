"""Code for AArch64 is made of NEON instructions.  It is generated and read here; no such machine runs the tests."""

from __future__ import annotations

import re

import pytest

from concatc.op import Op
from concatc.ops.conv import Conv
from concatc.ops.conv_input_grad import ConvInputGrad
from concatc.ops.conv_transpose import ConvTranspose
from concatc.ops.conv_weight_grad import ConvWeightGrad
from concatc.ops.linear import Linear, LinearWeightGrad
from concatc.ops.matmul import Matmul
from concatc.targets.cpu.native import Host, assembly, object_code
from tests.contraction_code import contraction_of

NEON = Host(
    "neoverse-n1", "", vector_bytes=16, registers=32, fma=True, masked=False, triple="aarch64-unknown-linux-gnu"
)
CASES: dict[str, tuple[Op, list[tuple[int, ...]]]] = {
    "linear": (Linear(), [(64, 784), (256, 784)]),
    "linear_weight_grad": (LinearWeightGrad(), [(64, 256), (64, 784)]),
    "matmul": (Matmul(), [(64, 256), (256, 784)]),
    "conv": (Conv(pad=(1, 1)), [(4, 16, 32, 32), (16, 16, 3, 3)]),
    "conv_1x1": (Conv(), [(4, 64, 28, 28), (32, 64, 1, 1)]),
    "conv_stride": (Conv(pad=(1, 1), stride=(2, 2)), [(4, 16, 32, 32), (32, 16, 3, 3)]),
    "conv_input_grad": (
        ConvInputGrad(image=(32, 32), pad=(1, 1), stride=(2, 2)),
        [(4, 32, 16, 16), (32, 16, 3, 3)],
    ),
    "conv_weight_grad": (ConvWeightGrad(kernel=(3, 3), pad=(1, 1)), [(4, 16, 14, 14), (4, 32, 14, 14)]),
    "conv_transpose": (ConvTranspose(stride=(2, 2)), [(2, 32, 16, 16), (32, 16, 2, 2)]),
}


def _ir(name: str) -> str:
    op, shapes = CASES[name]
    text, tiles = contraction_of(op, shapes, NEON)
    assert all(tile.lanes <= 4 for tile in tiles), "a vector holds 4 f32"
    return text


@pytest.mark.parametrize("name", CASES)
def test_sums_are_fused_multiply_adds_on_vectors(name: str) -> None:
    text = assembly(_ir(name), NEON)
    vectors = len(re.findall(r"\bfmla\s+v\d+\.4s", text))
    scalars = len(re.findall(r"\b(?:fmadd|fmul)\s+s\d+", text))
    assert vectors >= 8, "sums of a tile"
    assert scalars == 0, "no product of single elements"
    if name.startswith("conv") and name != "conv_1x1":
        return  # taps are written out: what stands between them is on the stack
    loops = [block for block in re.split(r"^\.LBB", text, flags=re.M) if "fmla" in block]
    spilled = [line for block in loops for line in _sums(block) if re.search(r"\b(?:ld|st)[rp]\s+q\d+.*\[sp", line)]
    assert not spilled, "sums stay in registers"


def _sums(block: str) -> list[str]:
    """The lines between the first and the last multiplication of a block."""
    lines = block.splitlines()
    at = [k for k, line in enumerate(lines) if "fmla" in line]
    return lines[at[0] : at[-1] + 1]


def test_object_code() -> None:
    data = object_code(_ir("linear"), NEON)
    assert data[:4] == b"\x7fELF"
    assert int.from_bytes(data[18:20], "little") == 183, "EM_AARCH64"
