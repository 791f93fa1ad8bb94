"""Is a module well formed?  Structure is checked here; what operations mean is checked by the checks given.

- lists of uses are true: operand ``i`` of an operation is one use of its value, and there are no others
- a value is defined before it is read: above in its block, or in a block around it; functions see nothing outside
- blocks end in the terminator of the operation that holds them, with the types that it gives or returns
- functions have names of their own, and calls fit the function that they name

The time is linear in the number of operations.  Everything wrong is reported, not only the first thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from concatc.diagnostics import ConcatcError, Diagnostic, Loc
from concatc.ir.core import Block, FuncOp, Module, Operation, Region, SymbolRef, Value
from concatc.ir.std_verify import check_std, is_std
from concatc.ir.types import Type

# What is wrong with one operation whose structure is sound: messages without a place.
OpCheck = Callable[[Operation], Iterable[str]]

# Operations that end a block, and what holds such blocks; other operations of MLIR hold none that end in cnet.yield.
TERMINATORS = {"func.return": ("func.func",), "scf.yield": ("scf.for", "scf.if"), "cnet.yield": ("cnet.kernel",)}
MAX_REPORTED = 100


def verify(module: Module, checks: Mapping[str, OpCheck] | None = None) -> None:
    """Raise one :class:`ConcatcError` with all that is wrong; ``checks["cnet"]`` looks at operations ``cnet.*``."""
    found = problems(module, checks)
    if found:
        raise ConcatcError(found)


def problems(module: Module, checks: Mapping[str, OpCheck] | None = None) -> list[Diagnostic]:
    """All that is wrong with a module, at most :data:`MAX_REPORTED` messages."""
    verifier = _Verifier(module, checks or {})
    verifier.module()
    return verifier.found[:MAX_REPORTED]


class _Verifier:
    def __init__(self, module: Module, checks: Mapping[str, OpCheck]) -> None:
        self.root = module
        self.checks = checks
        self.found: list[Diagnostic] = []
        self.functions: dict[str, FuncOp] = {}
        self.visible: dict[Value, None] = {}
        self.listed: dict[Value, set[tuple[int, int]]] = {}  # the uses that a value lists
        self.seen: set[int] = set()  # ids of the operations of the module
        self.function: str | None = None

    def report(self, message: str, loc: Loc | None) -> None:
        notes = (f"in @{self.function}",) if self.function else ()
        self.found.append(Diagnostic(message, loc, notes))

    # -- from the outside to the inside ----------------------------------------------------------------------------
    def module(self) -> None:
        block = self.root.regions[0].block
        for op in block.ops:
            if not isinstance(op, FuncOp):
                continue
            if op.sym_name in self.functions:
                self.report(f"there are two functions @{op.sym_name}", op.loc)
            self.functions[op.sym_name] = op
        self.block(block)
        self.uses()

    def block(self, block: Block) -> None:
        """Check a block; what it defines is visible until its end."""
        mark = len(self.visible)
        for k, arg in enumerate(block.args):
            self.define(arg, block, k, None)
        for op in block.ops:
            if op.block is not block:
                self.report(f"{op.name} stands in a block that it does not know", op.loc)
            self.operation(op)
        while len(self.visible) > mark:
            self.visible.popitem()

    def define(self, value: Value, owner: Block | Operation, index: int, loc: Loc | None) -> None:
        self.visible[value] = None
        if value.owner is not owner or value.index != index:
            self.report(f"%{value.name} does not know where it is defined", loc)
        listed = {(id(use.op), use.index) for use in value.uses}
        if len(listed) != len(value.uses):
            self.report(f"a use of %{value.name} is listed twice", loc)
        self.listed[value] = listed

    def uses(self) -> None:
        """Every use that a value lists is a read by an operation of the module."""
        for value in self.listed:
            loc = value.op.loc if value.op else None
            for use in value.uses:
                if id(use.op) not in self.seen:
                    self.report(f"%{value.name} lists a use by an operation {use.op.name} that was removed", loc)
                elif not (use.index < len(use.op.operands) and use.op.operands[use.index] is value):
                    self.report(f"%{value.name} lists a use by {use.op.name}, which does not read it", use.op.loc)

    def operation(self, op: Operation) -> None:
        before = len(self.found)
        self.seen.add(id(op))
        for index, value in enumerate(op.operands):
            self.operand(op, index, value)
        if isinstance(op, FuncOp):
            self.func(op)
        else:
            for region in op.regions:
                self.region(op, region)
            self.types_of_regions(op)
        for k, result in enumerate(op.results):
            self.define(result, op, k, op.loc)
        if op.name == "func.call":
            self.call(op)
        if len(self.found) == before:
            self.meaning(op)

    def operand(self, op: Operation, index: int, value: Value) -> None:
        if value not in self.visible:
            why = "before it is defined" if self.is_later(op, value) else "which is not defined here"
            self.report(f"{op.name} reads %{value.name} {why}", op.loc)
        elif (id(op), index) not in self.listed[value]:
            self.report(f"%{value.name} does not list its use by {op.name}", op.loc)

    def is_later(self, op: Operation, value: Value) -> bool:
        return value.op is not None and op.block is not None and value.op.block is op.block and value.op in op.block.ops

    def region(self, op: Operation, region: Region) -> None:
        if region.parent is not op:
            self.report(f"a region of {op.name} does not know it", op.loc)
        for block in region.blocks:
            if block.region is not region:
                self.report(f"a block of {op.name} does not know its region", op.loc)
            self.block(block)
            self.terminator(op, block)

    def terminator(self, op: Operation, block: Block) -> None:
        wanted = [name for name, holders in TERMINATORS.items() if op.name in holders]
        for inner in block.ops[:-1]:
            if inner.name in TERMINATORS:
                self.report(f"{inner.name} stands before the end of its block", inner.loc)
        last = block.ops[-1] if block.ops else None
        if wanted and (last is None or last.name not in wanted):
            self.report(f"the region of {op.name} does not end in {wanted[0]}", last.loc if last else op.loc)
        if last is not None and last.name in TERMINATORS and op.name not in TERMINATORS[last.name]:
            if last.name == "cnet.yield" and not is_std(op.name):
                return
            self.report(f"{last.name} cannot end a region of {op.name}", last.loc)

    # -- functions and calls ---------------------------------------------------------------------------------------
    def func(self, function: FuncOp) -> None:
        outside, self.visible = self.visible, {}
        self.function = function.sym_name
        if function.declared is not None:
            if function.ops:
                self.report("a declaration has no operations", function.loc)
        else:
            self.region(function, function.regions[0])
            last = function.ops[-1] if function.ops else None
            returned = len(last.operands) if last is not None else 0
            if function.result_attrs and len(function.result_attrs) != returned:
                self.report(
                    f"@{function.sym_name} returns {returned} values, but has attributes for "
                    f"{len(function.result_attrs)}",
                    function.loc,
                )
        self.visible, self.function = outside, None

    def call(self, op: Operation) -> None:
        callee = op.attributes.get("callee")
        if not isinstance(callee, SymbolRef) or callee.name not in self.functions:
            self.report(f"func.call of {callee}, which is no function of the module", op.loc)
            return
        target = self.functions[callee.name]
        inputs = tuple(a.type for a in target.args)
        last = target.ops[-1] if target.ops else None
        results = target.declared if target.declared is not None else _types(last.operands if last else ())
        if _types(op.operands) != inputs or _types(op.results) != results:
            takes, gives = (", ".join(map(str, types)) for types in (inputs, results))
            self.report(f"func.call does not fit {callee}: ({takes}) -> ({gives})", op.loc)

    # -- what goes in and out of regions ---------------------------------------------------------------------------
    def types_of_regions(self, op: Operation) -> None:
        results = _types(op.results)
        if op.name == "cnet.kernel":
            if len(op.regions) != 1 or len(op.regions[0].blocks) != 1:
                self.report("a kernel holds one region of one block", op.loc)
                return
            if _types(op.regions[0].block.args) != _types(op.operands):
                self.report("the arguments of a kernel's region have the types of its operands", op.loc)
            self.yields(op, results)
        if op.name == "scf.for":
            if len(op.regions) != 1 or len(op.regions[0].blocks) != 1:
                self.report("scf.for holds one region of one block", op.loc)
                return
            carried = _types(op.operands[3:])
            if carried != results or _types(op.regions[0].block.args[1:]) != carried:
                self.report("scf.for: initial values, carried values and results have the same types", op.loc)
            self.yields(op, results)
        if op.name == "scf.if":
            if results and len(op.regions) != 2:
                self.report("scf.if with results needs an else", op.loc)
            self.yields(op, results)

    def yields(self, op: Operation, types: tuple[Type, ...]) -> None:
        for region in op.regions:
            for block in region.blocks:
                last = block.ops[-1] if block.ops else None
                if last is None or last.name not in TERMINATORS or _types(last.operands) == types:
                    continue
                found, wanted = (", ".join(map(str, ts)) for ts in (_types(last.operands), types))
                self.report(f"{last.name} gives ({found}), but {op.name} has results ({wanted})", last.loc)

    def meaning(self, op: Operation) -> None:
        dialect, dot, _ = op.name.partition(".")
        if not dot:
            self.report(f"{op.name} has no dialect", op.loc)
            return
        if is_std(op.name):
            for message in check_std(op):
                self.report(message, op.loc)
        elif dialect in self.checks:
            for message in self.checks[dialect](op):
                self.report(message, op.loc)


def _types(values: Iterable[Value]) -> tuple[Type, ...]:
    return tuple(v.type for v in values)
