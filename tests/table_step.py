"""Steps written as text that launch one kernel on windows that may overlap, and how their table cuts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from concatc.ir.parser import parse_module
from concatc.loops.cuts import Cut
from concatc.targets.cpu.step_table import step_table

MATRIX, ROW = "memref<?x?xf32>", "memref<?xf32>"


def cuts_on(kernel: str, sizes: int, matrices: Sequence[str], apart_bytes: int) -> Mapping[str, Cut]:
    """How a step cuts the kernel ``@k``, the text behind ``func.func private``, called with 4 iterations.

    It takes ``sizes`` sizes of 4, then matrices of 4x4, ``%d`` at byte 0 or ``%e`` so many bytes behind it, then
    scratch memory of 4 elements.
    """
    given = ["%c0", *["%c4"] * (sizes + 1), *matrices, "%t"]
    types = [*["index"] * (sizes + 2), *[MATRIX] * len(matrices), ROW]
    step = f"""
module @m {{
func.func @step(%arena: memref<4096xi8>) {{
  %c0 = arith.constant 0 : index
  %c4 = arith.constant 4 : index
  %c64 = arith.constant 64 : index
  %apart = arith.constant {apart_bytes} : index
  %a = memref.view %arena[%c0][] : memref<4096xi8> to memref<4x4xf32>
  %b = memref.view %arena[%apart][] : memref<4096xi8> to memref<4x4xf32>
  %s = memref.view %arena[%c64][] : memref<4096xi8> to memref<4xf32>
  %d = memref.cast %a : memref<4x4xf32> to {MATRIX}
  %e = memref.cast %b : memref<4x4xf32> to {MATRIX}
  %t = memref.cast %s : memref<4xf32> to {ROW}
  func.call @k({", ".join(given)}) : ({", ".join(types)}) -> ()
  func.return
}}
func.func private{kernel}"""
    return step_table(parse_module(step)).cuts
