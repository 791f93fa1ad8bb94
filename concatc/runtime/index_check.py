"""What labels and indices must be, and how the declaration of a net says it: ``cnet.index`` of an argument.

    tensor<96xi32> {cnet.name = "label", cnet.index = [{extent = 10 : i64, op = "softmax_loss"}]}
    tensor<8x2xi32> {.., cnet.index = [{extent = 50 : i64, op = "embedding", at = [array<i64: 0, 16, 2>]}]}

``at`` lists the elements that index something as ranges of flat positions (begin, end, step); without it all do.
``ignored`` is a value that is valid too.  A plan and its loops have it from the graph, whose ops say what they index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from concatc.diagnostics import ConcatcError, Diagnostic, Loc, UsageError
from concatc.ir.core import Attr, FuncOp, Value
from concatc.ir.types import INTEGERS
from concatc.loops.memory import Array

KINDS = ("input", "state")
INDEX = "cnet.index"


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


def check_indices(checks: Iterable[IndexCheck], arrays: Mapping[str, Mapping[str, Array]]) -> None:
    """Raise one :class:`UsageError` that names every argument with an index out of range, the first one each.

    ``arrays`` are by kind and name.
    """
    problems = [problem for check in checks if (problem := problem_of(check, arrays[check.kind][check.name]))]
    if problems:
        raise UsageError(problems)


def problem_of(check: IndexCheck, array: Array) -> Diagnostic | None:
    """What is wrong with the indices in ``array``; None where nothing is."""
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


def state_index_checks(declaration: FuncOp, checks: Sequence[IndexCheck]) -> None:
    """Write ``checks`` to the arguments of a declaration, in place of what stands there."""
    for arg in declaration.args:
        own = [c for c in checks if (c.kind, c.name) == (arg.attrs.get("cnet.kind"), arg.attrs.get("cnet.name"))]
        arg.attrs.pop(INDEX, None)
        if own:
            arg.attrs[INDEX] = tuple(_attribute(check) for check in own)


def stated_index_checks(net: FuncOp) -> list[IndexCheck]:
    """The checks that the arguments of a net's function state.  Raises :class:`ConcatcError` for malformed ones."""
    checks: list[IndexCheck] = []
    problems: list[Diagnostic] = []
    for arg in net.args:
        stated = arg.attrs.get(INDEX, ())
        for entry in stated if isinstance(stated, tuple) else (stated,):
            check = _check(arg, entry)
            if check is None:
                problems.append(Diagnostic(f"`{INDEX}` of %{arg.name} is malformed: {entry}", net.loc))
            else:
                checks.append(replace(check, loc=net.loc))
    if problems:
        raise ConcatcError(problems)
    return checks


def distinct(checks: Iterable[IndexCheck]) -> list[IndexCheck]:
    """Each check once, the first of equal ones."""
    found: dict[object, IndexCheck] = {}
    for check in checks:
        found.setdefault((check.kind, check.name, _key(check.positions), check.extent, check.ignored), check)
    return list(found.values())


def _key(positions: Array | None) -> bytes | None:
    return None if positions is None else positions.tobytes()


def _attribute(check: IndexCheck) -> Attr:
    entry: dict[str, Attr] = {"extent": check.extent, "op": check.op.removeprefix("cnet.")}
    if check.ignored is not None:
        entry["ignored"] = check.ignored
    if check.positions is not None:
        entry["at"] = tuple(ranges_of(check.positions))
    return entry


def _check(arg: Value, entry: Attr) -> IndexCheck | None:
    kind, name = arg.attrs.get("cnet.kind"), arg.attrs.get("cnet.name")
    if not isinstance(entry, dict) or kind not in KINDS or arg.dtype not in INTEGERS:
        return None
    extent, ignored, op = entry.get("extent"), entry.get("ignored"), entry.get("op", "an index")
    if type(extent) is not int or not (ignored is None or type(ignored) is int) or not isinstance(op, str):
        return None
    positions = None
    if "at" in entry:
        positions = positions_of(entry["at"], arg.tensor.numel)
        if positions is None:
            return None
    return IndexCheck(str(kind), str(name), positions, extent, ignored, op, None)


def positions_of(ranges: Attr, numel: int) -> Array | None:
    """The positions that ranges list; None where these are no ranges of ``numel`` elements."""
    if not isinstance(ranges, tuple):
        return None
    parts = []
    for part in ranges:
        if not isinstance(part, tuple) or len(part) != 3 or not all(type(n) is int for n in part):
            return None
        begin, end, step = (int(n) for n in part if isinstance(n, int))
        if not (0 <= begin <= end and step > 0 and begin + (end - begin - 1) // step * step < numel):
            return None
        parts.append(np.arange(begin, end, step))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def ranges_of(positions: Array) -> Iterator[tuple[int, int, int]]:
    """Ascending positions as ranges, each as long as it goes on by one step."""
    steps = np.diff(positions)
    turns = np.flatnonzero(np.diff(steps)) + 1  # where a step differs from the one before
    at = 0
    while at < len(positions):
        begin = int(positions[at])
        if at + 1 == len(positions):
            yield begin, begin + 1, 1
            return
        next_turn = int(np.searchsorted(turns, at, side="right"))
        last = int(turns[next_turn]) if next_turn < len(turns) else len(positions) - 1
        yield begin, int(positions[last]) + 1, int(steps[at])
        at = last + 1
