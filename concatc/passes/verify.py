"""``verify``: is a module well formed, and do its operations mean what they say?

On top of the structure (`concatc/ir/verifier.py`): every ``cnet`` operation is known, its attributes and operands fit,
its results have the types that ``infer`` gives; the interface of the net is whole (`check_interface.py`),
no attribute is misspelled (`check_names.py`);
and what a level promises:

- ``split``: every value has at most one reader
- ``joint``: every value has at most one reader, but for reads of forward values by the backward half (residuals)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from concatc.diagnostics import ConcatcError, Diagnostic, did_you_mean
from concatc.ir.core import FuncOp, Module, Operation, Value
from concatc.ir.types import TensorType
from concatc.ir.verifier import problems
from concatc.op import DIALECT, REGISTRY, Composite, Op, ShapeError, load_all_ops_once, op_of
from concatc.passes.check_interface import interface_problems
from concatc.passes.check_names import unknown_attributes
from concatc.passes.graph import is_backward, is_cotangent

Level = Literal["any", "split", "joint"]

# Operations of the dialect that are no ops of the contract: what holds a kernel, and the text of plans.
STRUCTURE = ("kernel", "yield", "window", "launch", "value", "remark")
# An op with this many results is a mistake in an edited text, not a net.
MAX_RESULTS = 1 << 16


@dataclass(frozen=True)
class Verify:
    """Check the module; ``level`` adds what that level promises."""

    level: Level = "any"

    name = "verify"

    def run(self, module: Module) -> None:
        """Raise :class:`ConcatcError` with all that is wrong; change nothing."""
        verify(module, self.level)


def verify(module: Module, level: Level = "any") -> None:
    """Raise one :class:`ConcatcError` with all that is wrong with a module."""
    found = problems(module, {"cnet": check_op})
    if not found:
        for function in module.functions:
            found += interface_problems(function)
            found += unknown_attributes(function)
            if level != "any":
                found += _linearity(function, level)
    if found:
        raise ConcatcError(found)


def check_op(operation: Operation) -> Iterator[str]:
    """What is wrong with one ``cnet`` operation."""
    short = operation.name.removeprefix(DIALECT)
    if short in STRUCTURE:
        return
    known = load_all_ops_once()
    if short not in known:
        near = did_you_mean(short, known)
        yield f"unknown op {operation.name}{'; ' + near if near else ''}"
        return
    if issubclass(known[short], Composite):
        yield f"{operation.name} is a function of the language; the IR holds the ops that it is made of"
        return
    if any(not isinstance(v.type, TensorType) for v in (*operation.operands, *operation.results)):
        yield f"{operation.name} works on tensors"
        return
    counts = _operand_counts(short)
    if len(operation.operands) not in counts:
        yield f"{operation.name} takes {_counts_text(counts)}, not {len(operation.operands)}"
        return
    try:
        op = op_of(operation)
        ways = getattr(op, "ways", 0)
        if isinstance(ways, int) and ways > MAX_RESULTS:
            yield f"{operation.name}: {ways} results are too many"
            return
        types = op.infer([v.tensor for v in operation.operands])
    except ShapeError as error:
        yield _named(error.message, operation)
        return
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # Rules of ops may count on what the language makes sure of; an edited text need not hold to it.
        yield f"{operation.name}: its attributes do not fit operands of these types"
        return
    found = [v.type for v in operation.results]
    if found != types:
        have, want = (", ".join(map(str, ts)) for ts in (found, types))
        yield f"{operation.name} has results ({have}), but its operands and attributes give ({want})"


def _named(message: str, operation: Operation) -> str:
    for k, value in enumerate(operation.operands):
        message = message.replace(f"{{{k}}}", f"%{value.name}")
    return message


@functools.cache
def _operand_counts(short: str) -> range:
    """How many operands an op may take: read off its samples and its signature."""
    cls: type[Op] = REGISTRY[short]
    if any(name.startswith("*") for name in cls.operands):
        return range(len(cls.operands), 1 << 30)
    counts = [len(sample.types) for sample in cls.samples()]
    if not counts:
        return range(1 << 30)
    optional = sum(name.endswith("?") for name in cls.operands)
    least = min(min(counts), max(counts) - optional)
    return range(least, max(counts) + 1)


def _counts_text(counts: range) -> str:
    least, most = counts.start, counts.stop - 1
    if most >= 1 << 29:
        return f"{least} or more operands"
    if least != most:
        return f"{least} to {most} operands"
    return f"{least} operand{'s' if least != 1 else ''}"


def _linearity(function: FuncOp, level: Level) -> Iterator[Diagnostic]:
    values: list[Value] = [*function.args, *(result for op in function.ops for result in op.results)]
    for value in values:
        uses = value.uses
        if level == "joint" and not is_cotangent(value):
            uses = [use for use in uses if not is_backward(use.op)]
        if len(uses) > 1:
            readers = ", ".join(use.op.name for use in uses)
            yield Diagnostic(
                f"%{value.name} has {len(uses)} readers ({readers})",
                value.op.loc if value.op else function.loc,
                help="insert-splits gives each reader its own value",
            )
