"""Sums of the lanes of several vectors at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from concatc.ir.parser import parse_module
from concatc.targets.cpu.lane_sums import lane_sums, neighbours_of, sum_rows
from concatc.targets.cpu.native import Host, Library, host, object_code
from concatc.targets.cpu.nest import nests_in, recognize
from concatc.targets.cpu.tile import choose_tile

LINEAR = """
module @m {
func.func @step() { func.return }
func.func private @k(%begin: index, %end: index, %n_o: index, %n_k: index, %x: memref<?x?xf32, strided<[?, 1]>>,
                     %w: memref<?x?xf32, strided<[?, 1]>>, %b: memref<?xf32>,
                     %y: memref<?x?xf32, strided<[?, 1]>> {cnet.noalias}) attributes {cnet.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  scf.for %i = %begin to %end step %c1 {
    scf.for %o = %c0 to %n_o step %c1 {
      %acc = scf.for %k = %c0 to %n_k step %c1 iter_args(%a = %zero) -> (f32) {
        %u = memref.load %x[%i, %k] : memref<?x?xf32, strided<[?, 1]>>
        %v = memref.load %w[%o, %k] : memref<?x?xf32, strided<[?, 1]>>
        %p = arith.mulf %u, %v : f32
        %s = arith.addf %a, %p fastmath<reassoc> : f32
        scf.yield %s : f32
      }
      %bias = memref.load %b[%o] : memref<?xf32>
      %t = arith.addf %acc, %bias : f32
      memref.store %t, STORE : memref<?x?xf32, strided<[?, 1]>>
    }
  }
  func.return
}
}
"""


def halves(x: np.ndarray) -> np.ndarray:
    """The sum of each row: halves are added until one element is left."""
    while x.shape[1] > 1:
        x = x[:, : x.shape[1] // 2] + x[:, x.shape[1] // 2 :]
    return x[:, 0]


def computed(count: int, lanes: int, dtype: str, make: Callable[[Any, list[Any], int], list[Any]]) -> np.ndarray:
    """What ``make(builder, vectors, element bytes)`` gives for vectors of random elements, less their sums."""
    module = ir.Module("sums")
    element: Any = ir.FloatType() if dtype == "f4" else ir.DoubleType()
    pointer, row = ir.PointerType(), ir.VectorType(element, lanes)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer]), "sums")
    b: Any = ir.IRBuilder(function.append_basic_block())
    source, target = function.args
    size = np.dtype(dtype).itemsize
    at = [ir.Constant(ir.IntType(64), k) for k in range(count * lanes)]
    rows = [b.load(b.gep(source, [at[k * lanes]], source_etype=element), typ=row, align=size) for k in range(count)]
    step = 0
    for total in make(b, rows, size):
        b.store(total, b.gep(target, [at[step]], source_etype=element), align=size)
        step += total.type.count if isinstance(total.type, ir.VectorType) else 1
    b.ret_void()
    library = Library([object_code(str(module), host())], ["sums"])
    x = np.random.default_rng(0).normal(size=(count, lanes)).astype(dtype)
    y = np.zeros(count, dtype)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(library.address("sums"))
    call(x.ctypes.data, y.ctypes.data)
    return y - halves(x)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 24])
def test_sums_have_the_bits_of_halves_that_are_added(count: int, lanes: int, dtype: str) -> None:
    assert not computed(count, lanes, dtype, lane_sums).any()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("count", "lanes", "together"), [(2, 2, 2), (16, 16, 4), (24, 16, 8), (24, 8, 4), (12, 4, 4), (24, 8, 8)]
)
@pytest.mark.parametrize("strided", [False, True])
def test_sums_in_vectors_have_these_bits(count: int, lanes: int, together: int, strided: bool, dtype: str) -> None:
    """Rows of sums that follow each other, or that lie as far apart as there are rows."""
    numbers = np.arange(count).reshape((together, -1)[::-1])
    rows = numbers if not strided else np.arange(count).reshape(together, -1).T

    def make(b: Any, vectors: list[Any], size: int) -> list[Any]:
        # The sum of number k stands in row k % rows: what is asked for is its place in the result.
        order = np.argsort(rows.ravel())
        return sum_rows(b, [vectors[k] for k in order], size, rows.tolist())

    assert not computed(count, lanes, dtype, make).any()


@pytest.mark.parametrize(("store", "along"), [("%y[%i, %o]", "o"), ("%y[%o, %i]", "i"), ("%y[%o, %c0]", None)])
def test_results_that_lie_side_by_side_are_made_in_lanes(store: str, along: str | None) -> None:
    """Where vectors lie along the sum; results that lie apart are made of scalars."""
    loops = parse_module(LINEAR.replace("STORE", store))
    (nest,) = nests_in(recognize(loops.function("k")) or [])
    tile = choose_tile(nest, Host("x86-64", "", 64, 32, fma=True, masked=True))
    assert tile is not None and tile.vector is not None and tile.vector.reduce
    found = neighbours_of(nest, tile)
    assert (found.index.name if found is not None else None) == along
