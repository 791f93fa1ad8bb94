"""Runs the launches of generated code on bases, one launch behind the other, all threads of many blocks in lockstep.

    emulate(gpu_module(plan), {"arena": arena, ..}, "forward")

The bases are ``uint8`` arrays; a launch touches what its pointers may touch and nothing else, or a
:class:`concatc.targets.cuda.emulator.fault.KernelFault` says which thread did not keep to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from concatc.targets.cuda.emulator.arithmetic import TYPES
from concatc.targets.cuda.emulator.fault import KernelFault
from concatc.targets.cuda.emulator.lanes import together
from concatc.targets.cuda.emulator.memory import Memory, Shadow
from concatc.targets.cuda.emulator.program import Kernel, Program
from concatc.targets.cuda.emulator.races import Accesses
from concatc.targets.cuda.launches import Argument, GpuLaunch, GpuModule, Pointer

Array = np.ndarray[Any, Any]


def emulate(module: GpuModule, bases: Mapping[str, Array], phase: str = "step") -> None:
    """Run the launches of a phase, or all of them (``step``).

    Raises :class:`KernelFault` where a kernel breaks a rule.
    """
    program = Program(module.source)
    for launch in module.launches:
        if phase in ("step", launch.phase):
            run_launch(program, launch, bases, module.signatures.get(launch.kernel, ()))


def run_launch(program: Program, launch: GpuLaunch, bases: Mapping[str, Array], types: Sequence[str] = ()) -> None:
    """Run one launch of a kernel, whose parameters have these types; see :func:`emulate`."""
    kernel = program.kernel(launch.kernel)
    values = _arguments(_Call(program, kernel, launch), bases, types)
    with np.errstate(all="ignore"):
        for lanes in together(launch.grid, launch.block):
            machine = program.machine(launch.kernel, lanes, launch.grid)
            machine.values.update(values)
            kernel.run(machine)


@dataclass(frozen=True)
class _Call:
    program: Program
    kernel: Kernel
    launch: GpuLaunch

    def fail(self, rule: str, message: str) -> NoReturn:
        """Raise for arguments that the kernel must not be given."""
        raise KernelFault(rule, message, self.kernel.name, self.kernel.loc, self.program.source)


def _arguments(call: _Call, bases: Mapping[str, Array], types: Sequence[str]) -> dict[str, Any]:
    kernel, launch = call.kernel, call.launch
    if len(launch.arguments) != len(kernel.parameters):
        call.fail("types", f"takes {len(kernel.parameters)} arguments, and is given {len(launch.arguments)}")
    named = dict(zip(kernel.parameters, launch.arguments, strict=True))
    types = types or [_type_of(value) for value in launch.arguments]
    shadows = _shadows(kernel, launch, {name: p for name, p in named.items() if isinstance(p, Pointer)})
    return {
        name: _memory(call, name, value, type, bases, shadows.get(name))
        if isinstance(value, Pointer)
        else _number(call, name, value, type)
        for (name, value), type in zip(named.items(), types, strict=True)
    }


def _type_of(value: Argument) -> str:
    if isinstance(value, Pointer):
        return f"*{value.dtype}"
    return {bool: "i1", int: "i64", float: "f32"}[type(value)]


def _number(call: _Call, name: str, value: bool | int | float, type: str) -> Any:
    if type == "i1":
        return np.bool_(value)
    if type not in TYPES:
        call.fail("types", f"{name} is a {type}, and is given {value}")
    dtype = TYPES[type]
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        call.fail("overflow", f"{name} is an {type}, and is given {value}")
    return dtype.type(value)


def _memory(
    call: _Call, name: str, pointer: Pointer, type: str, bases: Mapping[str, Array], shadow: Shadow | None
) -> Memory:
    if type != f"*{pointer.dtype}":
        call.fail("types", f"{name} is a {type}, and is given a pointer to {pointer.dtype}")
    dtype, base = TYPES[pointer.dtype], bases[pointer.base]
    size, begin, end = dtype.itemsize, pointer.begin_bytes, pointer.end_bytes
    if pointer.offset_bytes % size:
        call.fail("alignment", f"{name} points to {pointer}, which is no multiple of {size}")
    if not 0 <= begin <= end <= base.size:
        call.fail("bounds", f"{name} may touch bytes {begin} to {end} of {pointer.base}, which has {base.size}")
    start = pointer.offset_bytes // size
    elements = base[: base.size // size * size].view(dtype)
    readonly = name not in call.kernel.stored
    return Memory(
        name, elements, np.int64(start), -(-begin // size) - start, end // size - start, None, shadow, readonly
    )


def _shadows(kernel: Kernel, launch: GpuLaunch, pointers: Mapping[str, Pointer]) -> dict[str, Shadow]:
    """What is noted of the memory behind each pointer that stores, or may load what another one stores."""
    found: dict[str, Shadow] = {}
    stored = [p for name, p in pointers.items() if name in kernel.stored and p.begin_bytes < p.end_bytes]
    for base in dict.fromkeys(p.base for p in stored):
        begin = min(p.begin_bytes for p in stored if p.base == base)
        end = max(p.end_bytes for p in stored if p.base == base)
        near = {n: p for n, p in pointers.items() if p.base == base and p.begin_bytes < end and begin < p.end_bytes}
        sizes = [TYPES[p.dtype].itemsize for p in near.values()]
        begin, end = min(p.begin_bytes for p in near.values()), max(p.end_bytes for p in near.values())
        begin -= begin % max(sizes)
        shadow = Shadow(Accesses(math.ceil((end - begin) / min(sizes)), launch.block), begin, min(sizes))
        found.update(dict.fromkeys(near, shadow))
    return found
