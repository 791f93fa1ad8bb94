"""Do loops stay in their windows?  For loops that were read from a text, before they become code.

    scf.for %i = %c0 to %n step %c1 {                    %i is 0 .. n - 1
      %k = arith.addi %i, %c1                            %k is 1 .. n
      %x = memref.load %a[%k] : memref<?xf32>            an error where the window has n elements

Each call of ``@step`` says extents and windows, so each index of each load and store is checked by its interval; where
that is too wide (padding, strides) the values of all loops that it depends on are listed, and those that the conditions
around it exclude are left out.  Integers that are loaded and index something are followed through memory to the bounds
that the arguments state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from concatc.diagnostics import Diagnostic
from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import I1, INTEGERS, ScalarType
from concatc.loops.bases import Interface, argument_key
from concatc.loops.memory import Array
from concatc.loops.plan import Window
from concatc.passes.check_lattice import overlap
from concatc.passes.check_step import Call, written_arguments
from concatc.runtime.index_check import IndexCheck
from concatc.runtime.integers import Integers

MAX_POINTS = 1 << 22
# Integers beyond are not followed: sums and products of smaller ones are exact in float64, where they are compared.
LARGEST = 1 << 53
BAD_LOOP = "the bounds of a loop are numbers, arguments and other loops; its step is 1 or more"

Interval = tuple[int, int]  # both ends included


def loop_problems(
    calls: Sequence[Call], net: FuncOp, interface: Interface, checks: Sequence[IndexCheck]
) -> list[Diagnostic]:
    """What the calls of a module of loops would read or write outside of their windows."""
    memory = Integers()
    domains: list[tuple[int, ...]] = []  # the values that integers may have, by the number that memory holds
    for arg in net.args:
        if arg.dtype in INTEGERS:
            memory.write(interface.slots[argument_key(arg)], _stated(arg, checks, domains))
    problems: dict[Diagnostic, None] = {}
    known: dict[object, _Kernel] = {}
    for call in calls:
        windows = call.windows()
        loaded = _loaded_domains(call, memory, domains)
        key = (call.kernel.sym_name, *(_shape(v) for v in call.arguments.values()), tuple(loaded.items()))
        if key not in known:
            known[key] = _Kernel(call, loaded)
            known[key].run()
            problems.update(dict.fromkeys(known[key].problems))
        stored = known[key].stored
        for arg, found in stored.items():
            # Which of two stores to one place comes last is not followed.
            is_alone = not any(other is not arg and overlap(windows[arg], windows[other]) for other in stored)
            values = found.values if is_alone and found.covered.all() else None
            memory.write(windows[arg], None if values is None else _numbered(windows[arg].shape, values, domains))
    return list(problems)


def _shape(argument: object) -> object:
    return (argument.shape, argument.dtype) if isinstance(argument, Window) else argument


def _stated(arg: Value, checks: Sequence[IndexCheck], domains: list[tuple[int, ...]]) -> Array | None:
    """The number of the domain of each element of an argument, by the checks that it is held to."""
    found = np.full(arg.tensor.numel, -1)
    for check in checks:
        is_of_it = (check.kind, check.name) == (arg.attrs.get("cnet.kind"), arg.attrs.get("cnet.name"))
        if is_of_it and check.extent <= MAX_POINTS:
            values = range(check.extent) if check.ignored is None else (*range(check.extent), check.ignored)
            domains.append(tuple(values))
            found[slice(None) if check.positions is None else check.positions] = len(domains) - 1
    return found.reshape(arg.shape)


def _numbered(shape: Sequence[int], values: tuple[int, ...], domains: list[tuple[int, ...]]) -> Array:
    domains.append(values)
    return np.full(shape, len(domains) - 1)


def _loaded_domains(call: Call, memory: Integers, domains: Sequence[tuple[int, ...]]) -> dict[Value, tuple[int, ...]]:
    """The values that the integers in the windows of a call may have, where all of them are known.

    What the kernel itself stores to is left out: a load may come behind the store.
    """
    found: dict[Value, tuple[int, ...]] = {}
    windows = call.windows()
    written = [windows[arg] for arg in written_arguments(call.kernel) if arg in windows]
    for arg, window in windows.items():
        if window.dtype in INTEGERS and not any(overlap(window, other) for other in written):
            numbers = memory.read(window)
            if numbers is not None:
                together = [value for k in np.unique(numbers).tolist() for value in domains[k]]
                found[arg] = tuple(dict.fromkeys(together))
    return found


@dataclass
class _Points:
    """A value at all combinations of the variables that it depends on, one axis each.

    ``is_known`` is False where targets need not agree on it: a negative number is divided, or something by zero, or
    the result does not fit its type.
    """

    variables: tuple[Value, ...]
    values: Array
    is_known: Array


@dataclass
class _SlantedLoop:
    """A loop whose bounds depend on other loops: its index is ``lower + k * step`` for ``k`` below ``count``, where
    that is below ``upper``.
    """

    lower: Value
    upper: Value
    step: int
    count: int = 0


@dataclass
class _Stored:
    """What a kernel stores to one memory argument: integers (None where not known), and which elements for sure."""

    covered: Array
    values: tuple[int, ...] | None = ()


@dataclass
class _Kernel:
    """One kernel with the arguments of one call."""

    call: Call
    loaded: Mapping[Value, tuple[int, ...]]
    problems: list[Diagnostic] = field(default_factory=list)
    stored: dict[Value, _Stored] = field(default_factory=dict)
    _loops: dict[Value, range] = field(default_factory=dict)
    _slanted: dict[Value, _SlantedLoop] = field(default_factory=dict)
    _conditions: list[tuple[Value, bool]] = field(default_factory=list)

    def run(self) -> None:
        """Walk the kernel's body."""
        self._block(self.call.kernel.body)

    def _wrong(self, op: Operation, message: str) -> None:
        notes = (f"called at {self.call.operation.loc}",) if self.call.operation.loc else ()
        self.problems.append(Diagnostic(f"@{self.call.kernel.sym_name}: {message}", op.loc, notes))

    def _block(self, block: Block) -> None:
        for op in block.ops:
            if op.name == "scf.for":
                self._for(op)
            elif op.name == "scf.if":
                for k, region in enumerate(op.regions):
                    self._conditions.append((op.operands[0], k == 0))
                    self._block(region.block)
                    self._conditions.pop()
            elif op.name == "memref.load":
                self._access(op, op.operands[0], op.operands[1:])
            elif op.name == "memref.store":
                self._access(op, op.operands[1], op.operands[2:])
                self._store(op)
            elif op.name == "func.call" or op.name.startswith("memref."):
                self._wrong(op, f"a kernel holds loops, arithmetic, loads and stores, not `{op.name}`")

    def _for(self, op: Operation) -> None:
        lower, upper, step = op.operands[:3]
        begin, end, by = (self._interval(v) for v in (lower, upper, step))
        if by is None or by[0] != by[1] or by[0] < 1:
            self._wrong(op, BAD_LOOP)
            return
        index = op.regions[0].block.args[0]
        if begin is not None and end is not None and begin[0] == begin[1] and end[0] == end[1]:
            self._loops[index] = range(begin[0], end[0], by[0])
            count = len(self._loops[index])
        else:
            slanted = _SlantedLoop(lower, upper, by[0])
            found = self._steps(slanted)
            if found is None:
                self._wrong(op, BAD_LOOP)
                return
            slanted.count = count = found
            self._slanted[index] = slanted
        if count:
            self._block(op.regions[0].block)

    def _steps(self, loop: _SlantedLoop) -> int | None:
        """The most steps that a slanted loop takes."""
        lower, upper = self._points(loop.lower), self._points(loop.upper)
        if lower is None or upper is None or not lower.is_known.all() or not upper.is_known.all():
            return None
        variables = tuple(dict.fromkeys((*lower.variables, *upper.variables)))
        spans = _spread(upper.values, upper, variables) - _spread(lower.values, lower, variables)
        return max(0, -(-int(spans.max(initial=0)) // loop.step))

    # -- accesses --------------------------------------------------------------------------------------------------
    def _access(self, op: Operation, memory: Value, at: Sequence[Value]) -> None:
        window = self.call.arguments.get(memory)
        if not isinstance(window, Window):
            self._wrong(op, f"%{memory.name} is no argument")
            return
        for axis, (index, extent) in enumerate(zip(at, window.shape, strict=True)):
            interval = self._interval(index)
            if interval is not None and interval[0] >= 0 and interval[1] < extent:
                continue
            where = f"axis {axis} of %{memory.name}, which has {extent} elements"
            points = self._points(index)
            if points is None:
                self._wrong(op, f"the index of {where} cannot be followed")
                continue
            allowed = self._allowed(points)
            reached = points.values[allowed]
            wrong = reached[(reached < 0) | (reached >= extent)]
            if not points.is_known[allowed].all():
                self._wrong(op, f"the index of {where} divides a negative number or by zero, or overflows")
            elif wrong.size:
                self._wrong(op, f"reaches {'an element before' if wrong[0] < 0 else f'element {wrong[0]} of'} {where}")

    def _store(self, op: Operation) -> None:
        value, memory, *at = op.operands
        window = self.call.arguments.get(memory)
        if not isinstance(window, Window):
            return
        stored = self.stored.setdefault(memory, _Stored(np.zeros(window.shape, bool)))
        points = self._points(value) if window.dtype in INTEGERS else None
        if points is None or stored.values is None or not points.is_known.all():
            stored.values = None
            return
        stored.values = tuple(dict.fromkeys((*stored.values, *np.unique(points.values).tolist())))
        indices = [self._points(index) for index in at]
        found = [p for p in indices if p is not None and p.is_known.all()]
        # A store under a condition, or in a loop that may take no step, is not for sure.
        if self._conditions or self._slanted or len(found) < len(indices):
            return
        variables = tuple(dict.fromkeys(v for p in found for v in p.variables))
        sizes = {v: n for p in found for v, n in zip(p.variables, p.values.shape, strict=True)}
        if math.prod(sizes.values()) <= MAX_POINTS:
            places = [_spread(p.values, p, variables) for p in found]
            if all(((p >= 0) & (p < n)).all() for p, n in zip(places, window.shape, strict=True)):
                stored.covered[tuple(places)] = True

    def _allowed(self, points: _Points) -> Array:
        """Which points the conditions around the operation let through; those on other variables do not count."""
        allowed = np.ones(points.values.shape, bool)
        for variable in points.variables:
            if variable in self._slanted:
                allowed &= self._runs(variable, points.variables)
        for condition, wanted in self._conditions:
            for part in _conjuncts(condition) if wanted else (condition,):
                found = self._points(part)
                if found is not None and all(v in points.variables for v in found.variables):
                    holds = _spread(found.values, found, points.variables).astype(bool) == wanted
                    allowed &= holds | ~_spread(found.is_known, found, points.variables)
        return allowed

    def _runs(self, index: Value, variables: Sequence[Value]) -> Array:
        """At which of the points a slanted loop runs."""
        found, upper = self._points(index), self._points(self._slanted[index].upper)
        if found is None or upper is None or not all(v in variables for v in upper.variables):
            return np.array(True)
        return _spread(found.values, found, variables) < _spread(upper.values, upper, variables)

    # -- values ----------------------------------------------------------------------------------------------------
    def _interval(self, value: Value) -> Interval | None:
        """Where an integer lies at least; None where that is not simple to say."""
        found = self._simple_interval(value)
        return found if found is not None and found[0] >= -LARGEST and found[1] <= LARGEST else None

    def _simple_interval(self, value: Value) -> Interval | None:
        if value in self._loops:
            loop = self._loops[value]
            return (loop[0], loop[-1]) if len(loop) else (loop.start, loop.start)
        if value in self._slanted:
            lower, upper = self._interval(self._slanted[value].lower), self._interval(self._slanted[value].upper)
            return None if lower is None or upper is None else (lower[0], upper[1] - 1)
        argument = self.call.arguments.get(value)
        if isinstance(argument, int):
            return int(argument), int(argument)
        op = value.op
        if op is None:
            return None
        if op.name == "arith.constant":
            number = op.attributes["value"]
            return (number, number) if isinstance(number, int) else None
        if op.name not in _INTERVALS:
            return None
        a, b = (self._interval(v) for v in op.operands)
        return None if a is None or b is None else _INTERVALS[op.name](a, b)

    def _points(self, value: Value) -> _Points | None:
        """All values of an integer or a condition; None where they are not known or too many."""
        found = self._followed(value)
        if found is None:
            return None
        low, high = _RANGES.get(str(value.type), (-LARGEST, LARGEST))
        fits = (found.values >= low) & (found.values <= high)
        return found if fits.all() else replace(found, is_known=found.is_known & fits)

    def _followed(self, value: Value) -> _Points | None:
        variable = self._loops.get(value)
        if variable is not None:
            return _exact((value,), np.array(variable)) if len(variable) <= MAX_POINTS else None
        if value in self._slanted:
            return self._slanted_points(value)
        argument = self.call.arguments.get(value)
        if isinstance(argument, int):
            return _exact((), np.array(int(argument)))
        op = value.op
        if op is None or not isinstance(value.type, ScalarType) or value.type.name in ("f32", "f64"):
            return None
        if op.name == "arith.constant":
            number = op.attributes["value"]
            return _exact((), np.array(int(number))) if isinstance(number, int) else None
        if op.name == "memref.load":
            domain = self.loaded.get(op.operands[0])
            return None if domain is None else _exact((value,), np.array(domain, np.int64))
        if op.name == "scf.if":
            return self._chosen(op, op.results.index(value))
        if op.name in _SAME:
            return self._cast(op)
        if op.operands[-1].type == I1 and op.name in _SIGNED and op.attributes.get("predicate") not in ("eq", "ne"):
            return None  # true is -1 there
        rule = _COMPARISONS.get(str(op.attributes.get("predicate"))) if op.name == "arith.cmpi" else _RULES.get(op.name)
        if rule is None:
            return None
        operands = [self._points(v) for v in op.operands]
        found = [p for p in operands if p is not None]
        if len(found) < len(operands):
            return None
        variables = tuple(dict.fromkeys(v for p in found for v in p.variables))
        sizes = {v: n for p in found for v, n in zip(p.variables, p.values.shape, strict=True)}
        if math.prod(sizes.values()) > MAX_POINTS:
            return None
        spread = [_spread(p.values, p, variables) for p in found]
        is_known = functools.reduce(np.logical_and, (_spread(p.is_known, p, variables) for p in found))
        if op.name in _DIVISIONS:
            fine = (spread[0] >= 0) & (spread[1] > 0)
            is_known = is_known & fine
            spread[1] = np.where(fine, spread[1], 1)
        if op.name == "arith.muli":
            is_known = is_known & (np.abs(spread[0].astype(np.float64) * spread[1]) <= LARGEST)
        values = rule(*spread)
        return _Points(variables, values, np.broadcast_to(is_known, values.shape))

    def _cast(self, op: Operation) -> _Points | None:
        """The same number in another type, if it fits; a negative one that is taken for unsigned is another."""
        found = self._points(op.operands[0])
        if found is None or (op.operands[0].type == I1 and op.name != "arith.extui"):
            return None
        if op.name in ("arith.extui", "arith.index_castui"):
            return replace(found, is_known=found.is_known & (found.values >= 0))
        return found

    def _slanted_points(self, index: Value) -> _Points | None:
        loop = self._slanted[index]
        lower = self._points(loop.lower)
        if lower is None or lower.values.size * loop.count > MAX_POINTS:
            return None
        steps = np.arange(loop.count) * loop.step
        values = lower.values[..., None] + steps
        return _Points((*lower.variables, index), values, np.broadcast_to(lower.is_known[..., None], values.shape))

    def _chosen(self, op: Operation, result: int) -> _Points | None:
        """A result of ``scf.if`` whose condition is an argument, such as an ``add`` flag."""
        condition = self.call.arguments.get(op.operands[0])
        if not isinstance(condition, bool | int):
            return None
        return self._points(op.regions[0 if condition else 1].block.ops[-1].operands[result])


def _exact(variables: tuple[Value, ...], values: Array) -> _Points:
    return _Points(variables, values, np.ones(values.shape, bool))


def _spread(array: Array, points: _Points, variables: Sequence[Value]) -> Array:
    """``array`` of the points with an axis for each of ``variables``, of size 1 where it does not depend on it."""
    order = [points.variables.index(v) for v in variables if v in points.variables]
    shape = [array.shape[points.variables.index(v)] if v in points.variables else 1 for v in variables]
    return array.transpose(order).reshape(shape)


def _conjuncts(condition: Value) -> Iterator[Value]:
    if condition.op is not None and condition.op.name == "arith.andi" and condition.type == I1:
        for operand in condition.op.operands:
            yield from _conjuncts(operand)
        return
    yield condition


_SAME = ("arith.index_cast", "arith.index_castui", "arith.extsi", "arith.extui", "arith.trunci")
_SIGNED = ("arith.cmpi", "arith.maxsi", "arith.minsi")
_RANGES = {"i1": (0, 1), "i8": (-128, 127), "i32": (-(1 << 31), (1 << 31) - 1)}


def _select(condition: Array, yes: Array, no: Array) -> Array:
    return np.where(condition != 0, yes, no)


_DIVISIONS = ("arith.divsi", "arith.floordivsi", "arith.remsi")
_RULES: dict[str, Callable[..., Array]] = {
    "arith.addi": np.add,
    "arith.subi": np.subtract,
    "arith.muli": np.multiply,
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
    "arith.divsi": np.floor_divide,
    "arith.floordivsi": np.floor_divide,
    "arith.remsi": np.remainder,
    "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or,
    "arith.xori": np.bitwise_xor,
    "arith.select": _select,
}
_COMPARISONS: dict[str, Callable[..., Array]] = {
    name: lambda a, b, compare=compare: compare(a, b).astype(np.int64)
    for name, compare in (
        ("eq", np.equal),
        ("ne", np.not_equal),
        ("slt", np.less),
        ("sle", np.less_equal),
        ("sgt", np.greater),
        ("sge", np.greater_equal),
    )
}
_INTERVALS: dict[str, Callable[[Interval, Interval], Interval]] = {
    "arith.addi": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "arith.subi": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "arith.minsi": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "arith.maxsi": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "arith.muli": lambda a, b: (
        min(x * y for x in a for y in b),
        max(x * y for x in a for y in b),
    ),
}
