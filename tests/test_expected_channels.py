"""Few channels of a convolution are expected: tiles divide them, code takes any, no batch is taken for channels."""

from __future__ import annotations

from typing import Any

import pytest

from concatc.ir.core import FuncOp
from concatc.op import load_all_ops
from concatc.passes.lower_to_loops import lower_to_loops
from tests.test_contractions import conv_of, input_grad_of
from tests.test_packing import launch_of
from tests.test_products import check, sums_of

load_all_ops()

EXPECTED = {
    "forward_16": (conv_of((2, 5, 5, 32), 16, pad=(1, 1)), 45, 16),
    "forward_of_a_dilation": (conv_of((1, 3, 9, 16), 32, pad=(2, 2), dilation=(2, 2)), 27, 32),
    "gradient_16": (input_grad_of((2, 5, 5, 32), (5, 16, 3, 3), (5, 32), pad=(1, 1)), 45, 16),
}
OTHERS = {
    "12_channels": conv_of((2, 5, 5, 32), 12, pad=(1, 1)),
    "80_channels": conv_of((2, 5, 5, 32), 80, pad=(1, 1)),
    "no_windows": conv_of((2, 5, 5, 32), 16, kernel=1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_tiles_divide_channels_that_are_expected(name: str, tmp_path: Any) -> None:
    kernel, terms, channels = EXPECTED[name]
    ((nest, tile),) = sums_of(kernel)
    (axis,) = [a for a in nest.parallel if a.expected is not None]
    assert axis.expected == channels
    assert axis.extent is None, "code is for any number"
    assert channels % tile.row(axis) == 0
    check(kernel, terms, 3, tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_other_channels_are_not(name: str) -> None:
    ((nest, _),) = sums_of(OTHERS[name])
    assert all(axis.expected is None for axis in nest.parallel)


def test_no_batch_is_expected() -> None:
    def text(kernel: FuncOp) -> str:
        return str(lower_to_loops(launch_of(kernel, 0)[0]).functions[1])

    assert len({text(conv_of((n, 5, 5, 32), 16, pad=(1, 1))) for n in (2, 16, 48)}) == 1
    gradients = (input_grad_of((n, 5, 5, 32), (5, 16, 3, 3), (5, 32), pad=(1, 1)) for n in (2, 16, 48))
    assert len({text(kernel) for kernel in gradients}) == 1
