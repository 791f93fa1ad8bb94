"""The syntax tree of a ``.cnet`` file: frozen dataclasses, each with its range in the source."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from concatc.diagnostics import Loc


@dataclass(frozen=True, slots=True)
class Name:
    """A name where it is bound, with its place."""

    text: str
    loc: Loc


# -- expressions -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Number:
    """``3``, ``0.5``, ``1e-3``: exact."""

    value: Fraction
    loc: Loc


@dataclass(frozen=True, slots=True)
class Boolean:
    """``true`` or ``false``."""

    value: bool
    loc: Loc


@dataclass(frozen=True, slots=True)
class String:
    """``"sum"``."""

    value: str
    loc: Loc


@dataclass(frozen=True, slots=True)
class Reference:
    """``h``, ``enc.weight``."""

    parts: tuple[str, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class ListExpr:
    """``[a, b]``."""

    items: tuple[Expr, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Index:
    """``xs[i][j]``."""

    base: Expr
    indices: tuple[Expr, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Prefix:
    """``-x`` or ``not x``."""

    operator: str
    operand: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class Infix:
    """``first op x op y ..``, evaluated from the left; all operators have one strength."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Logic:
    """``a and b and ..`` or ``a or b or ..``."""

    operator: str
    items: tuple[Expr, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Compare:
    """``a < b`` and the like."""

    operator: str
    left: Expr
    right: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class Choice:
    """``yes if condition else no``."""

    yes: Expr
    condition: Expr
    no: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class RangeExpr:
    """``start..stop``, without ``stop``."""

    start: Expr
    stop: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class BadExpr:
    """An expression in the head of a body that did not parse."""

    loc: Loc


@dataclass(frozen=True, slots=True)
class Keyword:
    """``name=value`` in a call."""

    name: str
    value: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class Call:
    """``callee(positional, keywords) @label``; ``uid`` is unique in the file.

    ``piped`` says that the call is a step of a pipeline: its first argument comes from the left.
    """

    uid: int
    callee: tuple[str, ...]
    callee_loc: Loc
    positional: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]
    label: Name | None
    piped: bool
    loc: Loc


@dataclass(frozen=True, slots=True)
class Pipeline:
    """``head |> step |> step``."""

    head: Expr
    steps: tuple[Call, ...]
    loc: Loc


Expr = (
    Number
    | Boolean
    | String
    | Reference
    | ListExpr
    | Index
    | Prefix
    | Infix
    | Logic
    | Compare
    | Choice
    | RangeExpr
    | Call
    | Pipeline
    | BadExpr
)


# -- statements --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class TypeExpr:
    """``f32[n, 3]``."""

    dtype: str
    extents: tuple[Expr, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Assign:
    """``a, b = value``."""

    targets: tuple[Name, ...]
    value: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class Augment:
    """``target += value``."""

    target: Name
    value: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class Input:
    """``input name: type``."""

    name: Name
    type: TypeExpr
    loc: Loc


@dataclass(frozen=True, slots=True)
class Parameter:
    """``param name: type = init, lr=2``; ``uid`` is unique in the file."""

    uid: int
    name: Name
    type: TypeExpr
    init: Expr | None
    keywords: tuple[Keyword, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class State:
    """``state name: type = init``; ``uid`` is unique in the file."""

    uid: int
    name: Name
    type: TypeExpr
    init: Expr | None
    loc: Loc


@dataclass(frozen=True, slots=True)
class Update:
    """``update name = value``."""

    name: Name
    value: Expr
    loc: Loc


@dataclass(frozen=True, slots=True)
class Output:
    """``output value as name``."""

    value: Expr
    name: Name | None
    loc: Loc


@dataclass(frozen=True, slots=True)
class Loss:
    """``loss value weight w as name``; ``uid`` is unique in the file."""

    uid: int
    value: Expr
    weight: Expr | None
    name: Name | None
    loc: Loc


@dataclass(frozen=True, slots=True)
class Layer:
    """``layer name = call``."""

    name: Name
    call: Call
    loc: Loc


@dataclass(frozen=True, slots=True)
class Default:
    """``default op(attributes)``; ``uid`` is unique in the file."""

    uid: int
    op: Name
    positional: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class For:
    """``for names in iterable { body }``."""

    names: tuple[Name, ...]
    iterable: Expr
    body: tuple[Statement, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class If:
    """``if c { .. } else if d { .. } else { .. }``."""

    branches: tuple[tuple[Expr, tuple[Statement, ...]], ...]
    otherwise: tuple[Statement, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Return:
    """``return a, b``."""

    values: tuple[Expr, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Bad:
    """A statement that did not parse; the names that it would have bound."""

    targets: tuple[Name, ...]
    loc: Loc


Statement = (
    Assign | Augment | Input | Parameter | State | Update | Output | Loss | Layer | Default | For | If | Return | Bad
)


# -- files -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Formal:
    """A parameter of a net or block: ``name = default``."""

    name: Name
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Definition:
    """``net name(formals) { body }`` or ``block ..``; ``loc`` is the head's name."""

    kind: str
    name: Name
    formals: tuple[Formal, ...]
    body: tuple[Statement, ...]
    loc: Loc


@dataclass(frozen=True, slots=True)
class Import:
    """``import "path" as name``."""

    path: str
    name: Name | None
    loc: Loc


Item = Definition | Import | Default | Bad


@dataclass(frozen=True, slots=True)
class File:
    """A parsed file."""

    name: str
    items: tuple[Item, ...]
