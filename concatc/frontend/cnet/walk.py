"""Walks over the syntax tree."""

from __future__ import annotations

from collections.abc import Iterator

from concatc.frontend.cnet import ast


def expressions_of(statement: ast.Statement) -> Iterator[ast.Expr]:
    """The expressions of a statement itself, without those of its bodies, in order of evaluation."""
    if isinstance(statement, ast.Assign | ast.Augment | ast.Update | ast.Output):
        yield statement.value
    elif isinstance(statement, ast.Input):
        yield from statement.type.extents
    elif isinstance(statement, ast.Parameter | ast.State):
        yield from statement.type.extents
        if statement.init is not None:
            yield statement.init
        if isinstance(statement, ast.Parameter):
            yield from (k.value for k in statement.keywords)
    elif isinstance(statement, ast.Loss):
        yield statement.value
        if statement.weight is not None:
            yield statement.weight
    elif isinstance(statement, ast.Layer):
        yield statement.call
    elif isinstance(statement, ast.Default):
        yield from statement.positional
        yield from (k.value for k in statement.keywords)
    elif isinstance(statement, ast.For):
        yield statement.iterable
    elif isinstance(statement, ast.If):
        yield from (condition for condition, _ in statement.branches)
    elif isinstance(statement, ast.Return):
        yield from statement.values


def bodies(statement: ast.Statement) -> Iterator[tuple[ast.Statement, ...]]:
    """The bodies inside a statement."""
    if isinstance(statement, ast.For):
        yield statement.body
    elif isinstance(statement, ast.If):
        yield from (body for _, body in statement.branches)
        yield statement.otherwise


def all_statements(body: tuple[ast.Statement, ...]) -> Iterator[ast.Statement]:
    """The statements of a body, and those inside them."""
    for statement in body:
        yield statement
        for inner in bodies(statement):
            yield from all_statements(inner)


def operands(expr: ast.Expr) -> Iterator[ast.Expr]:
    """The expressions directly inside an expression, in order of evaluation."""
    if isinstance(expr, ast.ListExpr | ast.Logic):
        yield from expr.items
    elif isinstance(expr, ast.Index):
        yield from (expr.base, *expr.indices)
    elif isinstance(expr, ast.Prefix):
        yield expr.operand
    elif isinstance(expr, ast.Infix):
        yield expr.first
        yield from (x for _, x in expr.rest)
    elif isinstance(expr, ast.Compare):
        yield from (expr.left, expr.right)
    elif isinstance(expr, ast.Choice):
        yield from (expr.condition, expr.yes, expr.no)
    elif isinstance(expr, ast.RangeExpr):
        yield from (expr.start, expr.stop)
    elif isinstance(expr, ast.Call):
        yield from expr.positional
        yield from (k.value for k in expr.keywords)
    elif isinstance(expr, ast.Pipeline):
        yield expr.head
        yield from expr.steps


def walk(expr: ast.Expr) -> Iterator[ast.Expr]:
    """The expression and all inside it; a call comes after its arguments."""
    for inner in operands(expr):
        yield from walk(inner)
    yield expr
