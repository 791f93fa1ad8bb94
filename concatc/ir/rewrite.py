"""Local rewrites: patterns, and a driver that applies them until none applies.

    class ReluOfRelu(Pattern):
        '''``relu(relu(x)) -> relu(x)``'''

        roots = ("cnet.relu",)

        def rewrite(self, op, rw):
            inner = rw.maker(op.operands[0])
            if inner is None or inner.name != "cnet.relu":
                return False
            rw.replace(op, inner.results)
            return True

A pattern's docstring is its equation with its condition.  The driver visits operations in order, then those around
what has changed; patterns are tried in the order given.  Equal IR is rewritten to equal IR, and the time is about
linear: lists of operations are rebuilt once, at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from concatc.diagnostics import ConcatcError
from concatc.ir.core import Attr, Block, FuncOp, Operation, Value
from concatc.ir.types import Type

# A set of patterns that has not ended after this many rewrites an operation undoes its own work.
MAX_REWRITES_PER_OP = 64


class Pattern(ABC):
    """One equation.  ``roots`` names the operations at which it is tried; empty means all."""

    roots: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def rewrite(self, op: Operation, rw: Rewriter) -> bool:
        """Rewrite at ``op`` by means of ``rw`` and return True, or change nothing and return False."""

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__


class Rewriter:
    """What a pattern may do to a function.  Reading is free; changes go through these methods.

    ``opaque`` values stay as they are, and so do their readers: no pattern is tried at their makers, and
    :meth:`maker` does not tell who made them.
    """

    def __init__(self, function: FuncOp, opaque: Iterable[Value] = ()) -> None:
        self.function = function
        self._opaque = dict.fromkeys(opaque)
        self._before: dict[Operation, Block] = {}  # what was made to stand before an operation, in order
        self._erased: dict[Operation, None] = {}
        self._touched: list[Operation] = []
        self._recent: dict[Operation, int] = {}  # lengths of blocks in `_before` since `take_touched`

    def maker(self, value: Value) -> Operation | None:
        """The operation that makes ``value``; None for an argument and for an opaque value."""
        return None if value in self._opaque else value.op

    def makes_opaque(self, op: Operation) -> bool:
        """Whether a result of the operation is opaque."""
        return any(result in self._opaque for result in op.results)

    def before(self, op: Operation) -> Block:
        """A block to append operations to, which will stand before ``op``.

        A builder of a higher floor may append to it as well.
        """
        block = self._before.setdefault(op, Block())
        self._recent.setdefault(op, len(block.ops))
        return block

    def create(
        self,
        at: Operation,
        name: str,
        operands: Sequence[Value],
        result_types: Sequence[Type],
        attributes: Mapping[str, Attr] | None = None,
        result_names: Sequence[str] | None = None,
    ) -> Operation:
        """Make an operation before ``at``, with its location."""
        made = Operation(name, operands, result_types, attributes, loc=at.loc, result_names=result_names)
        return self.before(at).append(made)

    def replace(self, op: Operation, values: Sequence[Value]) -> None:
        """Let the readers of ``op``'s results read ``values``, and erase ``op``.

        A value that has no name yet takes over the name of the result.
        """
        assert len(values) == len(op.results), f"{op.name} has {len(op.results)} results, not {len(values)}"
        for old, new in zip(op.results, values, strict=True):
            assert old.type == new.type, f"%{old.name}: {old.type} is replaced by {new.type}"
            new.name = new.name or old.name
            self._touched += old.readers
            old.replace_all_uses_with(new)
        self.erase(op)

    def set_operands(self, op: Operation, values: Sequence[Value]) -> None:
        """Let ``op`` read other values."""
        self._touched += [v.op for v in op.operands if v.op is not None]
        op.set_operands(values)
        self._touched.append(op)

    def erase(self, op: Operation) -> None:
        """Remove an operation whose results nobody reads."""
        operands = op.operands
        self._touched += [v.op for v in operands if v.op is not None]
        # Without a block it is not searched for in the block's list; `finish` drops it from there.
        op.block = None
        op.erase()
        self._erased[op] = None
        # Patterns ask whether an operation is the only reader of a value; now one may be.
        self._touched += [v.uses[0].op for v in operands if len(v.uses) == 1]

    def is_erased(self, op: Operation) -> bool:
        """Whether the operation was removed."""
        return op in self._erased

    def take_touched(self) -> list[Operation]:
        """Operations to look at again: new ones, readers of what was replaced, makers of what lost a reader."""
        for op, start in self._recent.items():
            self._touched += self._before[op].ops[start:]
        touched, self._touched, self._recent = self._touched, [], {}
        return [op for op in touched if op not in self._erased]

    def finish(self) -> None:
        """Put new operations in their places and drop the erased ones."""
        body = self.function.body
        body.ops = [made for op in body.ops for made in self._expanded(op)]
        for op in body.ops:
            op.block = body
        self._before.clear()
        self._recent.clear()

    def _expanded(self, op: Operation) -> list[Operation]:
        """What was made to stand before ``op``, in order, and ``op`` itself, less what is erased."""
        backwards: list[Operation] = []
        pending = [op]
        while pending:
            backwards.append(pending.pop())
            if backwards[-1] in self._before:
                pending += self._before[backwards[-1]].ops
        return [made for made in reversed(backwards) if made not in self._erased]


def _never(op: Operation) -> bool:
    return False


def apply_patterns(
    function: FuncOp,
    patterns: Iterable[Pattern],
    removable: Callable[[Operation], bool] = _never,
    opaque: Iterable[Value] = (),
) -> int:
    """Apply patterns to the operations of a function (not inside kernels) until none applies.

    An operation that is ``removable`` and whose results nobody reads (any more) is erased, so that it does not count
    as a reader.  Values that are ``opaque`` keep their makers and readers.  Returns the number of rewrites.  Raises
    :class:`ConcatcError` where the patterns do not end.
    """
    patterns = list(patterns)
    candidates: dict[str, list[Pattern]] = {}
    rw = Rewriter(function, opaque)
    queue = deque(function.ops)
    queued = dict.fromkeys(function.ops)
    limit = MAX_REWRITES_PER_OP * (len(function.ops) + 1)
    count = 0
    while queue:
        op = queue.popleft()
        queued.pop(op, None)
        if rw.is_erased(op):
            continue
        if op.name not in candidates:
            candidates[op.name] = [p for p in patterns if not p.roots or op.name in p.roots]
        if rw.makes_opaque(op):
            continue
        if not any(result.uses for result in op.results) and removable(op):
            rw.erase(op)
        else:
            applied = next((p for p in candidates[op.name] if p.rewrite(op, rw)), None)
            if applied is None:
                continue
            count += 1
            if count > limit:
                raise ConcatcError(f"rewriting @{function.sym_name} does not end; the last pattern is {applied.name}")
        for touched in [*rw.take_touched(), op]:
            if touched not in queued and not rw.is_erased(touched):
                queued[touched] = None
                queue.append(touched)
    rw.finish()
    return count
