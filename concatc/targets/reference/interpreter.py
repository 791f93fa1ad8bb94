"""The reference interpreter: a function of any level up to kernels, run op by op in NumPy.

It defines what a net means; every target is compared with it.  Nothing here knows an op: values come from the
rule `reference` of each op's class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.core import Block, FuncOp, Module, Operation, SymbolRef, Value
from concatc.ir.types import FLOATS, NUMPY_DTYPES
from concatc.op import op_of

Array = np.ndarray[Any, Any]


def run_function(
    func: FuncOp,
    args: Mapping[str, Array] | Sequence[Array],
    *,
    module: Module | None = None,
    float64: bool = False,
) -> list[Array]:
    """Run ``func`` and return the values of its results, in order.

    ``args`` holds one array an argument, in order, or by name (``cnet.name`` where there is one, else the name of the
    value).  Arrays are converted to the element type of their argument; with ``float64`` every float value is computed
    in float64 instead.  ``module`` holds the functions that ``func.call`` names.  A value is dropped after its last
    use.  Raises :class:`UsageError` where an argument is missing, unknown or of another shape.
    """
    given = _by_position(func, args) if isinstance(args, Mapping) else list(args)
    if len(given) != len(func.args):
        raise UsageError(f"@{func.sym_name} takes {len(func.args)} arguments, not {len(given)}")
    for arg, array in zip(func.args, given, strict=True):
        if np.shape(array) != arg.shape:
            raise UsageError(f"argument %{arg.name} of @{func.sym_name} is {arg.type}, not of shape {np.shape(array)}")
    with np.errstate(all="ignore"):
        return _run_block(func.body, given, module, float64)


def argument_name(arg: Value) -> str:
    """The name by which a caller gives an argument: ``cnet.name``, else the name of the value."""
    return str(arg.attrs.get("cnet.name", arg.name))


def _by_position(func: FuncOp, args: Mapping[str, Array]) -> list[Array]:
    names = [argument_name(a) for a in func.args]
    unknown = [name for name in args if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise UsageError(Diagnostic(f"@{func.sym_name} has no argument `{unknown[0]}`", help=hint))
    missing = [name for name in names if name not in args]
    if missing:
        raise UsageError(f"@{func.sym_name} needs {', '.join(f'`{name}`' for name in missing)}")
    return [args[name] for name in names]


def _run_block(block: Block, args: Sequence[Array], module: Module | None, float64: bool) -> list[Array]:
    values: dict[Value, Array] = {}

    def assign(targets: Sequence[Value], arrays: Sequence[Array]) -> None:
        for target, array in zip(targets, arrays, strict=True):
            values[target] = np.asarray(array, _dtype(target, float64))

    assign(block.args, args)
    dying = _last_uses(block)
    for op in block.ops:
        operands = [values[v] for v in op.operands]
        if op.name in ("func.return", "cnet.yield"):
            return operands
        assign(op.results, _run_op(op, operands, module, float64))
        for value in dying[op]:
            del values[value]
    raise AssertionError("a block ends in func.return or cnet.yield")


def _run_op(op: Operation, operands: list[Array], module: Module | None, float64: bool) -> list[Array]:
    if op.name == "cnet.kernel":
        return _run_block(op.regions[0].block, operands, module, float64)
    if op.name == "func.call":
        callee = op.attributes["callee"]
        assert module is not None and isinstance(callee, SymbolRef), "func.call needs its module"
        return _run_block(module.function(callee.name).body, operands, module, float64)
    return op_of(op).reference(*operands)


def _dtype(value: Value, float64: bool) -> np.dtype[Any]:
    wide = float64 and value.dtype in FLOATS
    return NUMPY_DTYPES["f64" if wide else value.dtype]


def _last_uses(block: Block) -> dict[Operation, list[Value]]:
    """For each operation the values that nothing reads after it."""
    last: dict[Value, Operation] = {}
    for op in block.ops:
        for value in (*op.operands, *op.results):
            last[value] = op
    dying: dict[Operation, list[Value]] = {op: [] for op in block.ops}
    for value, op in last.items():
        dying[op].append(value)
    return dying
