"""Arrays that a user gives: taken, checked all at once, and matched to the dims of the net."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.types import NUMPY_DTYPES
from concatc.loops.memory import Array
from concatc.runtime.signature import Input, Signature
from concatc.targets.memory import HOST, DeviceArray, Memory

Given = Array | DeviceArray

# What is wrong with `np.ma` arrays.
MASKED = "a net reads every element, also those that a mask hides; array.filled(value) puts one there"


def as_array(given: Any, spec: Input) -> Array:
    """``given`` as a NumPy array, on the same memory where it has some that NumPy can read.

    The copy to where the plan reads it is made at the call (:meth:`Instance.write_inputs`).

    Takes NumPy arrays, anything that speaks DLPack (torch CPU tensors, also those that require gradients), and plain
    numbers or nested lists, which take the input's own element type where it holds them.  Raises TypeError for anything
    else, masked arrays among it.
    """
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError(MASKED)
    if isinstance(given, np.ndarray):
        return given
    if hasattr(given, "detach"):
        given = given.detach()  # a torch tensor that requires gradients refuses DLPack
    if hasattr(given, "__dlpack__"):
        try:
            return np.from_dlpack(given)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"its memory cannot be read here ({error}); move it to the CPU first") from None
    if isinstance(given, (int, float, list, tuple, np.generic)):
        try:
            return _from_plain(given, spec)
        except ValueError as error:
            raise TypeError(str(error)) from None
    if hasattr(given, "__array__"):
        return np.asarray(given)
    raise TypeError(f"a {type(given).__name__} is no array")


def _from_plain(given: Any, spec: Input) -> Array:
    """Numbers and nested lists of them, as strictly as arrays: nothing is cut, rounded to infinity or taken for 0 or 1.

    Raises ValueError.
    """
    dtype = NUMPY_DTYPES[spec.type.dtype]
    for leaf in _leaves(given):
        _check_number(leaf, dtype)
    try:
        return np.asarray(given, dtype)
    except ValueError:
        raise ValueError("its rows are of different lengths") from None


def _leaves(given: Any) -> Iterator[Any]:
    if isinstance(given, (list, tuple)):
        for item in given:
            yield from _leaves(item)
    else:
        yield given


def _check_number(value: Any, dtype: np.dtype[Any]) -> None:
    if isinstance(value, bool):
        raise ValueError(f"it holds {value}, which is no number")
    if isinstance(value, (np.ndarray, np.generic)):
        if isinstance(value, np.ma.MaskedArray):
            raise ValueError(MASKED)
        if value.dtype != dtype:
            raise ValueError(f"it holds {value.dtype}")
    elif isinstance(value, float) and dtype.kind != "f":
        raise ValueError(f"it holds {value}, and whole numbers are needed")
    elif isinstance(value, (int, float)):
        if _is_beyond(value, dtype):
            shown = f"{value}" if abs(value) < 1e30 or isinstance(value, float) else "a number"
            raise ValueError(f"it holds {shown}, which is beyond {dtype.name}")
    else:
        raise ValueError(f"it holds a {type(value).__name__}, which is no number")


def _is_beyond(value: int | float, dtype: np.dtype[Any]) -> bool:
    """Whether a number is none of that type: it would wrap around, or become infinite."""
    if dtype.kind != "f":
        return not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    try:
        with np.errstate(over="ignore"):
            return bool(np.isinf(dtype.type(float(value)))) and not math.isinf(value)
    except OverflowError:
        return True


def take(
    signature: Signature,
    given: Mapping[str, Any],
    ignored: Mapping[str, Input],
    some: bool = False,
    memory: Memory = HOST,
) -> dict[str, Given]:
    """The given arrays by input name, names and element types checked.

    ``ignored`` are inputs of the net that this phase does not read; they may be given and are left out.  With ``some``,
    inputs may be missing.  What lies on the device of ``memory`` stays there.  Raises one :class:`UsageError` that
    names every unknown and missing name and every wrong element type.
    """
    problems: list[Diagnostic] = []
    arrays: dict[str, Given] = {}
    for name, value in given.items():
        spec = signature.inputs.get(name)
        if spec is None:
            if name not in ignored:
                known = list({**signature.inputs, **ignored})
                names = ", ".join(f"`{n}`" for n in known) or "nothing"
                hint = did_you_mean(name, known) or f"the net takes {names}"
                problems.append(Diagnostic(f"unknown input `{name}`", help=hint))
            continue
        try:
            arrays[name] = memory.device_array(value) or as_array(value, spec)
        except TypeError as error:
            problems.append(Diagnostic(f"input `{name}`: {error}", help=f"give an array of {describe(spec)}"))
            continue
        dtype = NUMPY_DTYPES[spec.type.dtype]
        if arrays[name].dtype != dtype:
            found = f"input `{name}` holds {arrays[name].dtype}, but the net takes {dtype.name}"
            problems.append(Diagnostic(found, help=f"{name}.astype(np.{dtype.name}) converts it"))
    missing = [] if some else [name for name in signature.inputs if name not in given]
    problems += [Diagnostic(f"missing input `{n}`: {describe(signature.inputs[n])}") for n in missing]
    problems += [problem for name, array in arrays.items() if (problem := _rank_problem(signature.inputs[name], array))]
    if problems:
        raise UsageError(problems)
    return {name: arrays[name] for name in signature.inputs if name in arrays}


def dims_of(signature: Signature, arrays: Mapping[str, Given]) -> dict[str, int]:
    """The dims that the arrays' shapes fix.

    Raises one :class:`UsageError` where two axes that are one dim differ, or an axis that is a number is another one.
    """
    problems: list[Diagnostic] = []
    dims: dict[str, int] = {}
    where: dict[str, str] = {}
    for name, array in arrays.items():
        for axis, (dim, found) in enumerate(zip(signature.inputs[name].dims, array.shape, strict=True)):
            if not dim:
                continue
            here = f"axis {axis} of `{name}`"
            if dims.setdefault(dim, found) != found:
                problems.append(Diagnostic(f"{dim} is {dims[dim]} by {where[dim]}, but {found} by {here}"))
            where.setdefault(dim, here)
    if problems:
        raise UsageError(problems)
    return dims


def check_shapes(signature: Signature, arrays: Mapping[str, Given], dims: Mapping[str, int]) -> None:
    """Raise one :class:`UsageError` that names every array of a wrong shape for these dims."""
    given = ", ".join(f"{name}={value}" for name, value in dims.items())
    note = (f"with {given}",) if given else ()
    problems = [
        Diagnostic(f"input `{name}` has shape {list(array.shape)}, but the net takes {describe(spec)}", notes=note)
        for name, array in arrays.items()
        if array.shape != (spec := signature.inputs[name]).type.shape
    ]
    if problems:
        raise UsageError(problems)


def describe(spec: Input) -> str:
    """``f32[x=64, 784]``."""
    axes = (f"{dim}={n}" if dim else str(n) for dim, n in zip(spec.dims, spec.type.shape, strict=True))
    return f"{spec.type.dtype}[{', '.join(axes)}]"


def _rank_problem(spec: Input, array: Given) -> Diagnostic | None:
    if array.ndim == spec.type.rank:
        return None
    message = f"input `{spec.name}` has shape {list(array.shape)}, but the net takes {describe(spec)}"
    return Diagnostic(message, help=class_numbers_help(spec, array))


def class_numbers_help(spec: Input, array: Given) -> str | None:
    """What to do with rows of zeros and a one, or with a column, where whole numbers are wanted; None for others."""
    if spec.type.is_float or array.ndim != spec.type.rank + 1:
        return None
    if array.shape[-1] == 1:
        return f"{spec.name}[..., 0] has an axis less"
    return f"the net takes numbers of classes: {spec.name}.argmax(-1).astype('int32') makes them of one-hot rows"
