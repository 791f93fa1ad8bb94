"""``insert-splits``: give every value at most one reader.

    %y = "cnet.relu"(%x)                     %x.use0, %x.use1 = "cnet.split"(%x) {ways = 2}
    %c = "cnet.concat"(%y, %x) {axis = 1}    %y = "cnet.relu"(%x.use0)
    func.return %c                     ->    %c = "cnet.concat"(%y, %x.use1) {axis = 1}
                                             func.return %c

Invariant: every value has at most one reader, where a return is a reader and reading a value twice in one operation
counts twice.  Residuals are the exception: reads of a forward value by operations of the backward half do not count.
A second run changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from concatc.diagnostics import Loc
from concatc.ir.core import Attr, FuncOp, Module, Operation, Use, Value
from concatc.op import is_op
from concatc.passes.graph import is_backward, is_cotangent, transposed

GRAD = ".grad"


@dataclass(frozen=True)
class InsertSplits:
    """Split what is read more than once."""

    name = "insert-splits"

    def run(self, module: Module) -> None:
        """Rewrite every function of the module in place."""
        for func in module.functions:
            insert_splits(func)


def insert_splits(func: FuncOp) -> None:
    """Give every value of ``func`` at most one reader."""
    position = {op: k for k, op in enumerate(func.ops)}
    made: list[Operation] = []
    dropped: dict[Operation, None] = {}
    lines = _Lines(func)

    def visit(value: Value) -> None:
        if value.op is not None and is_op(value.op, "split"):
            return
        tree = _Tree(value)
        if not tree.is_linear:
            made.extend(_resplit(tree, position, lines))
            dropped.update(dict.fromkeys(tree.splits))

    for arg in func.args:
        visit(arg)
    for op in func.ops:
        made.append(op)
        for result in op.results:
            visit(result)
    for op in made:
        op.block = func.body
    func.body.ops = [op for op in made if op not in dropped]


class _Tree:
    """A value, the splits of it (and of their results), and who reads all these."""

    def __init__(self, root: Value) -> None:
        self.root = root
        self.splits: list[Operation] = []
        self.readers: list[Use] = []
        self.first_reader: dict[Value, Use] = {}  # of the root and each result of a split
        self.is_linear = True
        self._visit(root, [])

    def _visit(self, value: Value, above: list[Value]) -> None:
        cotangent = is_cotangent(value)
        counted = [use for use in value.uses if cotangent or not is_backward(use.op)]
        self.is_linear = self.is_linear and len(counted) <= 1
        for use in counted:
            if is_op(use.op, "split"):
                self.splits.append(use.op)
                for result in use.op.results:
                    self._visit(result, [*above, value])
                continue
            self.readers.append(use)
            for passed in (*above, value):
                self.first_reader.setdefault(passed, use)


class _Lines:
    """Where values come from: a cotangent from where the value is made whose gradient it is, as its name says."""

    def __init__(self, func: FuncOp) -> None:
        self._func = func

    def of(self, value: Value) -> Loc | None:
        """The place of a value; of a cotangent without such a name the one of its maker."""
        if is_cotangent(value) and value.name.endswith(GRAD) and (loc := self._made.get(value.name.removesuffix(GRAD))):
            return loc
        return value.op.loc if value.op is not None else None

    @cached_property
    def _made(self) -> dict[str, Loc]:
        results = ((result.name, op.loc) for op in self._func.ops if not is_backward(op) for result in op.results)
        return {name: loc for name, loc in results if name and loc is not None}


def _resplit(tree: _Tree, position: dict[Operation, int], lines: _Lines) -> list[Operation]:
    """One split of the root in place of all splits of the tree; empty where one reader is left."""
    root = tree.root
    readers = sorted(tree.readers, key=lambda use: (position[use.op], use.index))
    if len(readers) > 1:
        split = _make_split(root, readers, lines)
        results, made = split.results, [split]
    else:
        results, made = [root] * len(readers), []
    result_of = {(use.op, use.index): result for use, result in zip(readers, results, strict=True)}
    residual_of = {old: result_of[use.op, use.index] for old, use in tree.first_reader.items()}
    for use, result in zip(readers, results, strict=True):
        use.op.set_operand(use.index, result)
    for old_split in tree.splits:
        old_split.set_operands([])
    for old in (result for old_split in tree.splits for result in old_split.results):
        old.replace_all_uses_with(residual_of.get(old, root))
    return made


def _make_split(root: Value, readers: list[Use], lines: _Lines) -> Operation:
    ways = len(readers)
    attributes: dict[str, Attr] = {"ways": ways}
    first = readers[0].op
    if is_cotangent(root):
        # The fan-out of a cotangent transposes what its first reader does; a returned one, what its maker does.
        maker = transposed(first) or (transposed(root.op) if root.op is not None else None)
        attributes["transposes"] = maker or f"return %{root.name}"
    loc = lines.of(root) or first.loc
    names = [f"{root.name}.use{k}" if root.name else "" for k in range(ways)]
    return Operation("cnet.split", [root], [root.type] * ways, attributes, loc=loc, result_names=names)
