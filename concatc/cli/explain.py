"""``concatc explain``: where a gradient comes from."""

from __future__ import annotations

from dataclasses import asdict

import click

from concatc.cli.common import finish
from concatc.cli.net_choice import NetChoice, takes_net

SCREEN_LINES = 40


@click.command()
@takes_net
@click.argument("name")
@click.option("--all", "show_all", is_flag=True, help="Everything, however many lines it takes.")
def command(
    choice: NetChoice,
    as_json: bool,
    name: str,
    show_all: bool,
) -> None:
    """Show every contribution to the gradient of the blob or parameter NAME.

    For each: from which loss, by which path, through which slice, split and accumulate.  Where paths meet, the gradient
    is named and explained once.  --json holds everything.
    """
    from concatc.inspect.explain import explain

    compilation = choice.compiled()
    train = compilation.phase("train")
    found = explain(train.level("joint"), train.level("split"), name)
    text = found.text(None if show_all else SCREEN_LINES)
    finish(as_json, text, net=compilation.name, name=name, **asdict(found), text=found.text())
