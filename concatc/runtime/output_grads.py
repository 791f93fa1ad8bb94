"""Gradients of outputs that a caller gives to ``backward``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.types import NUMPY_DTYPES, TensorType
from concatc.loops.memory import Array
from concatc.runtime.inputs import as_array
from concatc.runtime.signature import Input


def take_output_grads(outputs: Mapping[str, TensorType], taken: Sequence[str], given: Any) -> dict[str, Array]:
    """The given gradients by the name of their output: of its shape and element type.

    ``taken`` names the outputs whose gradient the net was compiled to take.  Raises one :class:`UsageError` for all
    that is wrong.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f'output_grads must be a dict, such as {{"logits": g}}, not a {type(given).__name__}')
    problems: list[Diagnostic] = []
    arrays: dict[str, Array] = {}
    for name, value in given.items():
        if name not in outputs:
            names = ", ".join(f"`{n}`" for n in outputs) or "none"
            hint = did_you_mean(str(name), outputs) or f"there are {names}"
            problems.append(Diagnostic(f"output_grads: the net has no output `{name}`", help=hint))
            continue
        if name not in taken:
            message = f"output_grads: the net was compiled to take no gradient of `{name}`"
            problems.append(Diagnostic(message, help=f'compile with output_grads=["{name}"]'))
            continue
        output = outputs[name]
        try:
            arrays[name] = as_array(value, Input(name, output, ("",) * output.rank))
        except TypeError as error:
            problems.append(Diagnostic(f"output_grads: `{name}`: {error}"))
            continue
        found, dtype = arrays[name], NUMPY_DTYPES[output.dtype]
        if found.shape != output.shape or found.dtype != dtype:
            message = f"output_grads: `{name}` is {found.dtype}{list(found.shape)}, but the output is"
            problems.append(Diagnostic(f"{message} {dtype.name}{list(output.shape)}"))
    if problems:
        raise UsageError(problems)
    return arrays
