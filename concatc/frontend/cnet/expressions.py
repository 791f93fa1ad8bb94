"""Evaluation of expressions: numbers are computed exactly, blobs become ops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from concatc.diagnostics import Loc
from concatc.frontend.cnet import ast, habits, limits
from concatc.frontend.cnet.build_ast import RESERVED
from concatc.frontend.cnet.builtins import FUNCTIONS
from concatc.frontend.cnet.context import POISON, Frame, Poisoned, Run
from concatc.frontend.cnet.quotient import Quotient
from concatc.frontend.cnet.repair import LOST
from concatc.frontend.cnet.values import (
    NumberError,
    Range,
    arithmetic,
    as_float,
    as_layer,
    compare,
    describe,
    is_blob,
)
from concatc.frontend.cnet.walk import expressions_of, walk
from concatc.ir.core import Value
from concatc.loss_weights import Terms, is_quotient
from concatc.op import ShapeError, load_all_ops_once

if TYPE_CHECKING:
    from concatc.frontend.cnet.calls import Calls

_NO_COMMENT = "`//` divides numbers and rounds down; a comment starts with `#`"
_MOST_F32 = 3.4028235e38
_BLOB_OPS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}


def is_number(value: Any) -> bool:
    """Whether the value is a number of the language."""
    return isinstance(value, Fraction)


class Expressions:
    """Evaluates expressions in a frame; raises :class:`Poisoned` where an error was reported."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.calls: Calls
        self._rules: dict[type, Callable[[Frame, Any], Any]] = {
            ast.Number: lambda frame, e: e.value,
            ast.Boolean: lambda frame, e: e.value,
            ast.String: lambda frame, e: e.value,
            ast.Reference: self._reference,
            ast.ListExpr: lambda frame, e: tuple(self.evaluate(frame, item) for item in e.items),
            ast.Index: self._index,
            ast.Prefix: self._prefix,
            ast.Infix: self._infix,
            ast.Logic: self._logic,
            ast.Compare: self._compare,
            ast.Choice: self._choice,
            ast.RangeExpr: self._range,
            ast.Call: lambda frame, e: self.calls.call(frame, e, ()),
            ast.Pipeline: self._pipeline,
            ast.BadExpr: self._bad,
        }

    def evaluate(self, frame: Frame, expr: ast.Expr) -> Any:
        """The value of an expression."""
        self.run.enter(frame, expr.loc)
        try:
            return self._rules[type(expr)](frame, expr)
        finally:
            self.run.depth -= 1

    @staticmethod
    def _bad(frame: Frame, expr: ast.BadExpr) -> Any:
        raise Poisoned  # reported where the text was parsed

    # -- names ---------------------------------------------------------------------------------------------------------
    def _reference(self, frame: Frame, expr: ast.Reference) -> Any:
        head, *rest = expr.parts
        value = frame.lookup(head)
        if value is POISON:
            raise Poisoned
        if value is None:
            if head == "train" and not rest:
                return self.run.train
            self._unknown(frame, expr)
        if not rest:
            return value
        layer = as_layer(value)
        if layer is None:
            help = "`size(h, axis)` and `channels(h)` give sizes of a blob" if rest[0] in ("shape", "size") else None
            raise self.run.fail(frame, f"`{head}` is {describe(value)}, which has no parts", expr.loc, help=help)
        return self.calls.layer_parameter(frame, layer, rest, expr.loc)

    def _unknown(self, frame: Frame, expr: ast.Reference) -> None:
        head = expr.parts[0]
        if head in RESERVED:
            if self.run.sink.errors:
                raise Poisoned
            raise self.run.fail(frame, f"`{head}` is a word of the language, not a value", expr.loc)
        if LOST in frame.names.bound and self.run.sink.errors:
            raise Poisoned
        bound = frame.names.bound.get(head, [])
        above = [loc for loc in bound if (loc.line, loc.column) < (expr.loc.line, expr.loc.column)]
        if above:
            raise self.run.fail(
                frame,
                f"`{head}` has no value here",
                expr.loc,
                [f"line {above[-1].line} binds it, but only inside a loop or a branch that is not taken"],
            )
        if bound:
            raise self.run.fail(
                frame, f"`{head}` is used above its first binding", expr.loc, [f"see line {bound[0].line}"]
            )
        if head in FUNCTIONS or head in frame.unit.blocks or self._is_op(head):
            raise self.run.fail(frame, f"`{head}` is not a value", expr.loc, help=f"call it: `{head}(..)`")
        known = [name for scope in frame.scopes for name in scope.names]
        help = habits.name_help(head, [*known, "train"])
        raise self.run.fail(frame, f"there is no name `{head}`", expr.loc, help=help)

    def report_unknown(self, frame: Frame, statement: ast.Statement) -> None:
        """Names in a statement that failed at another place, which nothing of the net has."""
        for expr in (inner for outer in expressions_of(statement) for inner in walk(outer)):
            if isinstance(expr, ast.Reference) and self._is_nowhere(frame, expr.parts[0]):
                with contextlib.suppress(Poisoned):
                    self._reference(frame, expr)

    def _is_nowhere(self, frame: Frame, name: str) -> bool:
        known = name in RESERVED or name in FUNCTIONS or name in frame.unit.blocks or self._is_op(name)
        return not known and name not in frame.names.bound and frame.lookup(name) is None

    @staticmethod
    def _is_op(name: str) -> bool:
        ops = load_all_ops_once()
        return name in ops and not ops[name].internal

    # -- lists and ranges ----------------------------------------------------------------------------------------------
    def _index(self, frame: Frame, expr: ast.Index) -> Any:
        value = self.evaluate(frame, expr.base)
        for index in expr.indices:
            value = self._item(frame, value, index, expr.loc)
        return value

    def _item(self, frame: Frame, items: Any, expr: ast.Expr, loc: Loc) -> Any:
        index = self.integer(frame, expr, "an index")
        self.run.decisions.append(("[]", index))
        if is_blob(items):
            help = "`slice(h, axis=0, at=[1])` cuts a blob"
            raise self.run.fail(frame, "a blob has no items", loc, help=help)
        if not isinstance(items, tuple | Range):
            raise self.run.fail(frame, f"{describe(items)} has no items", loc)
        if not -len(items) <= index < len(items):
            raise self.run.fail(frame, f"index {index} is outside {describe(items)}", expr.loc)
        return items.item(index) if isinstance(items, Range) else items[index]

    def _range(self, frame: Frame, expr: ast.RangeExpr) -> Range:
        start = self.integer(frame, expr.start, "the start of a range")
        stop = self.integer(frame, expr.stop, "the end of a range")
        self.run.decisions.append(("..", start, stop))
        return Range(start, stop)

    # -- checked kinds -------------------------------------------------------------------------------------------------
    def integer(self, frame: Frame, expr: ast.Expr, what: str) -> int:
        """An expression that must be an integer."""
        value = self.evaluate(frame, expr)
        if not is_number(value):
            raise self.run.fail(frame, f"{what} must be an integer, not {describe(value)}", expr.loc)
        if value.denominator != 1:
            shown, help = self.run.integer_problem(value, expr.loc)
            raise self.run.fail(frame, f"{what} must be an integer, but {shown}", expr.loc, help=help)
        if abs(value) >= 2**63:
            raise self.run.fail(frame, f"{what} must fit 64 bits", expr.loc)
        return int(value)

    def number(self, frame: Frame, expr: ast.Expr, what: str) -> float:
        """An expression that must be a number."""
        return self._float(frame, self.evaluate(frame, expr), expr, what)

    def weight(self, frame: Frame, expr: ast.Expr) -> float | Terms:
        """The weight of a loss: a number, or what it is the quotient of, where it is made of dims."""
        value = self.evaluate(frame, expr)
        number = self._float(frame, value, expr, "the weight of a loss")
        return value.terms if isinstance(value, Quotient) and is_quotient(value.terms) else number

    def _float(self, frame: Frame, value: Any, expr: ast.Expr, what: str) -> float:
        if not is_number(value):
            raise self.run.fail(frame, f"{what} must be a number, not {describe(value)}", expr.loc)
        try:
            return as_float(value)
        except NumberError as error:
            raise self.run.fail(frame, str(error), expr.loc) from None

    def condition(self, frame: Frame, expr: ast.Expr, what: str = "a condition") -> bool:
        """An expression that must be true or false."""
        value = self.evaluate(frame, expr)
        if isinstance(value, bool):
            return value
        help = "a branch is chosen before the net runs; blobs have no values then" if is_blob(value) else None
        raise self.run.fail(frame, f"{what} must be true or false, not {describe(value)}", expr.loc, help=help)

    # -- operators -----------------------------------------------------------------------------------------------------
    def _logic(self, frame: Frame, expr: ast.Logic) -> bool:
        what = f"an operand of `{expr.operator}`"
        if expr.operator == "and":
            return all(self.condition(frame, item, what) for item in expr.items)
        return any(self.condition(frame, item, what) for item in expr.items)

    def _choice(self, frame: Frame, expr: ast.Choice) -> Any:
        return self.evaluate(frame, expr.yes if self.condition(frame, expr.condition) else expr.no)

    def _compare(self, frame: Frame, expr: ast.Compare) -> bool:
        left, right = self.evaluate(frame, expr.left), self.evaluate(frame, expr.right)
        if is_blob(left) or is_blob(right):
            help = "a comparison is decided before the net runs; blobs have no values then"
            raise self.run.fail(frame, "blobs cannot be compared", expr.loc, help=help)
        if is_number(left) and is_number(right):
            self.run.decisions.append((expr.operator, left, right))
            return compare(expr.operator, left, right)
        same = type(left) is type(right) and isinstance(left, bool | str | tuple)
        if same and expr.operator in ("==", "!="):
            return compare(expr.operator, left, right)
        raise self.run.fail(
            frame, f"`{expr.operator}` does not compare {describe(left)} with {describe(right)}", expr.loc
        )

    def _prefix(self, frame: Frame, expr: ast.Prefix) -> Any:
        if expr.operator == "not":
            return not self.condition(frame, expr.operand, "the operand of `not`")
        value = self.evaluate(frame, expr.operand)
        if is_number(value):
            return arithmetic("-", Fraction(0), value)
        if not is_blob(value):
            raise self.run.fail(frame, f"`-` does not work on {describe(value)}", expr.loc)
        return self._emit(frame, "neg", [(expr.operand, value)], expr.loc, {})

    def _infix(self, frame: Frame, expr: ast.Infix) -> Any:
        self.run.charge(frame, expr.loc, len(expr.rest))
        left_expr: ast.Expr | None = expr.first
        left = self.evaluate(frame, expr.first)
        for operator, right_expr in expr.rest:
            if operator == "//" and is_blob(left):
                raise self.run.fail(frame, f"`//` does not divide {describe(left)}", right_expr.loc, help=_NO_COMMENT)
            right = self.evaluate(frame, right_expr)
            end = right_expr.loc
            loc = Loc(expr.loc.file, expr.loc.line, expr.loc.column, end.end_line, end.end_column)
            left = self.combine(frame, operator, (left_expr, left), (right_expr, right), loc)
            left_expr = None
        return left

    def combine(
        self,
        frame: Frame,
        operator: str,
        left: tuple[ast.Expr | None, Any],
        right: tuple[ast.Expr | None, Any],
        loc: Loc,
    ) -> Any:
        """``left operator right``; each operand with its expression, for messages."""
        a, b = left[1], right[1]
        if is_number(a) and is_number(b):
            if operator in ("//", "%", "^"):
                self.run.decisions.append((operator, a, b))
            try:
                return arithmetic(operator, a, b)
            except NumberError as error:
                raise self.run.fail(frame, str(error), loc) from None
        if isinstance(a, tuple) and isinstance(b, tuple) and operator == "+":
            if len(a) + len(b) > limits.LIST_ITEMS:
                raise self.run.fail(frame, f"this list has more than {limits.LIST_ITEMS} items", loc)
            return a + b
        if is_blob(a) and is_blob(b) and operator in _BLOB_OPS:
            return self._emit(frame, _BLOB_OPS[operator], [left, right], loc, {})
        if is_blob(a) and is_number(b):
            return self._blob_with_number(frame, operator, left, b, loc)
        if is_number(a) and is_blob(b):
            return self._number_with_blob(frame, operator, a, right, loc)
        help = None
        if isinstance(a, tuple) and operator == "+":
            help = "`xs += [y]` appends to a list"
        if operator == "^" and is_blob(a) and is_blob(b):
            help = "the exponent is a number; `exp(y * log(x))` is x to the power of a blob y, for x above 0"
        if operator == "//":
            help = _NO_COMMENT
        raise self.run.fail(frame, f"`{operator}` does not join {describe(a)} and {describe(b)}", loc, help=help)

    def _blob_with_number(
        self, frame: Frame, operator: str, left: tuple[ast.Expr | None, Any], number: Fraction, loc: Loc
    ) -> Any:
        if operator == "/" and number == 0:
            raise self.run.fail(frame, "division by zero", loc)
        if operator == "^" and number in (2, Fraction(1, 2)):
            return self._emit(frame, "square" if number == 2 else "sqrt", [left], loc, {})
        rules: dict[str, tuple[str, Fraction]] = {
            "+": ("add_scalar", number),
            "-": ("add_scalar", -number),
            "*": ("mul_scalar", number),
            "^": ("pow_scalar", number),
        }
        if operator == "/":
            rules["/"] = ("mul_scalar", 1 / number)
        return self._with_scalar(frame, operator, rules, left, loc)

    def _number_with_blob(
        self, frame: Frame, operator: str, number: Fraction, right: tuple[ast.Expr | None, Any], loc: Loc
    ) -> Any:
        rules = {
            "+": ("add_scalar", number),
            "-": ("rsub_scalar", number),
            "*": ("mul_scalar", number),
            "/": ("rdiv_scalar", number),
        }
        return self._with_scalar(frame, operator, rules, right, loc)

    def _with_scalar(
        self,
        frame: Frame,
        operator: str,
        rules: dict[str, tuple[str, Fraction]],
        operand: tuple[ast.Expr | None, Any],
        loc: Loc,
    ) -> Any:
        if operator not in rules:
            what = describe(operand[1])
            if operator == "^":
                help = "`x ^ 2` is a power of a blob; for `2 ^ x` write `exp(x * 0.6931472)`, with the logarithm of 2"
                raise self.run.fail(frame, f"`^` takes a number as its exponent, not {what}", loc, help=help)
            raise self.run.fail(frame, f"`{operator}` does not join a number and {what}", loc)
        op, number = rules[operator]
        try:
            value = as_float(number)
        except NumberError as error:
            raise self.run.fail(frame, str(error), loc) from None
        if operand[1].dtype == "f32" and abs(value) > _MOST_F32:
            raise self.run.fail(frame, f"{value:g} is too large for f32", loc)
        try:
            return self._emit(frame, op, [operand], loc, {"value": value})
        except ShapeError as error:
            error.message = error.message.replace(op, f"`{operator}`")
            self.calls.shape_error(frame, error, loc, [operand])

    def _emit(
        self, frame: Frame, op: str, operands: list[tuple[ast.Expr | None, Any]], loc: Loc, attributes: dict[str, Any]
    ) -> Value:
        self.run.charge(frame, loc, 5)
        values = [value for _, value in operands]
        builder = self.run.graph.b
        builder.loc = loc
        try:
            return builder.emit(load_all_ops_once()[op](**attributes), values)[0]
        except ShapeError as error:
            if "value" in attributes:
                raise  # the op has no name in the language
            self.calls.shape_error(frame, error, loc, operands)

    # -- pipelines -----------------------------------------------------------------------------------------------------
    def _pipeline(self, frame: Frame, expr: ast.Pipeline) -> Any:
        value = self.evaluate(frame, expr.head)
        head: ast.Expr | None = expr.head
        for step in expr.steps:
            value = self.calls.call(frame, step, ((head, value),))
            head = None
        return value
