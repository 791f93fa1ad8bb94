"""``lower-to-loops``: a plan becomes functions of `func`, `arith`, `math`, `scf` and `memref`.

    launch k0_relu                           func.func @step(%arena: memref<256xi8>) {
      reads  arena+0  [2, 4] [4, 1]            %0 = memref.view %arena[%c0][] : memref<256xi8> to memref<2x4xf32>
      writes arena+64 [2, 4] [8, 1]     ->     ..
                                               func.call @k0_relu(%c0, %c2, %c4, %1, %4, %false) {cnet.phase = "..."}
    k0_relu(%x) {                            }
      %y = cnet.relu(%x)                     func.func private @k0_relu(%begin: index, %end: index, %n_i1: index,
      return %y                                  %x: memref<?x?xf32, strided<[?, 1]>>, %y: .., %add0: i1) {
    }                                          scf.for %i0 = %begin to %end step %c1 { .. }
                                             }

Invariant: ``@step`` holds all addresses, in the order of the plan, as windows of the bases and calls; the kernels hold
all arithmetic.  A target reads nothing else.  Extents and strides are arguments, except strides of 1, which are part
of the type (they are what vectors run along), and the extents of sliding windows; so kernels that differ in sizes only
are one function.  Kernels of equal text are one function, under the name of the first; where it serves another one, the
call says which: ``cnet.kernel = "k7_relu"``.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.clone import clone_function
from concatc.ir.core import FuncOp, Module, Value
from concatc.ir.types import ELEMENT_BYTES, I1, MemRefType, TensorType, dense_strides
from concatc.loops.kernel_loops import KernelLoops, kernel_loops, merged_window, scratch_of
from concatc.loops.loop_builder import LoopBuilder
from concatc.loops.merge_axes import lie_as_one
from concatc.loops.plan import ALIGN_BYTES, Launch, Plan, Window
from concatc.loops.structure import structure_of
from concatc.op import lowered

STEP = "step"


@dataclass(frozen=True)
class LowerToLoops:
    """Lower a plan.  It has no options: what varies is in the plan."""

    name = "lower-to-loops"

    def run(self, plan: Plan) -> Module:
        """The module of loops."""
        return lower_to_loops(plan)


# What planning asks several times of a kernel of a plan; such a function does not change once it is made.
_SCRATCH: weakref.WeakKeyDictionary[FuncOp, tuple[TensorType, ...]] = weakref.WeakKeyDictionary()


def scratch_bytes(kernel: FuncOp) -> int:
    """How many bytes of scratch a launch of ``kernel`` needs; they must be aligned to 64."""
    return _scratch_windows(_scratch_types(kernel), Window("arena", 0, (), (), "i8"))[1]


def scratch_pieces(kernel: FuncOp) -> list[int]:
    """The bytes of each scratch buffer of ``kernel``; every one starts at a multiple of 64."""
    return [type.size_bytes for type in _scratch_types(kernel)]


def _scratch_types(kernel: FuncOp) -> tuple[TensorType, ...]:
    if kernel not in _SCRATCH:
        _SCRATCH[kernel] = tuple(scratch_of(kernel, lowered))
    return _SCRATCH[kernel]


def lower_to_loops(plan: Plan, chunked: list[tuple[int, int]] | None = None) -> Module:
    """The module of a plan: ``@step`` first, then its kernels, then the declaration of the net.

    ``chunked`` gets for each launch the extent of its outermost loop and how many iterations are a chunk.
    Raises :class:`ConcatcError` where a launch has less scratch than it needs.
    """
    step = FuncOp(STEP, [MemRefType((b.size_bytes,), "i8") for b in plan.bases.values()], list(plan.bases))
    module = Module(plan.name, [step])
    lowering = _Lowering(plan, step)
    for launch in plan.launches:
        outer = lowering.launch(launch)
        if chunked is not None:
            chunked.append(outer)
    lowering.b.finish()
    for function in lowering.functions:
        module.add(function)
    if plan.net is not None:
        module.add(clone_function(plan.net))
    return module


class _Lowering:
    def __init__(self, plan: Plan, step: FuncOp) -> None:
        self.plan = plan
        self.b = LoopBuilder(step.body)
        self.bases = {arg.name: arg for arg in step.args}
        self.functions: list[FuncOp] = []
        self._kernels: dict[object, KernelLoops] = {}
        self._by_text: dict[str, FuncOp] = {}
        self._names: dict[str, int] = {}
        self._first_use: dict[str, str] = {}  # the kernel of the plan that a function was made for

    def launch(self, launch: Launch) -> tuple[int, int]:
        windows = [_without_offset_if_empty(w) for w in (*launch.reads, *launch.writes)]
        kernel = self._kernel(launch, windows)
        windows = [merged_window(w, joined) for w, joined in zip(windows, kernel.joined, strict=True)]
        if kernel.scratch:
            space = launch.scratch or Window(next(iter(self.bases)), 0, (0,), (1,), "i8")
            scratch, needed = _scratch_windows(kernel.scratch, space)
            given = space.end_bytes - space.offset_bytes
            if given < needed or space.offset_bytes % ALIGN_BYTES:
                has = f"has {given}" if launch.scratch else "has none"
                wanted = f"@{launch.kernel} needs {needed} bytes of scratch at a multiple of {ALIGN_BYTES}"
                raise ConcatcError(Diagnostic(f"{wanted}; the launch {has}", launch.loc))
            windows += scratch
        b = self.b
        memory = [a for a in kernel.function.args if isinstance(a.type, MemRefType)]
        extent, block = kernel.outer
        operands = [b.index(0), b.index(-(-extent // block)), *map(b.index, kernel.sizes)]
        for window, arg in zip(windows, memory, strict=True):
            assert isinstance(arg.type, MemRefType)
            operands.append(self._window(window, arg.type))
        operands += [b.constant(add, I1) for add in launch.add]
        called = kernel.function.sym_name
        stands_for = {} if self._first_use[called] == launch.kernel else {"cnet.kernel": launch.kernel}
        call = b.call(called, operands, {"cnet.phase": launch.phase, **stands_for})
        call.loc = launch.loc
        return kernel.outer

    def _kernel(self, launch: Launch, windows: Sequence[Window]) -> KernelLoops:
        layout = [(tuple(s == 1 for s in w.strides), tuple(lie_as_one(w.shape, w.strides))) for w in windows]
        key = (launch.kernel, tuple(layout), tuple(windows.index(w) for w in windows))
        if key in self._kernels:
            return self._kernels[key]
        made = kernel_loops("", self.plan.kernels[launch.kernel], windows, lowered)
        _mark_overlaps(made.function, windows, len(launch.reads))
        text = structure_of(made.function)
        if text in self._by_text:
            made.function = self._by_text[text]
        else:
            count = self._names[launch.kernel] = self._names.get(launch.kernel, 0) + 1
            made.function.sym_name = launch.kernel if count == 1 else f"{launch.kernel}.{count}"
            self._first_use[made.function.sym_name] = launch.kernel
            self._by_text[text] = made.function
            self.functions.append(made.function)
        self._kernels[key] = made
        return made

    def _window(self, window: Window, type: MemRefType) -> Value:
        b = self.b
        base = self.bases[window.base]
        step = ELEMENT_BYTES[window.dtype]
        dense = window.strides == dense_strides(window.shape)
        numel = (window.end_bytes - window.offset_bytes) // step
        flat = MemRefType(window.shape if dense else (numel,), window.dtype)
        value = b.pure("memref.view", [base, b.index(window.offset_bytes)], flat)
        if not dense:
            strided = MemRefType(window.shape, window.dtype, window.strides)
            lists = {"offsets": (0,), "sizes": window.shape, "strides": window.strides}
            value = b.pure("memref.reinterpret_cast", [value], strided, attributes=lists)
        return value if value.type == type else b.pure("memref.cast", [value], type)


def _mark_overlaps(function: FuncOp, windows: Sequence[Window], reads: int) -> None:
    """Say of each result and scratch buffer what else lies there, so that vector code needs no check.

    ``cnet.noalias``: nothing.  ``cnet.same = k`` on all arguments in the memory of a result, but for the first of them,
    which is argument ``k``: what kernels may overwrite at all lies there exactly.
    """
    memory = [a for a in function.args if isinstance(a.type, MemRefType)]
    for scratch in memory[len(windows) :]:
        scratch.attrs["cnet.noalias"] = True
    for window, arg in zip(windows[reads:], memory[reads:], strict=False):
        first, *others = (a for a, w in zip(memory, windows, strict=False) if w == window)
        if not others:
            arg.attrs["cnet.noalias"] = True
        elif all(other.type == first.type for other in others):
            for other in others:
                other.attrs["cnet.same"] = function.args.index(first)


def _without_offset_if_empty(window: Window) -> Window:
    """The window; an empty one touches no byte, and may start anywhere."""
    return replace(window, offset_bytes=0) if 0 in window.shape else window


def _scratch_windows(types: Sequence[TensorType], space: Window) -> tuple[list[Window], int]:
    windows, used = [], 0
    for type in types:
        windows.append(Window.dense(space.base, space.offset_bytes + used, type))
        used += -(-type.size_bytes // ALIGN_BYTES) * ALIGN_BYTES
    return windows, used
