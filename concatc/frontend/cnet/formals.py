"""The arguments of a call of a block, bound to the block's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from concatc.diagnostics import Loc, did_you_mean
from concatc.frontend.cnet import ast
from concatc.frontend.cnet.context import POISON, Frame, Poisoned, Run
from concatc.frontend.cnet.expressions import Expressions
from concatc.frontend.cnet.project import Block

# A positional argument: its expression where there is one (for messages), its value.
Argument = tuple[ast.Expr | None, Any]


def bind_formals(
    run: Run,
    expressions: Expressions,
    frame: Frame,
    inner: Frame,
    block: Block,
    loc: Loc,
    positional: Sequence[Argument],
    keywords: dict[str, tuple[ast.Keyword, Any]],
) -> None:
    """Bind the arguments in ``inner``; ``frame`` is where the call stands, at ``loc``."""
    formals = {f.name.text: f for f in block.definition.formals}
    if len(formals) < len(block.definition.formals):
        raise Poisoned  # a name stands twice, which is reported
    if any(isinstance(f.default, ast.BadExpr) for f in formals.values()):
        _bind_doubtful_formals(inner, formals, positional, keywords)
        return
    takes = f"`{block.name}({', '.join(formals)})`, from {block.definition.loc.file}:{block.definition.loc.line}"
    if len(positional) > len(formals):
        extra = positional[len(formals)][0]
        where = extra.loc if extra is not None and extra.loc.file == loc.file else loc
        raise run.fail(frame, f"block `{block.name}` takes {count(len(formals), 'argument')}", where, [takes])
    given = dict(zip(formals, (value for _, value in positional), strict=False))
    failed = False
    for key, (keyword, value) in keywords.items():
        if key in formals and key not in given:
            given[key] = value
            continue
        problem = "is given twice" if key in formals else f"is no parameter of block `{block.name}`"
        help = None if key in formals else did_you_mean(key, formals)
        run.report(frame, f"`{key}` {problem}", keyword.loc, [takes], help)
        failed = True
    missing = [name for name, f in formals.items() if name not in given and f.default is None]
    if missing and not failed:
        which = ", ".join(f"`{m}`" for m in missing)
        raise run.fail(frame, f"block `{block.name}` needs {which}", loc, [takes])
    if failed:
        raise Poisoned
    for name, formal in formals.items():
        if name not in given:
            assert formal.default is not None
            given[name] = expressions.evaluate(inner, formal.default)
        inner.scopes[0].names[name] = given[name]


def _bind_doubtful_formals(
    inner: Frame,
    formals: dict[str, ast.Formal],
    positional: Sequence[Argument],
    keywords: dict[str, tuple[ast.Keyword, Any]],
) -> None:
    """Bind what a call gives to a block whose head did not parse; the rest is silent."""
    given = dict(zip(formals, (value for _, value in positional), strict=False))
    given |= {key: value for key, (_, value) in keywords.items()}
    inner.scopes[0].names.update({name: given.get(name, POISON) for name in formals})


def count(number: int, noun: str) -> str:
    """``1 argument``, ``2 arguments``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
