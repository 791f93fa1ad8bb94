"""Labels and indices are checked before they are used.

An op says which of its integer operands index something (``Op.index_bounds``).  Such an operand is followed back
through views to the elements of the inputs that it is made of; those are compared with the bounds at every call, so
an index out of range ends in an error that names the input, never in a wrong read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from concatc.diagnostics import Diagnostic, Loc, UsageError
from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import INTEGERS
from concatc.loops.memory import Array
from concatc.op import is_op, load_all_ops_once, op_of

VIEWS = ("split", "slice", "concat", "reshape", "flatten", "transpose")


@dataclass(frozen=True)
class IndexCheck:
    """Elements ``positions`` (flat; None: all) of an input must be in ``0 .. extent - 1`` or be ``ignored``."""

    input: str
    positions: Array | None
    extent: int
    ignored: int | None
    op: str
    loc: Loc | None


def index_checks(func: FuncOp) -> list[IndexCheck]:
    """The checks that the ops of a forward function ask for."""
    load_all_ops_once()
    sources = [(name, v) for name, v in func.arguments("input").items() if v.dtype in INTEGERS]
    starts = np.cumsum([0, *(v.tensor.numel for _, v in sources)])
    # Where each element of an integer value comes from: its number among all elements of all integer inputs.
    origins: dict[Value, Array] = {
        v: np.arange(a, b).reshape(v.shape) for (_, v), a, b in zip(sources, starts, starts[1:], strict=False)
    }
    checks: list[IndexCheck] = []
    for op in _ops(func.body, origins):
        if is_op(op, *VIEWS) and all(v in origins for v in op.operands):
            origins.update(zip(op.results, op_of(op).reference(*(origins[v] for v in op.operands)), strict=True))
            continue
        bounds = op_of(op).index_bounds([v.tensor for v in op.operands])
        for operand, (extent, ignored) in bounds.items():
            origin = origins.get(op.operands[operand])
            if origin is None:
                continue
            for (name, value), begin, end in zip(sources, starts, starts[1:], strict=False):
                inside = np.unique(origin[(origin >= begin) & (origin < end)]) - begin
                if inside.size:
                    positions = None if inside.size == value.tensor.numel else inside
                    checks.append(IndexCheck(name, positions, extent, ignored, op.name, op.loc))
    return list({(c.input, _key(c.positions), c.extent, c.ignored): c for c in checks}.values())


def _ops(block: Block, origins: dict[Value, Array]) -> Iterator[Operation]:
    """The ops that read a value of ``origins``, those inside kernels in place of the kernel."""
    for op in block.ops:
        if op.name in ("func.return", "cnet.yield") or not any(v in origins for v in op.operands):
            continue
        if op.name != "cnet.kernel":
            yield op
            continue
        inner = op.regions[0].block
        origins.update({a: origins[v] for a, v in zip(inner.args, op.operands, strict=True) if v in origins})
        yield from _ops(inner, origins)


def _key(positions: Array | None) -> bytes | None:
    return None if positions is None else positions.tobytes()


def check_indices(checks: Iterable[IndexCheck], arrays: Mapping[str, Array]) -> None:
    """Raise one :class:`UsageError` that names every input with an index out of range, the first one each."""
    problems = [problem for check in checks if (problem := _problem(check, arrays[check.input]))]
    if problems:
        raise UsageError(problems)


def _problem(check: IndexCheck, array: Array) -> Diagnostic | None:
    flat = array.reshape(-1)
    values = flat if check.positions is None else flat[check.positions]
    if values.size == 0 or (values.min() >= 0 and values.max() < check.extent):
        return None
    wrong = (values < 0) | (values >= check.extent)
    if check.ignored is not None:
        wrong &= values != check.ignored
    if not wrong.any():
        return None
    first = int(np.argmax(wrong))
    position = first if check.positions is None else int(check.positions[first])
    at = [int(i) for i in np.unravel_index(position, array.shape)]
    besides = "" if check.ignored is None else f" or {check.ignored} (ignored)"
    others = f" ({int(wrong.sum())} elements are out of range)" if wrong.sum() > 1 else ""
    valid = f"0 to {check.extent - 1}{besides}"
    return Diagnostic(
        f"input `{check.input}` holds {int(values[first])} at {at}, but must hold {valid}{others}",
        notes=(f"it indexes {check.op.removeprefix('cnet.')} at {check.loc}",) if check.loc else (),
    )
