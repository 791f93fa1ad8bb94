"""The LLVM IR of single ops as sums in nests, for any host."""

from __future__ import annotations

from collections.abc import Sequence

from concatc.ir.types import TensorType
from concatc.loops.plan import Launch
from concatc.op import Op
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cpu.contraction import contraction_ir
from concatc.targets.cpu.native import Host
from concatc.targets.cpu.nest import nests_in, recognize
from concatc.targets.cpu.tile import Tile, choose_tiles
from tests.kernel_plans import Bump, op_kernel, plan_of


def contraction_of(op: Op, shapes: Sequence[tuple[int, ...]], host: Host) -> tuple[str, list[Tile]]:
    """The code of a kernel that holds one op on dense f32, and the tiles of its stages, in order."""
    types = [TensorType(s, "f32") for s in shapes]
    bump, kernel = Bump(), op_kernel("k", op, types)
    reads = tuple(bump.window(t) for t in types)
    writes = tuple(bump.window(v.tensor) for v in kernel.ret.operands)
    loops = lower_to_loops(plan_of([Launch("k", reads, writes, (False,))], [kernel], bump.used))
    (function,) = [f for f in loops.functions[1:] if f.declared is None]
    items = recognize(function)
    assert items is not None
    stages = nests_in(items)
    tiles = choose_tiles(stages, host)
    assert tiles is not None
    return contraction_ir(function, items, tiles, host, "k"), [tiles[stage] for stage in stages if stage in tiles]
