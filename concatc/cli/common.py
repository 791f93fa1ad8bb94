"""What the commands share besides the net: threads, writing files and results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from concatc.files import replacing
from concatc.runtime.threads import thread_count

threads_option = click.option(
    "--threads",
    type=int,
    metavar="N",
    callback=lambda context, option, n: None if n is None else thread_count(n),
    help="How many threads run the net; default: CONCATC_NUM_THREADS, else all cores.",
)


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file beside ``path``, then rename it, so that readers see the old file or the new one."""
    with replacing(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def finish(as_json: bool, text: str, /, **result: Any) -> None:
    """Write a command's result to stdout: its text, or the data for tools."""
    if as_json:
        json.dump({"ok": True, "diagnostics": [], **result}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    click.echo(text)


def quantity(count: int, noun: str) -> str:
    """``1 loss``, ``2 losses``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}es" if noun.endswith(("s", "ch")) else f"{count} {noun}s"
