"""Recognises kernels that are one sum in a nest of loops, and says how each value depends on the loops.

    for parallel axes          i0, i1        (a loop without carried values)
      for reduce axes          k             acc = acc + term(i0, i1, k)
      epilogue                               stores of what acc becomes

Contractions (linear, matmul, convolutions, their gradients) have this form, with whatever stands before (a prologue is
part of the term) and behind; so have sums over rows or columns.  Kernels of another form are Numba source.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from concatc.ir.core import FuncOp, Operation, Value
from concatc.ir.types import FLOATS, I1, INDEX, MemRefType

SUPPORTED = frozenset(
    "arith." + name
    for name in (
        *("constant", "addf", "subf", "mulf", "divf", "maximumf", "minimumf", "negf", "cmpf", "select"),
        *("addi", "subi", "muli", "divsi", "remsi", "maxsi", "minsi", "cmpi", "andi", "ori", "xori", "shli", "shrui"),
        *("index_cast", "index_castui", "sitofp", "uitofp", "fptosi", "extf", "truncf", "extsi", "extui", "trunci"),
    )
) | frozenset("math." + name for name in ("absf", "erf", "exp", "expm1", "floor", "log", "log1p", "sqrt", "tanh"))


@dataclass(eq=False)
class NestAxis:
    """A loop: its variable, its bounds, and its extent where the code knows it."""

    index: Value
    lower: Value
    upper: Value
    extent: int | None
    reduce: bool


@dataclass(eq=False)
class Nest:
    """A kernel that is one sum.  ``term`` is added over the reduce axes; ``stores`` write what ``total`` becomes."""

    kernel: FuncOp
    axes: list[NestAxis]
    total: Value
    term: Value
    stores: list[Operation]
    dtype: str
    depends: dict[Value, frozenset[NestAxis]] = field(default_factory=dict)

    @property
    def parallel(self) -> list[NestAxis]:
        """The axes of the result, outermost first."""
        return [a for a in self.axes if not a.reduce]

    @property
    def reduce(self) -> list[NestAxis]:
        """The axes that are folded."""
        return [a for a in self.axes if a.reduce]

    def axes_of(self, value: Value) -> frozenset[NestAxis]:
        """The axes that a value depends on; what stands under a condition depends on that, too."""
        if value not in self.depends:
            self.depends[value] = self._axes_of(value)
        return self.depends[value]

    def _axes_of(self, value: Value) -> frozenset[NestAxis]:
        op = value.op
        if op is None:
            found = [a for a in self.axes if a.index is value]
            return frozenset(found)
        if value is self.total:
            return frozenset(self.parallel)
        inputs = list(op.operands)
        if op.name == "scf.if":
            inputs += [region.block.ops[-1].operands[value.index] for region in op.regions]
        guard = condition_of(op)
        if guard is not None and op.name == "memref.load":
            inputs.append(guard)
        return frozenset[NestAxis]().union(*(self.axes_of(v) for v in inputs))

    def step(self, value: Value, axis: NestAxis) -> int | None:
        """How much an index grows from one iteration of ``axis`` to the next; None where that is not constant."""
        if axis not in self.axes_of(value):
            return 0
        if value is axis.index:
            return 1
        op = value.op
        if op is None:
            return None
        steps = [self.step(v, axis) for v in op.operands]
        if None in steps:
            return None
        known = [s for s in steps if s is not None]
        if op.name == "arith.addi":
            return known[0] + known[1]
        if op.name == "arith.subi":
            return known[0] - known[1]
        if op.name == "arith.muli":
            factors = [constant_of(v) for v in op.operands]
            for factor, other in ((factors[0], known[1]), (factors[1], known[0])):
                if factor is not None:
                    return factor * other
        return None

    def loads(self) -> list[Operation]:
        """The loads that the term is made of."""
        found: dict[Operation, None] = {}
        seen: set[Value] = set()
        stack = [self.term]
        while stack:
            value = stack.pop()
            op = value.op
            if op is None or value in seen or value is self.total:
                continue
            seen.add(value)
            if op.name == "memref.load":
                found[op] = None
            stack.extend(op.operands)
            if op.name == "scf.if":
                stack.extend(region.block.ops[-1].operands[value.index] for region in op.regions)
        return list(found)

    def conditions(self) -> list[Value]:
        """The conditions under which the term's loads are made."""
        guards = [condition_of(load) for load in self.loads()]
        return list(dict.fromkeys(g for g in guards if g is not None))


def condition_of(op: Operation) -> Value | None:
    """The condition of the innermost ``scf.if`` around an op."""
    block = op.block
    parent = block.region.parent if block is not None and block.region is not None else None
    return parent.operands[0] if parent is not None and parent.name == "scf.if" else None


def enclosing_if(op: Operation) -> Operation | None:
    """The innermost ``scf.if`` around an op."""
    block = op.block
    parent = block.region.parent if block is not None and block.region is not None else None
    return parent if parent is not None and parent.name == "scf.if" else None


def constant_of(value: Value) -> int | None:
    """The integer that a value is, if it is a literal."""
    op = value.op
    if op is None or op.name != "arith.constant":
        return None
    literal = op.attributes["value"]
    return literal if isinstance(literal, int) else None


def recognize(kernel: FuncOp) -> Nest | None:
    """The nest of a kernel, or None where it has another form."""
    axes: list[NestAxis] = []
    block = kernel.body
    while True:
        loops = [op for op in block.ops if op.name == "scf.for"]
        if len(loops) != 1:
            return None
        (loop,) = loops
        if loop.results:
            break
        if [op.name for op in block.ops[block.ops.index(loop) + 1 :]] not in (["func.return"], ["scf.yield"]):
            return None
        if not _only_values(block.ops[: block.ops.index(loop)]):
            return None
        axes.append(_axis(loop, reduce=False))
        block = loop.regions[0].block
    if not axes:
        return None
    found = _fold(loop)
    if found is None:
        return None
    folded, term = found
    position = block.ops.index(loop)
    stores = _stores(block.ops[position + 1 : -1])
    if stores is None or not _only_values(block.ops[:position]):
        return None
    # Index arithmetic may stand between the loops; all of it must be known.
    if not all(_supported(op) for op in kernel.walk()):
        return None
    nest = Nest(kernel, [*axes, *folded], loop.results[0], term, stores, str(term.type))
    return nest if all(a.extent != 0 for a in nest.axes) else None


def _axis(loop: Operation, reduce: bool) -> NestAxis:
    lower, upper, _ = loop.operands[:3]
    low, high = constant_of(lower), constant_of(upper)
    extent = high - low if low is not None and high is not None else None
    return NestAxis(loop.regions[0].block.args[0], lower, upper, extent, reduce)


def _fold(loop: Operation) -> tuple[list[NestAxis], Value] | None:
    """The reduce axes and the term of ``acc += term``."""
    axes: list[NestAxis] = []
    initial = loop.operands[3].op
    if len(loop.results) != 1 or str(loop.results[0].type) not in FLOATS:
        return None
    if initial is None or initial.name != "arith.constant" or initial.attributes["value"] != 0.0:
        return None
    while True:
        axes.append(_axis(loop, reduce=True))
        body = loop.regions[0].block
        _, carried = body.args
        (yielded,) = body.ops[-1].operands
        inner = [op for op in body.ops if op.name == "scf.for"]
        if not inner:
            break
        if len(inner) != 1 or len(inner[0].results) != 1:
            return None
        if inner[0].operands[3] is not carried or yielded is not inner[0].results[0] or len(carried.uses) != 1:
            return None
        (loop,) = inner
    add = yielded.op
    if add is None or add.name != "arith.addf" or add.attributes.get("fastmath") != "reassoc":
        return None
    if add.operands[0] is not carried or len(carried.uses) != 1 or len(yielded.uses) != 1:
        return None
    return axes, add.operands[1]


def _only_values(ops: list[Operation]) -> bool:
    return all(op.name in SUPPORTED or op.name in ("memref.load", "scf.if") for op in ops) and not any(
        inner.name == "memref.store" for op in ops for inner in op.walk()
    )


def _stores(ops: list[Operation]) -> list[Operation] | None:
    """The stores of the epilogue, in order; None where it does more than compute and store."""
    stores = [op for op in ops if op.name == "memref.store"]
    return stores if stores and _only_values([op for op in ops if op.name != "memref.store"]) else None


def _supported(op: Operation) -> bool:
    if op.name == "scf.if":
        return len(op.regions) == 2
    if op.name == "scf.for":
        return constant_of(op.operands[2]) == 1
    if op.name in ("memref.load", "memref.store"):
        memory = op.operands[op.name == "memref.store"].type
        return isinstance(memory, MemRefType) and all(v.type == INDEX for v in op.operands[2:] if v.type != memory)
    if any(r.type not in (INDEX, I1) and str(r.type) not in (*FLOATS, "i32", "i64") for r in op.results):
        return False
    return op.name in SUPPORTED or op.name in ("scf.yield", "func.return")
