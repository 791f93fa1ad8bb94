"""Edited loops whose indices wrap around, or come from memory that was not surely written, are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import concatc
from tests.test_edited_plans import load

WRAPPED = {
    "a number cut to 32 bits": """
      %big = arith.constant 4294967296 : index
      %far = arith.addi %i0, %big : index
      %cut = arith.index_cast %far : index to i32
      %same = arith.index_cast %cut : i32 to index
      %at = arith.subi %same, %big : index
""",
    "a sum beyond 32 bits": """
      %top = arith.constant 2147483647 : i32
      %top.1 = arith.constant 2147483647 : index
      %cut = arith.index_cast %i0 : index to i32
      %far = arith.addi %cut, %top : i32
      %same = arith.index_cast %far : i32 to index
      %at = arith.subi %same, %top.1 : index
""",
    "a negative number taken for unsigned": """
      %minus = arith.constant -1 : i32
      %far = "arith.index_castui"(%minus) : (i32) -> index
      %one = arith.constant 1 : index
      %at = arith.addi %far, %one : index
""",
    "a product beyond 64 bits": """
      %far = arith.constant 4611686018427387904 : index
      %four = arith.constant 4 : index
      %none = arith.muli %far, %four : index
      %at = arith.addi %i0, %none : index
""",
    "true, which is -1": """
      %true = arith.constant true
      %far = arith.extsi %true : i1 to i32
      %at = arith.index_cast %far : i32 to index
""",
}


def module_of_kernel(*bodies: str) -> str:
    """Loops with a kernel of each body, on integers ``w``, a float ``s`` and the output ``y`` of 4 elements."""
    types = "index, index, memref<4xi32>, memref<1xf32>, memref<4xf32>"
    calls = "\n".join(f"    func.call @k{n}(%zero, %four, %w, %s, %y) : ({types}) -> ()" for n in range(len(bodies)))
    kernels = "\n".join(
        f"""
  func.func private @k{n}(
      %begin: index, %end: index, %w: memref<4xi32>, %s: memref<1xf32>, %y: memref<4xf32>
  ) attributes {{cnet.kernel}} {{
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c3 = arith.constant 3 : index
    %small = arith.constant 0 : i32
    %large = arith.constant 100000000 : i32
    %nought = arith.constant 0.0 : f32{body}
    func.return
  }}"""
        for n, body in enumerate(bodies)
    )
    return f"""
module @t {{
  func.func @step(
      %inputs: memref<64xi8>, %params: memref<0xi8>, %grads: memref<0xi8>, %states: memref<0xi8>,
      %outputs: memref<64xi8>, %arena: memref<128xi8>
  ) {{
    %zero = arith.constant 0 : index
    %four = arith.constant 4 : index
    %behind = arith.constant 64 : index
    %w = memref.view %arena[%zero][] : memref<128xi8> to memref<4xi32>
    %s = memref.view %arena[%behind][] : memref<128xi8> to memref<1xf32>
    %y = memref.view %outputs[%zero][] : memref<64xi8> to memref<4xf32>
{calls}
    func.return
  }}{kernels}
  func.func private @net(tensor<4xf32> {{cnet.name = "x", cnet.dims = ["n"]}})
    -> (tensor<4xf32> {{cnet.kind = "output", cnet.name = "y"}})
    attributes {{cnet.net = "t", cnet.dims = {{n = 4}}}}
}}
"""


def over_elements(body: str) -> str:
    """``body`` in a loop over 4 elements; it stores 0 to each."""
    return f"""
    scf.for %i0 = %begin to %end step %c1 {{{body}
    }}"""


FILL = over_elements("\n      memref.store %nought, %y[%i0] : memref<4xf32>")
STORE = "memref.store %{}, %w[%{}] : memref<4xi32>"
FOLLOW = """
    %loaded = memref.load %w[%c3] : memref<4xi32>
    %at = arith.index_cast %loaded : i32 to index
    %got = memref.load %y[%at] : memref<4xf32>
    memref.store %got, %s[%c0] : memref<1xf32>"""


@pytest.mark.parametrize("case", WRAPPED)
def test_an_index_that_wraps_around_is_refused(case: str, tmp_path: Path) -> None:
    body = over_elements(
        WRAPPED[case]
        + """
      %got = memref.load %y[%at] : memref<4xf32>
      memref.store %got, %y[%i0] : memref<4xf32>"""
    )
    with pytest.raises(concatc.ConcatcError, match="the index of axis 0 of %y"):
        load(module_of_kernel(FILL, body), tmp_path)


def test_an_index_that_a_kernel_stored_is_followed(tmp_path: Path) -> None:
    net = load(module_of_kernel(FILL, over_elements(STORE.format("small", "i0")), FOLLOW), tmp_path)
    np.testing.assert_array_equal(net.eval(x=np.ones(4, np.float32))["y"], np.zeros(4))


UNKNOWN = {
    "stored to another element": (STORE.format("large", "c3"), STORE.format("small", "c0"), FOLLOW),
    "stored under a condition": (
        over_elements(
            f"""
      %never = arith.cmpi slt, %i0, %c0 : index
      scf.if %never {{
        {STORE.format("small", "i0")}
      }}"""
        ),
        FOLLOW,
    ),
    "stored by the kernel that reads it": (
        over_elements(STORE.format("small", "i0")),
        over_elements(STORE.format("large", "i0")) + FOLLOW,
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_index_that_was_not_surely_stored_is_refused(case: str, tmp_path: Path) -> None:
    bodies = [body if body.startswith("\n") else f"\n    {body}" for body in UNKNOWN[case]]
    with pytest.raises(concatc.ConcatcError, match=r"the index of axis 0 of %y.* cannot be followed"):
        load(module_of_kernel(FILL, *bodies), tmp_path)
