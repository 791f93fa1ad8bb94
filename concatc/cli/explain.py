"""``concatc explain``: where a gradient comes from."""

from __future__ import annotations

from pathlib import Path

import click

from concatc.cli.common import compile_file, finish, net_options


@click.command()
@net_options
@click.argument("name")
def command(
    file: Path, dims: tuple[str, ...], net: str | None, target: str, dtype: str, as_json: bool, name: str
) -> None:
    """Show every contribution to the gradient of the blob or parameter NAME.

    For each: from which loss, by which path, through which slice, split and accumulate.
    """
    from concatc.inspect.explain import explain

    compilation = compile_file(file, dims, net, target, dtype)
    train = compilation.phase("train")
    text = explain(train.level("joint"), train.level("split"), name)
    finish(as_json, text.rstrip(), net=compilation.name, name=name, text=text)
