"""Labels and indices are checked before they are used.

An op says which of its integer operands index something (``Op.index_bounds``).  Such an operand is followed back
through views to the elements of the inputs and states that it is made of; those are compared with the bounds at every
call, so an index out of range ends in an error that names the argument, never in a wrong read.  What compilation knows
(``iota``, constants) is compared once; an index that is made in any other way is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from concatc.diagnostics import ConcatcError, Diagnostic, Loc, UsageError
from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import INTEGERS
from concatc.loops.memory import Array
from concatc.op import is_op, load_all_ops_once, op_of

KINDS = ("input", "state")
KNOWN = ("iota", "constant")
VIEWS = ("split", "slice", "concat", "reshape", "flatten", "transpose")


@dataclass(frozen=True)
class IndexCheck:
    """Elements ``positions`` (flat; None: all) of an argument must be in ``0 .. extent - 1`` or be ``ignored``."""

    kind: str  # "input", "state" or, of an op whose values are known, "result of"
    name: str
    positions: Array | None
    extent: int
    ignored: int | None
    op: str
    loc: Loc | None


@dataclass(frozen=True)
class _Source:
    """Integers that indices are made of, numbered ``begin .. end - 1`` among those of all sources.

    ``values`` are there where compilation knows them; otherwise it is the argument ``name`` of the net.
    """

    kind: str
    name: str
    begin: int
    end: int
    values: Array | None = None


def index_checks(func: FuncOp) -> list[IndexCheck]:
    """The checks that the ops of a forward function ask for.

    Raises ConcatcError where an index is known and out of range, or is computed in a way that cannot be followed.
    """
    load_all_ops_once()
    # Where each element of an integer value comes from: its number among all elements of all sources.
    origins: dict[Value, Array] = {}
    sources: list[_Source] = []

    def add(kind: str, name: str, value: Value, values: Array | None = None) -> None:
        begin = sources[-1].end if sources else 0
        sources.append(_Source(kind, name, begin, begin + value.tensor.numel, values))
        origins[value] = np.arange(begin, begin + value.tensor.numel).reshape(value.shape)

    for kind in KINDS:
        for name, value in func.arguments(kind).items():
            if value.dtype in INTEGERS:
                add(kind, name, value)
    checks: list[IndexCheck] = []
    problems: list[Diagnostic] = []
    for op in _ops(func.body, origins):
        if is_op(op, *KNOWN):
            if op.results[0].dtype in INTEGERS:
                add("result of", op.name.removeprefix("cnet."), op.results[0], op_of(op).reference()[0])
            continue
        if is_op(op, *VIEWS):
            if all(v in origins for v in op.operands):
                viewed = op_of(op).reference(*(origins[v] for v in op.operands))
                origins.update(zip(op.results, viewed, strict=True))
            continue
        bounds = op_of(op).index_bounds([v.tensor for v in op.operands])
        for operand, (extent, ignored) in bounds.items():
            origin = origins.get(op.operands[operand])
            if origin is None:
                problems.append(_not_followed(op, op.operands[operand]))
                continue
            for source in sources:
                inside = np.unique(origin[(origin >= source.begin) & (origin < source.end)]) - source.begin
                if not inside.size:
                    continue
                positions = None if inside.size == source.end - source.begin else inside
                check = IndexCheck(source.kind, source.name, positions, extent, ignored, op.name, op.loc)
                if source.values is None:
                    checks.append(check)
                elif (problem := _problem(check, source.values)) is not None:
                    problems.append(problem)
    if problems:
        raise ConcatcError(problems)
    return list({(c.kind, c.name, _key(c.positions), c.extent, c.ignored): c for c in checks}.values())


def _not_followed(op: Operation, index: Value) -> Diagnostic:
    maker = index.owner.name.removeprefix("cnet.") if isinstance(index.owner, Operation) else "an argument"
    return Diagnostic(
        f"an index of {op.name.removeprefix('cnet.')} is computed by {maker}, so it cannot be checked",
        op.loc,
        help="make indices of inputs, states and `iota` by slices, concats and reshapes",
    )


def _ops(block: Block, origins: dict[Value, Array]) -> Iterator[Operation]:
    """The ops that make or read integers, those inside kernels in place of the kernel."""
    for op in block.ops:
        if op.name in ("func.return", "cnet.yield"):
            continue
        if op.name != "cnet.kernel":
            if any(v.dtype in INTEGERS for v in (*op.operands, *op.results)):
                yield op
            continue
        inner = op.regions[0].block
        origins.update({a: origins[v] for a, v in zip(inner.args, op.operands, strict=True) if v in origins})
        yield from _ops(inner, origins)
        made = inner.ops[-1].operands
        origins.update({r: origins[v] for r, v in zip(op.results, made, strict=True) if v in origins})


def _key(positions: Array | None) -> bytes | None:
    return None if positions is None else positions.tobytes()


def check_indices(checks: Iterable[IndexCheck], arrays: Mapping[str, Mapping[str, Array]]) -> None:
    """Raise one :class:`UsageError` that names every argument with an index out of range, the first one each.

    ``arrays`` are by kind and name.
    """
    problems = [problem for check in checks if (problem := _problem(check, arrays[check.kind][check.name]))]
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
        f"{check.kind} `{check.name}` holds {int(values[first])} at {at}, but must hold {valid}{others}",
        notes=(f"it indexes {check.op.removeprefix('cnet.')} at {check.loc}",) if check.loc else (),
    )
