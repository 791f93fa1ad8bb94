"""A plan as device kernels: their source, and the launches with all arguments.

    launch k4_linear                 rows of a kernel of the plan become one device kernel or several,
      reads  arena+0 [64, 80]   ->   k4_linear: grid 2, block 256, (.., arena+0, ..)
      writes arena+20480 [64, 10]

Kernels of equal text are one function.  Values that device kernels of one launch hand to each other lie in a base of
its own (``scratch``), which is as large as the launch that needs most of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.core import FuncOp, Value
from concatc.ir.types import ELEMENT_BYTES, INDEX, MemRefType, TensorType
from concatc.loops.kernel_loops import lay_out, memref_of, merged_window
from concatc.loops.plan import ALIGN_BYTES, Launch, Plan, Window
from concatc.loops.program import Buffer, Statement, program_of
from concatc.loops.python_source import dynamic_strides, python_module
from concatc.loops.structure import structure_of
from concatc.op import lowered
from concatc.passes.choose_algorithms import Precision
from concatc.targets.cuda.cuda_source import HEADER, CudaPrinter
from concatc.targets.cuda.device_writer import DeviceWriter
from concatc.targets.cuda.groups import Group, device_groups
from concatc.targets.cuda.launches import MOST_BLOCKS, SCRATCH, Argument, GpuLaunch, GpuModule, Pointer
from concatc.targets.cuda.mma_tiles import FastTilesWriter, HighTilesWriter
from concatc.targets.cuda.rows import RowsWriter
from concatc.targets.cuda.scatter import ClearWriter, ScatterWriter
from concatc.targets.cuda.split_sums import split_sums
from concatc.targets.cuda.tile_sides import SidesWriter
from concatc.targets.cuda.tiles import TilesWriter

WRITERS: dict[str, type[DeviceWriter]] = {
    "points": DeviceWriter,
    "rows": RowsWriter,
    "tiles": TilesWriter,
    "clear": ClearWriter,
    "scatter": ScatterWriter,
}
# Products of f32 that may run on tensor cores.
TENSOR_CORES: dict[Precision, type[DeviceWriter]] = {"high": HighTilesWriter, "fast": FastTilesWriter}
ALIGNED = 16  # bytes that one access moves at most
MOST_POINTS = (1 << 31) - MOST_BLOCKS * 256  # what counts in 32 bits, and one step beyond


def gpu_module(plan: Plan, precision: Precision = "high") -> GpuModule:
    """The device kernels and launches of a plan; of one plan they are always the same.

    ``precision`` says how products of f32 are computed: in f32 (``exact``), on tensor cores with the error of f32
    (``high``), or on tensor cores with factors rounded to tf32 (``fast``).
    Raises :class:`ConcatcError` where a kernel has more points than 32 bits count.
    """
    generator = _Generator(plan, precision)
    launches = [made for launch in plan.launches for made in generator.launches(launch)]
    source, names = python_module(HEADER, generator.functions, CudaPrinter)
    bases = {name: base.size_bytes for name, base in plan.bases.items()}
    if generator.scratch_bytes:
        bases[SCRATCH] = generator.scratch_bytes
    signatures = {names[f.sym_name]: _signature(f) for f in generator.functions}
    renamed = tuple(replace(made, kernel=names[made.kernel]) for made in launches)
    return GpuModule(source, renamed, bases, signatures)


@dataclass(frozen=True)
class _Part:
    """A device kernel of a launch: which arguments its function takes of all that there are."""

    function: FuncOp
    grid: int
    block: int
    numbers: tuple[tuple[str, int | float], ...]  # memory and add by their number, sizes and numbers as they are


class _Generator:
    def __init__(self, plan: Plan, precision: Precision) -> None:
        self.plan = plan
        self.precision = precision
        self.functions: list[FuncOp] = []
        self.scratch_bytes = 0
        self._parts: dict[object, tuple[list[_Part], list[list[bool]], list[TensorType]]] = {}
        self._by_text: dict[str, FuncOp] = {}
        self._count: dict[str, int] = {}

    def launches(self, launch: Launch) -> list[GpuLaunch]:
        windows = [*launch.reads, *launch.writes]
        key = (
            launch.kernel,
            tuple((w.shape, w.strides) for w in windows),
            tuple(map(windows.index, windows)),
            launch.add,
            tuple(w.offset_bytes % ALIGNED == 0 for w in windows),
        )
        if key not in self._parts:
            self._parts[key] = self._generate(launch, windows)
        parts, joined, scratch = self._parts[key]
        windows = [merged_window(w, flags) for w, flags in zip(windows, joined, strict=True)]
        used = 0
        for type in scratch:
            windows.append(Window.dense(SCRATCH, used, type))
            used += -(-type.size_bytes // ALIGN_BYTES) * ALIGN_BYTES
        self.scratch_bytes = max(self.scratch_bytes, used)
        return [
            GpuLaunch(
                part.function.sym_name,
                min(part.grid, MOST_BLOCKS),
                part.block,
                tuple(_arguments(part, windows, launch.add)),
                launch.phase,
                launch.kernel,
                f"{PurePath(launch.loc.file).name}:{launch.loc.line}" if launch.loc else "",
            )
            for part in parts
            if part.grid
        ]

    def _generate(
        self, launch: Launch, windows: Sequence[Window]
    ) -> tuple[list[_Part], list[list[bool]], list[TensorType]]:
        kernel = self.plan.kernels[launch.kernel]
        program = program_of(kernel, lowered)
        joined, overwritten = lay_out(program, windows)
        groups, scratch = device_groups(program, overwritten, split_sums(program))
        seen = _seen_in_results(groups, scratch, launch.add)
        for buffer in seen:
            buffer.scratch = None
        scratch = [buffer for buffer in scratch if buffer not in seen]
        memrefs = [memref_of(merged_window(w, flags)) for w, flags in zip(windows, joined, strict=True)]
        parts = []
        for group in groups:
            if group.points > MOST_POINTS:
                raise ConcatcError(Diagnostic(f"@{launch.kernel} has more points than 32 bits count", launch.loc))
            function = FuncOp("", loc=kernel.loc, private=True)
            arguments = [argument for argument, _ in overwritten]
            writer = self._writer_of(group)(group, program, (memrefs, scratch, seen), arguments, function)
            if isinstance(writer, SidesWriter):
                merged = (merged_window(w, flags) for w, flags in zip(windows, joined, strict=True))
                writer.aligned = frozenset(b for b, w in zip(program.arguments, merged, strict=False) if _is_aligned(w))
            writer.write(kernel)
            numbers = _leave_out_unread(function, writer.sizes, writer.scalars)
            parts.append(_Part(self._shared(function, launch.kernel), writer.grid, writer.threads, numbers))
        return parts, joined, [buffer.type for buffer in scratch]

    def _writer_of(self, group: Group) -> type[DeviceWriter]:
        is_f32 = all(s.piece.target.dtype == "f32" for s in group.body.items[:1] if isinstance(s, Statement))
        if group.kind == "tiles" and is_f32:
            return TENSOR_CORES.get(self.precision, WRITERS["tiles"])
        return WRITERS[group.kind]

    def _shared(self, function: FuncOp, kernel: str) -> FuncOp:
        """The function of this text."""
        text = structure_of(function)
        if text not in self._by_text:
            count = self._count[kernel] = self._count.get(kernel, 0) + 1
            function.sym_name = kernel if count == 1 else f"{kernel}.{count}"
            self._by_text[text] = function
            self.functions.append(function)
        return self._by_text[text]


def _is_aligned(window: Window) -> bool:
    """Whether the last axis of a window lies side by side, and begins at multiples of 16 bytes."""
    *outer, last = window.strides or (0,)
    size = ELEMENT_BYTES[window.dtype]
    return last == 1 and all(n % ALIGNED == 0 for n in (window.offset_bytes, *(stride * size for stride in outer)))


def _seen_in_results(groups: Sequence[Group], scratch: Sequence[Buffer], add: Sequence[bool]) -> dict[Buffer, int]:
    """The values that other loops read in the memory of a result, and which result: one that holds nothing else."""
    statements = [s for group in groups for s in group.statements]
    inlined: dict[int, Buffer] = {}
    readers = [*statements]
    for reader in readers:  # grows: what is inlined may read what is inlined
        for buffer in reader.refs.values():
            if buffer.inlined and id(buffer) not in inlined:
                inlined[id(buffer)] = buffer
                readers += buffer.writers
    seen: dict[Buffer, int] = {}
    for buffer in scratch:
        if not buffer.results or add[buffer.results[0]] or any(w.kind == "scatter" for w in buffer.writers):
            continue
        bodies = [writer.path[-1] for writer in buffer.writers if writer.path]
        # A result is stored at the end of the loop: what reads it inside of that loop comes before.
        reads_inside = any(
            body in reader.path
            for reader in readers
            for body in bodies
            if reader not in buffer.writers and any(reader.buffer(ref) is buffer for ref in reader.piece.reads)
        )
        through = any(any(w.buffer(r) is buffer for r in w.piece.reads) for b in inlined.values() for w in b.writers)
        if len(bodies) == len(buffer.writers) and not reads_inside and not through:
            seen[buffer] = buffer.results[0]
    return seen


def _leave_out_unread(
    function: FuncOp, sizes: Sequence[int], scalars: Sequence[float]
) -> tuple[tuple[str, int | float], ...]:
    """Drop the arguments that nothing reads; what the others stand for."""
    body = function.body
    counts = {"memory": 0, "add": 0}
    given_sizes, given_scalars = iter(sizes), iter(scalars)
    kept: list[Value] = []
    numbers: list[tuple[str, int | float]] = []
    for arg in body.args:
        kind = "memory" if isinstance(arg.type, MemRefType) else "add" if str(arg.type) == "i1" else ""
        number: int | float
        if kind:
            number = counts[kind]
            counts[kind] += 1
        else:
            kind, number = ("size", next(given_sizes)) if arg.type == INDEX else ("number", next(given_scalars))
        if arg.uses:
            kept.append(arg)
            numbers.append((kind, number))
    body.args[:] = kept
    return tuple(numbers)


def _arguments(part: _Part, windows: Sequence[Window], add: Sequence[bool]) -> list[Argument]:
    arguments: list[Argument] = []
    for (kind, number), arg in zip(part.numbers, part.function.args, strict=True):
        if kind == "memory":
            assert isinstance(arg.type, MemRefType)
            window = windows[int(number)]
            arguments.append(
                Pointer(window.base, window.offset_bytes, window.dtype, window.offset_bytes, window.end_bytes)
            )
            arguments += [window.strides[d] for d in dynamic_strides(arg.type)]
        elif kind == "add":
            arguments.append(add[int(number)])
        else:
            arguments.append(number)
    return arguments


def _signature(function: FuncOp) -> tuple[str, ...]:
    """The types of a function's parameters."""
    types: list[str] = []
    for arg in function.args:
        if isinstance(arg.type, MemRefType):
            types += [f"*{arg.type.dtype}", *("i32" for _ in dynamic_strides(arg.type))]
        else:
            types.append("i32" if arg.type == INDEX else str(arg.type))
    return tuple(types)
