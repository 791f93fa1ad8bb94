"""Scalar expressions over loop indices: what one element of a result is, as data that passes can analyse.

    Arith("max", (Load(x, (i, j)), Const(0.0, "f32")))      written  maximum(x[i, j], 0.0)

An expression is immutable, compared by value and typed (``f32``, ``f64``, ``i32``, ``i64``, ``i1`` or ``index``).
Plain Python numbers in an expression take the type of their neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from concatc.ir.types import TensorType

AxisKind = Literal["parallel", "reduce", "sequential"]


class Expr:
    """Base of all expressions; arithmetic operators and comparisons build new ones."""

    dtype: str

    def __add__(self, other: Number) -> Expr:
        return arith("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return arith("add", other, self)

    def __sub__(self, other: Number) -> Expr:
        return arith("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return arith("sub", other, self)

    def __mul__(self, other: Number) -> Expr:
        return arith("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return arith("mul", other, self)

    def __truediv__(self, other: Number) -> Expr:
        return arith("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return arith("div", other, self)

    def __floordiv__(self, other: Number) -> Expr:
        return arith("floordiv", self, other)

    def __mod__(self, other: Number) -> Expr:
        return arith("rem", self, other)

    def __neg__(self) -> Expr:
        return arith("neg", self)

    def __lt__(self, other: Number) -> Expr:
        return arith("lt", self, other)

    def __le__(self, other: Number) -> Expr:
        return arith("le", self, other)

    def __gt__(self, other: Number) -> Expr:
        return arith("gt", self, other)

    def __ge__(self, other: Number) -> Expr:
        return arith("ge", self, other)

    def __and__(self, other: Number) -> Expr:
        return arith("and", self, other)

    def __or__(self, other: Number) -> Expr:
        return arith("or", self, other)

    def eq(self, other: Number) -> Expr:
        """``self == other`` (``==`` itself compares expressions as data)."""
        return arith("eq", self, other)

    def ne(self, other: Number) -> Expr:
        """``self != other``."""
        return arith("ne", self, other)


Number = Expr | int | float


@dataclass(frozen=True)
class Axis(Expr):
    """A loop index that runs over ``range(extent)``; as an expression its value at this iteration."""

    name: str
    extent: int
    kind: AxisKind = "parallel"

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """An axis counts in ``index``."""
        return "index"


@dataclass(frozen=True)
class Const(Expr):
    """A literal."""

    value: int | float | bool
    dtype: str


@dataclass(frozen=True)
class Size(Expr):
    """A number that follows from shapes, such as how many elements a mean is of.

    A kernel is given it at each call: it is no part of the kernel's code, which therefore serves every batch size.
    """

    value: int

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """Sizes count in ``index``."""
        return "index"


@dataclass(frozen=True)
class Ref:
    """What a piece reads or writes: operand or result ``index`` of the op, or a temporary of the op.

    ``x[i, j]`` makes a :class:`Load`.
    """

    kind: Literal["operand", "result", "temp"]
    index: int
    type: TensorType

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor referred to."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """Its element type."""
        return self.type.dtype

    def __getitem__(self, at: Number | tuple[Number, ...]) -> Load:
        where = at if isinstance(at, tuple) else (at,)
        assert len(where) == len(self.shape), f"{len(where)} indices into {self.type}"
        return Load(self, tuple(wrap(i, "index") for i in where))

    def load(self, at: tuple[Number, ...], where: Expr | None = None, other: Number = 0) -> Load:
        """An element, or ``other`` where the guard ``where`` is false; memory is then not touched."""
        plain = self[tuple(at)]
        return replace(plain, where=where, other=wrap(other, self.dtype)) if where is not None else plain


@dataclass(frozen=True)
class Load(Expr):
    """``ref[at]`` if ``where`` (or no guard) else ``other``."""

    ref: Ref
    at: tuple[Expr, ...]
    where: Expr | None = None
    other: Expr | None = None

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """The element type of what is read."""
        return self.ref.dtype


# name -> number of arguments
ARITY = {
    **dict.fromkeys(["add", "sub", "mul", "div", "max", "min", "floordiv", "rem"], 2),
    **dict.fromkeys(["lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "shl", "shr"], 2),
    **dict.fromkeys(["neg", "abs", "exp", "expm1", "log", "log1p", "sqrt", "tanh", "erf", "floor"], 1),
}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


@dataclass(frozen=True)
class Arith(Expr):
    """An operation of :data:`ARITY` on arguments of one type.

    ``max`` and ``min`` propagate NaN.  ``floordiv`` and ``rem`` are for non-negative integers.  ``xor``, ``shl``,
    ``shr`` and integer ``mul`` and ``add`` wrap; ``shr`` shifts zeros in (unsigned).
    """

    op: str
    args: tuple[Expr, ...]

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """``i1`` for comparisons, else the type of the arguments."""
        return "i1" if self.op in COMPARISONS else self.args[0].dtype


@dataclass(frozen=True)
class Select(Expr):
    """``yes if condition else no``; both sides may be evaluated."""

    condition: Expr
    yes: Expr
    no: Expr

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """The type of both sides."""
        return self.yes.dtype


@dataclass(frozen=True)
class Cast(Expr):
    """``value`` converted to ``dtype``; float to integer truncates."""

    dtype: str
    value: Expr


def wrap(value: Number, dtype: str) -> Expr:
    """Make a literal of the given type; expressions pass through."""
    if isinstance(value, Expr):
        return value
    if dtype in ("f32", "f64"):
        return Const(float(value), dtype)
    return Const(int(value), dtype)


def arith(op: str, *args: Number) -> Expr:
    """``Arith`` with literals typed by their neighbours, trivial index arithmetic folded."""
    assert len(args) == ARITY[op], f"{op} takes {ARITY[op]} arguments"
    dtype = next(a.dtype for a in args if isinstance(a, Expr))
    exprs = tuple(wrap(a, dtype) for a in args)
    assert all(e.dtype == dtype for e in exprs), f"{op} of {[e.dtype for e in exprs]}"
    if dtype == "index" and len(exprs) == 2:
        return _fold_index(op, *exprs)
    return Arith(op, exprs)


def _fold_index(op: str, a: Expr, b: Expr) -> Expr:
    if isinstance(b, Const):
        if isinstance(a, Const) and op in ("add", "sub", "mul"):
            x, y = int(a.value), int(b.value)
            return Const({"add": x + y, "sub": x - y, "mul": x * y}[op], "index")
        if (op in ("add", "sub") and b.value == 0) or (op in ("mul", "floordiv") and b.value == 1):
            return a
        if op == "rem" and b.value == 1:
            return Const(0, "index")
    if isinstance(a, Const) and ((op == "add" and a.value == 0) or (op == "mul" and a.value == 1)):
        return b
    return Arith(op, (a, b))


def maximum(a: Number, b: Number) -> Expr:
    """The larger; NaN if either is NaN."""
    return arith("max", a, b)


def minimum(a: Number, b: Number) -> Expr:
    """The smaller; NaN if either is NaN."""
    return arith("min", a, b)


def exp(x: Expr) -> Expr:
    """Natural exponential."""
    return arith("exp", x)


def expm1(x: Expr) -> Expr:
    """``exp(x) - 1``, without the loss of digits near 0."""
    return arith("expm1", x)


def log(x: Expr) -> Expr:
    """Natural logarithm."""
    return arith("log", x)


def log1p(x: Expr) -> Expr:
    """``log(1 + x)``."""
    return arith("log1p", x)


def sqrt(x: Expr) -> Expr:
    """Square root."""
    return arith("sqrt", x)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    return arith("tanh", x)


def erf(x: Expr) -> Expr:
    """Error function."""
    return arith("erf", x)


def absolute(x: Expr) -> Expr:
    """Absolute value."""
    return arith("abs", x)


def select(condition: Expr, yes: Number, no: Number) -> Expr:
    """``yes if condition else no``."""
    dtype = next(e.dtype for e in (yes, no) if isinstance(e, Expr))
    return Select(condition, wrap(yes, dtype), wrap(no, dtype))


def cast(value: Expr, dtype: str) -> Expr:
    """``value`` as ``dtype``; the identity where it has that type."""
    return value if value.dtype == dtype else Cast(dtype, value)


def share_of(count: int, dtype: str) -> Expr:
    """``1 / count`` as ``dtype``, of a ``count`` that follows from shapes; computed in f64, then rounded."""
    return cast(1.0 / cast(Size(count), "f64"), dtype)


def all_of(*conditions: Expr | None) -> Expr | None:
    """The conjunction of the conditions that are there; None if there are none."""
    result: Expr | None = None
    for condition in conditions:
        if condition is not None:
            result = condition if result is None else result & condition
    return result


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions."""
    # Asked of every node again and again: `match` would take several times as long.
    if isinstance(expr, Arith):
        return expr.args
    if isinstance(expr, Load):
        return (*expr.at, *(e for e in (expr.where, expr.other) if e is not None))
    if isinstance(expr, Select):
        return (expr.condition, expr.yes, expr.no)
    if isinstance(expr, Cast):
        return (expr.value,)
    return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all its subexpressions, outer first; one that is used twice is met twice."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def nodes(expr: Expr) -> Iterator[Expr]:
    """As :func:`walk`, but what several expressions share is met once."""
    seen: dict[int, Expr] = {}
    stack = [expr]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            yield node
            stack.extend(reversed(children(node)))


def loads(expr: Expr) -> list[Load]:
    """All loads in the expression."""
    return [e for e in walk(expr) if isinstance(e, Load)]


def axes_of(expr: Expr) -> list[Axis]:
    """The axes that the expression depends on, each once, in order of appearance."""
    return list(dict.fromkeys(e for e in nodes(expr) if isinstance(e, Axis)))


def rebuild(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """Replace subexpressions: where ``change`` returns an expression it stands, else the children are rebuilt."""
    new = change(expr)
    if new is not None:
        return new
    match expr:
        case Load(ref, at, where, other):
            return Load(
                ref,
                tuple(rebuild(e, change) for e in at),
                rebuild(where, change) if where is not None else None,
                rebuild(other, change) if other is not None else None,
            )
        case Arith(op, args):
            return arith(op, *(rebuild(a, change) for a in args))
        case Select(condition, yes, no):
            return Select(rebuild(condition, change), rebuild(yes, change), rebuild(no, change))
        case Cast(dtype, value):
            return Cast(dtype, rebuild(value, change))
    return expr
