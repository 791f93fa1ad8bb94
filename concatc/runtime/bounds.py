"""Labels and indices are checked before they are used.

An op says which of its integer operands index something (``Op.index_bounds``).  Such an operand is followed back
through views to the elements of the inputs and states that it is made of; those are compared with the bounds at every
call, so an index out of range ends in an error that names the argument, never in a wrong read.  What compilation knows
(``iota``, constants) is compared once; an index that is made in any other way is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from concatc.diagnostics import ConcatcError, Diagnostic, UsageError
from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import INTEGERS
from concatc.loops.declaration import BODY
from concatc.loops.memory import Array
from concatc.op import is_op, load_all_ops_once, op_of
from concatc.runtime.index_check import KINDS, IndexCheck, distinct, problem_of, stated_index_checks

KNOWN = ("iota", "constant")
WHOLE_VIEWS = ("split", "concat", "reshape", "flatten", "transpose")  # they leave no element out
VIEWS = (*WHOLE_VIEWS, "slice")


@dataclass(frozen=True)
class _Source:
    """Integers that indices are made of, numbered ``begin .. end - 1`` among those of all sources.

    ``values`` makes them where compilation knows them; otherwise it is the argument ``name`` of the net.
    """

    kind: str
    name: str
    begin: int
    end: int
    values: Callable[[], Array] | None = None


class Origins:
    """Where each element of a value comes from: its number among all elements of all sources.

    A value that holds sources whole, in whatever order, says so in ``sources``: its numbers, as many as the batch is
    large, are then made only where a slice asks for them.
    """

    def __init__(self, make: Callable[[], Array], sources: tuple[_Source, ...] | None = None) -> None:
        self._make = make
        self.sources = sources

    @staticmethod
    def of(numbers: Array) -> Origins:
        """Numbers that are there."""
        return Origins(lambda: numbers)

    @cached_property
    def numbers(self) -> Array:
        """They all.  Raises :class:`UsageError` where there is no memory for them."""
        try:
            return self._make()
        except MemoryError:
            whose = " and ".join(f"{s.kind} `{s.name}`" for s in self.sources or ()) or "inputs"
            message = f"no memory to follow the indices of {whose} element by element"
            raise UsageError(Diagnostic(message, help="choose a smaller batch")) from None


def index_checks(func: FuncOp) -> list[IndexCheck]:
    """The checks that the ops of a forward function ask for, or that the net of a plan or of loops states.

    Raises ConcatcError where an index is known and out of range, or is computed in a way that cannot be followed.
    """
    if func.ops[0].name == BODY:
        return stated_index_checks(func)
    follower = IndexFollower()
    origins: dict[Value, Origins] = {}
    for kind in KINDS:
        for name, value in func.arguments(kind).items():
            if value.dtype in INTEGERS:
                origins[value] = follower.source(kind, name, value)
    follower.run(func.body, origins)
    return follower.checks()


class IndexFollower:
    """Follows integers from arguments through views to the ops that they index something of."""

    def __init__(self) -> None:
        load_all_ops_once()
        self._sources: list[_Source] = []
        self._checks: list[IndexCheck] = []
        self._problems: list[Diagnostic] = []

    def source(self, kind: str, name: str, value: Value, values: Callable[[], Array] | None = None) -> Origins:
        """The origins of a new source: an argument, or integers that compilation knows."""
        begin = self._sources[-1].end if self._sources else 0
        end = begin + value.tensor.numel
        source = _Source(kind, name, begin, end, values)
        self._sources.append(source)
        return Origins(lambda: np.arange(begin, end).reshape(value.shape), (source,))

    def run(self, block: Block, origins: dict[Value, Origins]) -> None:
        """Follow the ops of a block; ``origins`` holds those of its arguments, and gets those of its values."""
        for op in _ops(block, origins):
            if is_op(op, *KNOWN):
                if op.results[0].dtype in INTEGERS:
                    name = op.name.removeprefix("cnet.")
                    origins[op.results[0]] = self.source("result of", name, op.results[0], _values_of(op))
                continue
            if is_op(op, *VIEWS):
                if all(v in origins for v in op.operands):
                    origins.update(_viewed(op, [origins[v] for v in op.operands]))
                continue
            bounds = op_of(op).index_bounds([v.tensor for v in op.operands])
            for operand, (extent, ignored) in bounds.items():
                origin = origins.get(op.operands[operand])
                if origin is None:
                    self._problems.append(_not_followed(op, op.operands[operand]))
                    continue
                self._bound(op, origin, extent, ignored)

    def _bound(self, op: Operation, origin: Origins, extent: int, ignored: int | None) -> None:
        for source, positions in self._positions(origin):
            check = IndexCheck(source.kind, source.name, positions, extent, ignored, op.name, op.loc)
            if source.values is None:
                self._checks.append(check)
            elif (problem := problem_of(check, source.values())) is not None:
                self._problems.append(problem)

    def _positions(self, origin: Origins) -> Iterator[tuple[_Source, Array | None]]:
        """The sources of a value, in their order, and which elements of each it holds; None: all."""
        if origin.sources is not None:
            yield from ((s, None) for s in sorted(set(origin.sources), key=lambda s: s.begin) if s.begin < s.end)
            return
        numbers = origin.numbers
        for source in self._sources:
            held = np.zeros(source.end - source.begin, np.bool_)
            held[numbers[(numbers >= source.begin) & (numbers < source.end)] - source.begin] = True
            if held.any():
                yield source, None if held.all() else np.flatnonzero(held)

    def checks(self) -> list[IndexCheck]:
        """Each check once.  Raises ConcatcError with what :meth:`run` found wrong."""
        if self._problems:
            raise ConcatcError(self._problems)
        return distinct(self._checks)


def _values_of(op: Operation) -> Callable[[], Array]:
    return lambda: op_of(op).reference()[0]


def _viewed(op: Operation, of: Sequence[Origins]) -> Mapping[Value, Origins]:
    """The origins of the results of a view."""
    whole = is_op(op, *WHOLE_VIEWS) and all(origin.sources is not None for origin in of)
    if not whole:
        made = op_of(op).reference(*(origin.numbers for origin in of))
        return {value: Origins.of(numbers) for value, numbers in zip(op.results, made, strict=True)}
    sources = tuple(source for origin in of for source in origin.sources or ())

    def result(k: int) -> Origins:
        return Origins(lambda: op_of(op).reference(*(origin.numbers for origin in of))[k], sources)

    return {value: result(k) for k, value in enumerate(op.results)}


def _not_followed(op: Operation, index: Value) -> Diagnostic:
    maker = index.owner.name.removeprefix("cnet.") if isinstance(index.owner, Operation) else "an argument"
    return Diagnostic(
        f"an index of {op.name.removeprefix('cnet.')} is computed by {maker}, so it cannot be checked",
        op.loc,
        help="make indices of inputs, states and `iota` by slices, concats and reshapes",
    )


def _ops(block: Block, origins: dict[Value, Origins]) -> Iterator[Operation]:
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
