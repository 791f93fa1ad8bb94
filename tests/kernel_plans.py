"""Plans made of single ops: each sample a kernel, its windows dense or with gaps, to be run by any target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from concatc.ir.core import FuncOp, Operation
from concatc.ir.types import ELEMENT_BYTES, TensorType
from concatc.loops.memory import allocate, view
from concatc.loops.plan import ALIGN_BYTES, Base, Launch, Plan, Window
from concatc.op import DIALECT, Op
from concatc.passes.lower_to_loops import scratch_bytes

CANARY = 0xA5


def op_kernel(name: str, op: Op, types: Sequence[TensorType]) -> FuncOp:
    """A kernel that holds one op."""
    kernel = FuncOp(name, types, [f"x{k}" for k in range(len(types))])
    results = op.infer(list(types))
    names = [f"y{k}" for k in range(len(results))]
    made = Operation(DIALECT + op.name, kernel.args, results, op.attrs(), result_names=names)
    kernel.body.append(made)
    kernel.body.append(Operation("func.return", made.results))
    return kernel


@dataclass
class Bump:
    """Hands out windows of one base, one behind the other."""

    base: str = "arena"
    used: int = 64

    def window(self, type: TensorType, gap: int = 0, order: Sequence[int] | None = None) -> Window:
        """A window whose rows lie ``gap`` elements apart; ``order`` are the axes from the slowest to the fastest."""
        strides = [0] * type.rank
        step = 1
        for d in reversed(order if order is not None else range(type.rank)):
            strides[d] = step
            step = step * max(type.shape[d], 1) + gap
        window = Window(self.base, self.used, type.shape, tuple(strides), type.dtype)
        size = window.end_bytes - self.used + ELEMENT_BYTES[type.dtype] * gap
        self.used += -(-max(size, 1) // 64) * 64 + 64
        return window


def plan_of(launches: Sequence[Launch], kernels: Sequence[FuncOp], used: int) -> Plan:
    """The plan of these launches over one arena."""
    plan = Plan("samples", {"arena": Base("arena", used)}, {k.sym_name: k for k in kernels}, list(launches))
    return with_scratch(plan)


def with_scratch(plan: Plan) -> Plan:
    """The plan, with scratch for each launch that needs some, behind all that its arena holds."""
    needs = {name: scratch_bytes(kernel) for name, kernel in plan.kernels.items()}
    start = -(-plan.bases["arena"].size_bytes // ALIGN_BYTES) * ALIGN_BYTES
    launches = [
        replace(launch, scratch=Window("arena", start, (needs[launch.kernel],), (1,), "i8"))
        if needs[launch.kernel]
        else launch
        for launch in plan.launches
    ]
    arena = Base("arena", start + max(needs.values(), default=0))
    return replace(plan, bases={**plan.bases, "arena": arena}, launches=launches)


def fresh_arena(plan: Plan) -> np.ndarray:
    """An arena full of canaries."""
    arena = allocate(plan.bases["arena"].size_bytes)
    arena[...] = CANARY
    return arena


def untouched(arena: np.ndarray, plan: Plan) -> np.ndarray:
    """The bytes outside of all windows of the plan."""
    outside = np.ones(arena.shape, np.bool_)
    marks = outside.view(np.uint8)
    for launch in plan.launches:
        scratch = [] if launch.scratch is None else [launch.scratch]
        for window in (*launch.reads, *launch.writes, *scratch):
            step = ELEMENT_BYTES[window.dtype]
            bytes_of = Window(
                window.base,
                window.offset_bytes,
                (*window.shape, step),
                (*(s * step for s in window.strides), 1),
                "i8",
            )
            view(marks, bytes_of)[...] = 0
    return arena[outside]
