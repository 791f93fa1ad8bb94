"""What a net declares or computes for nothing, to be warned of: names that nothing reads, parameters without effect."""

from __future__ import annotations

from collections.abc import Iterator

from concatc.diagnostics import Diagnostic, Loc
from concatc.frontend.cnet import ast
from concatc.frontend.cnet.names import holds_bad
from concatc.frontend.cnet.walk import all_statements, bodies, expressions_of, walk
from concatc.ir.core import FuncOp, Operation, Value

SHOWN = 3
DECLARED: dict[type, str] = {ast.Input: "input", ast.Parameter: "parameter", ast.State: "state", ast.Layer: "layer"}


def unused_names(definition: ast.Definition) -> Iterator[tuple[str, ast.Name]]:
    """The dims, inputs, parameters and layers that nothing in the net reads, in any phase, each with what it is."""
    used: set[str] = set()
    statements = list(all_statements(definition.body))
    defaults = [formal.default for formal in definition.formals if formal.default is not None]
    for expression in (*defaults, *(e for statement in statements for e in expressions_of(statement))):
        for inner in walk(expression):
            if isinstance(inner, ast.Reference):
                used.add(inner.parts[0])
            elif isinstance(inner, ast.Call):
                used.add(inner.callee[0])
    used |= {statement.target.text for statement in statements if isinstance(statement, ast.Augment)}
    used |= {statement.name.text for statement in statements if isinstance(statement, ast.Update)}
    if not holds_bad(definition.body):
        yield from (("dim", formal.name) for formal in definition.formals if formal.name.text not in used)
    for statement in statements:
        if isinstance(statement, ast.Input | ast.Parameter | ast.State | ast.Layer) and statement.name.text not in used:
            yield DECLARED[type(statement)], statement.name


def behind_returns(definition: ast.Definition) -> Iterator[ast.Statement]:
    """The first statement behind each `return` of a body: it never runs."""
    statements = all_statements(definition.body)
    for body in (definition.body, *(inner for statement in statements for inner in bodies(statement))):
        returns = (k for k, statement in enumerate(body) if isinstance(statement, ast.Return))
        yield from body[next(returns, len(body)) + 1 :][:1]


def dead_parameters(net: FuncOp) -> Iterator[Diagnostic]:
    """A warning for each place that makes what nobody reads, with the parameters that are there for it alone."""
    live: set[Operation] = set()
    for op in reversed(net.ops):
        if op.name == "func.return" or any(use.op in live for result in op.results for use in result.uses):
            live.add(op)
    params = net.arguments("param")
    dead = {value for value in params.values() if value.uses and not any(use.op in live for use in value.uses)}
    found: dict[Loc | None, set[Value]] = {}
    for op in net.ops if dead else ():
        if op not in live and not any(result.uses for result in op.results):
            behind = _behind(op) & dead
            dead -= behind  # said once
            if behind:
                found.setdefault(op.loc, set()).update(behind)
    for loc, values in found.items():
        names = [f"`{name}`" for name, value in params.items() if value in values]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield Diagnostic(
            "what this makes reaches no output and no loss",
            loc,
            (f"parameters that are there for nothing: {', '.join(names[:SHOWN])}{more}",),
            "`output h` hands a blob to the caller, `loss ..` trains what it reads",
            "warning",
        )


def _behind(last: Operation) -> set[Value]:
    """All values that a result is made of."""
    found: set[Value] = set()
    stack = [last]
    while stack:
        fresh = [value for value in stack.pop().operands if value not in found]
        found.update(fresh)
        stack += [value.op for value in fresh if value.op is not None]
    return found
