"""LLVM IR of a kernel that is a contraction in a nest, with the stages that share its outer loops.

    for n:                                   the loops that stages share, one iteration at a time
        p[c, u, v] = max(x[n, c, ..], 0)     a stage: its own loops, unrolled and vectorised as its tile says
        y[n, o, i, j] = sum of p * w         another one, which reads what the first has stored

Stages run one after the other; `stage.py` has the code of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llvmlite import ir

from concatc.ir.core import FuncOp
from concatc.targets.cpu.abi import define_kernel, unpack
from concatc.targets.cpu.frame import Frame
from concatc.targets.cpu.lanes import I32, I64
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.nest import Item, Nest, SharedLoop
from concatc.targets.cpu.stage import Stage
from concatc.targets.cpu.tile import SCALAR, Tile


def contraction_ir(kernel: FuncOp, items: Sequence[Item], tiles: Mapping[Nest, Tile], host: Host, symbol: str) -> str:
    """LLVM IR with one function of the shared signature."""
    module = ir.Module("contraction")
    function, b = define_kernel(module, symbol)
    arguments = unpack(b, function, kernel.args)
    dummy = b.alloca(I64)
    b.store(I64(0), dummy)
    _emit(items, Frame(module, b, host, arguments, dummy), tiles)
    b.ret(I32(0))
    return str(module)


def _emit(items: Sequence[Item], frame: Frame, tiles: Mapping[Nest, Tile]) -> None:
    for item in items:
        if isinstance(item, Nest):
            Stage(frame, item, tiles[item]).emit()
        else:
            _shared(item, frame, tiles)


def _shared(loop: SharedLoop, frame: Frame, tiles: Mapping[Nest, Tile]) -> None:
    def body(_: object) -> list[object]:
        _emit(loop.items, frame, tiles)
        return []

    bounds = Stage(frame, loop.bounds, SCALAR)
    frame.loop(loop.axis, bounds.bound(loop.axis.lower), bounds.bound(loop.axis.upper), 1, [], body)
