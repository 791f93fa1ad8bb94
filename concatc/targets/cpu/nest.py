"""Recognises kernels that are a sum in a nest of loops, and says how each value depends on the loops.

    for parallel axes          i0, i1        (a loop without carried values)
      for reduce axes          k             acc = acc + term(i0, i1, k)
      epilogue                               stores of what acc becomes

Contractions (linear, matmul, convolutions, their gradients) have this form, with whatever stands behind; so have sums
over rows or columns.  A contraction may also be one of several stages, which share loops around them: a prologue that
is packed before it, sums of what it makes.  Maps may hold small folds of any kind, which are written out: windows of a
max_pool.  Kernels of another form are Numba source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import FLOATS, I1, INDEX, MemRefType
from concatc.loops.python_source import known_strides

SUPPORTED = frozenset(
    "arith." + name
    for name in (
        *("constant", "addf", "subf", "mulf", "divf", "maximumf", "minimumf", "negf", "cmpf", "select"),
        *("addi", "subi", "muli", "divsi", "remsi", "maxsi", "minsi", "cmpi", "andi", "ori", "xori", "shli", "shrui"),
        *("index_cast", "index_castui", "sitofp", "uitofp", "fptosi", "extf", "truncf", "extsi", "extui", "trunci"),
    )
) | frozenset("math." + name for name in ("absf", "erf", "exp", "expm1", "floor", "log", "log1p", "sqrt", "tanh"))


_INTEGERS: dict[str, Callable[[int, int], int]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": lambda a, b: a // b if a >= 0 else -(-a // b),
    "arith.remsi": lambda a, b: a % b if a >= 0 else -(-a % b),
    "arith.andi": lambda a, b: a & b,
}
_COMPARISONS: dict[str, Callable[[int, int], int]] = {
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}
WINDOW = 32  # a fold of at most so many iterations is written out


@dataclass(eq=False)
class NestAxis:
    """A loop: its variable, its bounds, and its extent where the code knows it; else perhaps the ``most`` it can be.

    ``expected`` is an extent that is not known but that tiles should fit (``cnet.expected`` of a size).
    """

    index: Value
    lower: Value
    upper: Value
    extent: int | None
    reduce: bool
    most: int | None = None
    expected: int | None = None


@dataclass(eq=False)
class Nest:
    """Loops with one block of code inside: a stage.

    A sum adds ``term`` over the reduce axes, and ``stores`` write what ``total`` becomes; a map (without ``total`` and
    ``term``) has no reduce axes, but perhaps ``folds`` that are written out.  ``outer`` are the axes of the loops
    around it that it shares with other stages.  ``values`` are computed where the stage stands, for stages behind it.
    """

    outer: list[NestAxis]
    axes: list[NestAxis]
    total: Value | None
    term: Value | None
    stores: list[Operation]
    dtype: str
    values: list[Value] = field(default_factory=list)
    folds: list[Operation] = field(default_factory=list)
    depends: dict[Value, frozenset[NestAxis]] = field(default_factory=dict)

    @property
    def parallel(self) -> list[NestAxis]:
        """The axes of the result, outermost first."""
        return [a for a in self.axes if not a.reduce]

    @property
    def reduce(self) -> list[NestAxis]:
        """The axes that are folded."""
        return [a for a in self.axes if a.reduce]

    def points(self) -> list[Value]:
        """What is computed at each point of the axes."""
        return [self.term] if self.term is not None else [*self.values, *(s.operands[0] for s in self.stores)]

    def axes_of(self, value: Value) -> frozenset[NestAxis]:
        """The axes that a value depends on; what stands under a condition depends on that, too."""
        if value not in self.depends:
            self.depends[value] = self._axes_of(value)
        return self.depends[value]

    def _axes_of(self, value: Value) -> frozenset[NestAxis]:
        op = value.op
        if op is None:
            return frozenset(a for a in (*self.outer, *self.axes) if a.index is value)
        if op.name == "scf.for":  # a total: this stage's, or that of one before it
            own = value is self.total or op in self.folds
            return frozenset((*self.outer, *(self.parallel if own else ())))
        inputs = list(op.operands)
        if op.name == "scf.if":
            inputs += [region.block.ops[-1].operands[value.index] for region in op.regions]
        guard = condition_of(op)
        if guard is not None and op.name == "memref.load":
            inputs.append(guard)
        return frozenset[NestAxis]().union(*(self.axes_of(v) for v in inputs))

    def step(self, value: Value, axis: NestAxis) -> Fraction | None:
        """How much an index grows from one iteration of ``axis`` to the next; None where that is not constant.

        One half where it grows by one every other iteration.
        """
        if axis not in self.axes_of(value):
            return Fraction(0)
        if value is axis.index:
            return Fraction(1)
        op = value.op
        if op is None:
            return None
        steps = [self.step(v, axis) for v in op.operands]
        known = [s for s in steps if s is not None]
        if len(known) < len(steps):
            return None
        if op.name == "arith.addi":
            return known[0] + known[1]
        if op.name == "arith.subi":
            return known[0] - known[1]
        factors = [constant_of(v) for v in op.operands]
        if op.name == "arith.muli":
            for factor, other in ((factors[0], known[1]), (factors[1], known[0])):
                if factor is not None:
                    return factor * other
        if op.name == "arith.divsi" and factors[1] in (2, 4) and constant_of(axis.lower) == 0:
            return known[0] / factors[1]  # a vector of lanes starts at a multiple of these
        return None

    def known(self, value: Value, at: Mapping[NestAxis, int]) -> int | None:
        """An index or a condition that follows from these iterations of some axes; None where it does not."""
        literal = constant_of(value)
        if literal is not None:
            return literal
        op = value.op
        if op is None:
            return next((n for axis, n in at.items() if axis.index is value), None)
        compute = _INTEGERS.get(op.name)
        if op.name == "arith.cmpi":
            compute = _COMPARISONS.get(str(op.attributes["predicate"]))
        if op.name == "arith.andi" and str(value.type) == "i1" and any(self.known(v, at) == 0 for v in op.operands):
            return 0
        if compute is None or not self.axes_of(value) <= at.keys():
            return None
        a, b = (self.known(v, at) for v in op.operands)
        return compute(a, b) if a is not None and b is not None else None

    def lane_step(self, axis: NestAxis, memory: Value, at: Sequence[Value]) -> Fraction | None:
        """How many elements lie between those of neighbouring iterations of an axis; None where that is not known."""
        assert isinstance(memory.type, MemRefType)
        total = Fraction(0)
        for index, stride in zip(at, known_strides(memory.type), strict=True):
            step = self.step(index, axis)
            if step == 0:
                continue
            if step is None or stride is None:
                return None
            total += step * stride
        return total

    def loads(self) -> list[Operation]:
        """The loads that are made at each point."""
        return self.loads_of(self.points())

    def loads_of(self, values: Sequence[Value]) -> list[Operation]:
        """The loads that values are made of, totals aside."""
        found: dict[Operation, None] = {}
        seen: set[Value] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            op = value.op
            if op is None or value in seen or (op.name == "scf.for" and op not in self.folds):
                continue
            seen.add(value)
            if op.name == "scf.for":
                stack.extend(
                    v
                    for loop in (op, *op.walk())
                    if loop.name == "scf.for"
                    for v in loop.regions[0].block.ops[-1].operands
                )
                continue
            if op.name == "memref.load":
                found[op] = None
            stack.extend(op.operands)
            if op.name == "scf.if":
                stack.extend(region.block.ops[-1].operands[value.index] for region in op.regions)
        return list(found)

    def conditions(self) -> list[Value]:
        """The conditions under which these loads are made."""
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


def values_of(nest: Nest) -> list[Value]:
    """What is computed at each point, operands before what reads them; the product itself is fused into the sum."""
    found: dict[Value, None] = {}

    def visit(value: Value) -> None:
        op = value.op
        if op is None or value in found or op.name in ("arith.constant", "scf.for"):
            return
        outer = enclosing_if(op)
        while outer is not None:
            visit(outer.operands[0])
            outer = enclosing_if(outer)
        for operand in op.operands:
            visit(operand)
        if op.name == "scf.if":
            for region in op.regions:
                visit(region.block.ops[-1].operands[value.index])
        found[value] = None

    for value in nest.points():
        visit(value)
    return [v for v in found if v is not nest.term]


def constant_of(value: Value) -> int | None:
    """The integer that a value is, if it is a literal."""
    op = value.op
    if op is None or op.name != "arith.constant":
        return None
    literal = op.attributes["value"]
    return literal if isinstance(literal, int) else None


@dataclass(eq=False)
class SharedLoop:
    """A loop around several stages.  ``bounds`` is a stage that computes nothing but the bounds."""

    axis: NestAxis
    items: list[Item]
    bounds: Nest


Item = SharedLoop | Nest


def recognize(kernel: FuncOp) -> list[Item] | None:
    """The stages of a kernel, in order; None where it has another form.

    One sum in parallel loops, a map of windows or one that reads every other element, or several stages of which one is
    a sum of products in parallel loops.
    """
    items = _items(kernel.body, []) if all(_supported(op) for op in kernel.walk()) else None
    stages = nests_in(items or [])
    if items is None or any(a.extent == 0 for stage in stages for a in (*stage.outer, *stage.axes)):
        return None
    if any(_is_slanted(stage) for stage in stages):
        return None
    sums = [stage for stage in stages if stage.total is not None and stage.parallel]
    if len(stages) == 1:
        return items if sums or stages[0].folds or _is_spread(stages[0]) else None
    return items if any(s.term is not None and s.term.op and s.term.op.name == "arith.mulf" for s in sums) else None


def _is_spread(stage: Nest) -> bool:
    """Whether a map reads along an axis elements that are no neighbours but near, or one several times."""
    steps = [
        stage.lane_step(axis, load.operands[0], load.operands[1:]) for load in stage.loads() for axis in stage.axes
    ]
    return any(step is not None and 0 < step <= 4 and step != 1 for step in steps)


def _is_slanted(stage: Nest) -> bool:
    """Whether a bound of a loop depends on another loop of the stage: its rows cannot be done together."""
    own = {axis.index for axis in stage.axes}
    waiting = [bound for axis in stage.axes for bound in (axis.lower, axis.upper)]
    seen: dict[Value, None] = {}
    while waiting:
        value = waiting.pop()
        if value in own:
            return True
        if value not in seen and value.op is not None:
            seen[value] = None
            waiting += value.op.operands
    return False


def nests_in(items: Sequence[Item]) -> list[Nest]:
    """All stages, in order."""
    found: list[Nest] = []
    for item in items:
        found += [item] if isinstance(item, Nest) else nests_in(item.items)
    return found


def _items(block: Block, outer: list[NestAxis]) -> list[Item] | None:
    """The stages of a block, in order; None where it holds anything else."""
    items: list[Item] = []
    for op in block.ops[:-1]:
        if op.name == "scf.for":
            item = _fold_alone(op, outer) if op.results else _nest(op, outer) or _shared_loop(op, outer)
        elif op.name == "memref.store":
            item = Nest(outer, [], None, None, [op], str(op.operands[0].type))
        elif not _only_values([op]):
            return None
        elif op.name in ("memref.load", "scf.if") and op.results:
            # It is read here: what stands behind may store over it.
            item = Nest(outer, [], None, None, [], str(op.result.type), [op.result])
        else:
            continue
        if item is None:
            return None
        items.append(item)
    return items


def _shared_loop(loop: Operation, outer: list[NestAxis]) -> SharedLoop | None:
    axis = _axis(loop, reduce=False)
    items = _items(loop.regions[0].block, [*outer, axis])
    return SharedLoop(axis, items, Nest(outer, [], None, None, [], "f32")) if items else None


def _fold_alone(loop: Operation, outer: list[NestAxis]) -> Nest | None:
    """A sum without loops of its own around it."""
    found = _fold(loop)
    return Nest(outer, found[0], loop.results[0], found[1], [], str(found[1].type)) if found is not None else None


def _nest(loop: Operation, outer: list[NestAxis]) -> Nest | None:
    """A sum or a map in loops of its own; None where these hold more than that."""
    axes = [_axis(loop, reduce=False)]
    block = loop.regions[0].block
    while True:
        loops = [op for op in block.ops if op.name == "scf.for"]
        if not loops:
            stores = _stores(block.ops[:-1])
            dtypes = {str(store.operands[0].type) for store in stores or ()}
            if stores is None or len(dtypes) != 1 or not dtypes <= set(FLOATS):
                return None
            return Nest(outer, axes, None, None, stores, dtypes.pop())
        if all(_is_window(op) for op in loops) and (len(loops) > 1 or _fold(loops[0]) is None):
            return _windows(outer, axes, block, loops)
        position = block.ops.index(loops[0])
        if len(loops) != 1 or not _only_values(block.ops[:position]):
            return None
        if loops[0].results:
            break
        if len(block.ops) != position + 2:
            return None
        axes.append(_axis(loops[0], reduce=False))
        block = loops[0].regions[0].block
    found = _fold(loops[0])
    stores = _stores(block.ops[position + 1 : -1])
    if found is None or stores is None:
        return None
    return Nest(outer, [*axes, *found[0]], loops[0].results[0], found[1], stores, str(found[1].type))


def _windows(outer: list[NestAxis], axes: list[NestAxis], block: Block, folds: list[Operation]) -> Nest | None:
    """A map of small folds."""
    stores = _stores([op for op in block.ops[:-1] if op not in folds])
    floats = [t for t in FLOATS if any(t == str(store.operands[0].type) for store in stores or ())]
    if stores is None or not floats or not all(_only_folds(fold) for fold in folds):
        return None
    return Nest(outer, axes, None, None, stores, floats[0], folds=folds)


def _is_window(loop: Operation) -> bool:
    """Whether a loop is a fold of a small number of iterations, loops inside of it included."""
    iterations = 1
    for op in (loop, *loop.walk()):
        if op.name == "scf.for":
            extent = _axis(op, reduce=True).extent
            if not op.results or extent is None:
                return False
            iterations *= extent
    return iterations <= WINDOW


def _axis(loop: Operation, reduce: bool) -> NestAxis:
    lower, upper, _ = loop.operands[:3]
    low, high = constant_of(lower), constant_of(upper)
    extent = high - low if low is not None and high is not None else None
    said = upper.attrs.get("cnet.expected")
    expected = said if isinstance(said, int) and said > 0 else None
    return NestAxis(loop.regions[0].block.args[0], lower, upper, extent, reduce, _most(lower, upper), expected)


def _most(lower: Value, upper: Value) -> int | None:
    """How many iterations at most ``lower .. min(lower + most, n)`` has."""
    if upper.op is None or upper.op.name != "arith.minsi":
        return None
    for bound in upper.op.operands:
        if bound.op is not None and bound.op.name == "arith.addi" and lower in bound.op.operands:
            return next((n for v in bound.op.operands if (n := constant_of(v)) is not None), None)
    return None


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


def _only_folds(loop: Operation) -> bool:
    """Whether a fold computes values, in folds inside of it too, and stores nothing."""
    return all(
        op.name in SUPPORTED or op.name in ("memref.load", "scf.if", "scf.for", "scf.yield") for op in loop.walk()
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
    if any(r.type not in (INDEX, I1) and str(r.type) not in (*FLOATS, "i8", "i32", "i64") for r in op.results):
        return False
    return op.name in SUPPORTED or op.name in ("scf.yield", "func.return")
