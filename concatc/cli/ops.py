"""``concatc ops``: the ops of the language."""

from __future__ import annotations

import click

from concatc.cli.common import finish
from concatc.diagnostics import Diagnostic, UsageError, did_you_mean


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Write the result to stdout as JSON, for tools.")
def command(name: str | None, as_json: bool) -> None:
    """List the ops that a net can call, or show the page of one."""
    from concatc.inspect.op_reference import page, signature
    from concatc.op import load_all_ops

    ops = load_all_ops()
    callable_ops = {n: cls for n, cls in ops.items() if not cls.internal}
    if name is None:
        lines = [signature(cls) for cls in callable_ops.values()]
        finish(as_json, "\n".join(lines), ops=list(callable_ops))
        return
    if name not in ops:
        hint = did_you_mean(name, callable_ops) or "`concatc ops` lists them"
        raise UsageError(Diagnostic(f"no op `{name}`", help=hint))
    text = page(ops[name]).rstrip()
    finish(as_json, text, name=name, page=text)
