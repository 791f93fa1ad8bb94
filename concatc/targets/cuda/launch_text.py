"""The launches of a module as text, a line each, and back; what is read is checked before it becomes launches.

    {"bases": {"inputs": 24832, "arena": 81920}, "kernels": {"k0_linear": ["i32", "*f32"]}}
    ["k0_linear", "forward", 12, 256, "k0_linear", "thread.cnet:7", [64, ["arena", 32768, 32768, 65536]]]

The first line names the bases with their bytes and the types of each kernel's parameters.  A launch is its kernel, its
phase, blocks, threads, the kernel of the plan, the line of the source and its arguments; a pointer is its base, where
it points, and between which bytes its kernel stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from concatc.ir.types import ELEMENT_BYTES
from concatc.targets.cuda.launches import MOST_BLOCKS, MOST_THREADS, Argument, GpuLaunch, GpuModule, Pointer

PHASES = ("forward", "backward", "update")
LARGEST_BYTES = 1 << 62
_INTEGERS = {"i8": 8, "i32": 32, "i64": 64}
_FLOATS = ("f32", "f64")


class LaunchError(Exception):
    """The text is no list of launches; says which line is wrong, and how."""


def launch_text(module: GpuModule) -> Iterator[str]:
    """The lines of a module's launches."""
    yield json.dumps({"bases": module.bases, "kernels": module.signatures}) + "\n"
    for x in module.launches:
        given = [
            [a.base, a.offset_bytes, a.begin_bytes, a.end_bytes] if isinstance(a, Pointer) else a for a in x.arguments
        ]
        yield json.dumps([x.kernel, x.phase, x.grid, x.block, x.plan_kernel, x.line, given]) + "\n"


def read_launches(lines: Iterable[str | bytes], source: str) -> GpuModule:
    """The module of these launches, whose kernels are ``source``.

    Raises :class:`LaunchError` for text of another form, for kernels that are given other arguments than they take, and
    for pointers that are not into their base.
    """
    bases: dict[str, int] = {}
    kernels: dict[str, tuple[str, ...]] = {}
    launches: list[GpuLaunch] = []
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            if number == 1:
                bases, kernels = _head(data)
            else:
                launches.append(_launch(data, bases, kernels))
        except _WrongError as error:
            raise LaunchError(f"line {number}: {error}") from None
        except (ValueError, RecursionError):
            raise LaunchError(f"line {number}: it is no JSON") from None
    if not number:
        raise LaunchError("it is empty")
    return GpuModule(source, tuple(launches), bases, kernels)


class _WrongError(Exception):
    """What is wrong in a line."""


def _wrong(what: str) -> NoReturn:
    raise _WrongError(what)


def _head(data: Any) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    if not isinstance(data, dict) or set(data) != {"bases", "kernels"}:
        _wrong("not the bases and kernels of launches")
    bases, kernels = data["bases"], data["kernels"]
    if not isinstance(bases, dict) or not all(_is_within(n, 0, LARGEST_BYTES) for n in bases.values()):
        _wrong("bases are names, each with its bytes")
    if not isinstance(kernels, dict) or not all(name.isidentifier() and name.isascii() for name in kernels):
        _wrong("kernels are names, each with its parameters")
    try:
        return bases, {name: signature_of(types) for name, types in kernels.items()}
    except ValueError as error:
        _wrong(str(error))


def signature_of(types: Any) -> tuple[str, ...]:
    """The types of parameters; raises ValueError for what is none."""
    if not isinstance(types, list) or not all(isinstance(t, str) and t.removeprefix("*") in _KNOWN for t in types):
        raise ValueError("parameters have types: *f32, i32, ..")
    return tuple(types)


_KNOWN = {*ELEMENT_BYTES, "i1"}


def _launch(data: Any, bases: Mapping[str, int], kernels: Mapping[str, tuple[str, ...]]) -> GpuLaunch:
    if not isinstance(data, list) or len(data) != 7:
        _wrong("not a launch")
    kernel, phase, grid, block, of, line, given = data
    if not isinstance(kernel, str) or kernel not in kernels:
        _wrong("a kernel that is not listed")
    if phase not in PHASES:
        _wrong("an unknown phase")
    if not (_is_within(grid, 1, MOST_BLOCKS) and _is_within(block, 1, MOST_THREADS)):
        _wrong(f"not 1 to {MOST_BLOCKS} blocks of 1 to {MOST_THREADS} threads")
    if not isinstance(of, str) or not isinstance(line, str) or not isinstance(given, list):
        _wrong("not a kernel of a plan, its line and arguments")
    types = kernels[kernel]
    if len(given) != len(types):
        _wrong(f"the kernel {kernel} takes {len(types)} arguments, not {len(given)}")
    arguments = tuple(_argument(value, type, bases) for value, type in zip(given, types, strict=True))
    return GpuLaunch(kernel, grid, block, arguments, PHASES[PHASES.index(phase)], of, line)


def _argument(value: Any, type: str, bases: Mapping[str, int]) -> Argument:
    if type.startswith("*"):
        return _pointer(value, type[1:], bases)
    if type == "i1":
        is_one = isinstance(value, bool)
    elif type in _INTEGERS:
        half = 1 << (_INTEGERS[type] - 1)
        is_one = _is_within(value, -half, half - 1)
    else:
        is_one = (
            type in _FLOATS and isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        )
    if not is_one:
        _wrong(f"{str(value)[:40]} is no argument of type {type}")
    argument: int | float | bool = value
    return argument


def _pointer(value: Any, dtype: str, bases: Mapping[str, int]) -> Pointer:
    if not isinstance(value, list) or len(value) != 4 or value[0] not in bases:
        _wrong("a pointer into no base")
    base, at, begin, end = value
    if not all(_is_within(n, 0, bases[base]) for n in (at, begin, end)) or not begin <= at <= end:
        _wrong(f"bytes {begin} to {end} are not all in {base}, which has {bases[base]}")
    if dtype not in ELEMENT_BYTES or at % ELEMENT_BYTES[dtype]:
        _wrong(f"{base}+{at} is no address of {dtype}")
    return Pointer(base, at, dtype, begin, end)


def _is_within(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
