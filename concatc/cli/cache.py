"""``concatc cache``: where compiled code lies, how much there is, and less of it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from concatc.cli.common import finish
from concatc.diagnostics import Diagnostic, UsageError
from concatc.sizes import parse_bytes

if TYPE_CHECKING:
    from concatc.targets.cache import Cache
    from concatc.targets.cache_upkeep import Entry

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
json_option = click.option("--json", "as_json", is_flag=True, help="Write the result to stdout as JSON, for tools.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Show where compiled code is kept and how much of it there is; list it, or remove some.

    The directory is $CONCATC_CACHE_DIR, else concatc in the user's cache directory. Entries may be removed at any time,
    while other processes use them: what is missing is compiled again.
    """
    if context.invoked_subcommand is not None:
        return
    from concatc.ir.comments import bytes_text
    from concatc.targets.cache_upkeep import KINDS, entries

    cache = _cache()
    found = entries(cache)
    lines = [f"{cache.directory}: {_amount(found)}"]
    kinds = {}
    for kind, title in KINDS.items():
        some = [entry for entry in found if entry.kind == kind]
        kinds[title] = {"entries": len(some), "bytes": sum(entry.size_bytes for entry in some)}
        lines.append(f"  {len(some):6}  {bytes_text(kinds[title]['bytes']):>10}  {title}")
    total = sum(entry.size_bytes for entry in found)
    text = "\n".join(lines)
    finish(as_json, text, directory=os.fspath(cache.directory), entries=len(found), bytes=total, kinds=kinds)


@command.command("list")
@json_option
def list_nets(as_json: bool) -> None:
    """List the nets that run without being compiled, those used last in front."""
    from concatc.targets.cache_upkeep import nets

    rows = []
    for entry, net in nets(_cache()):
        dims = ", ".join(f"{name} = {value}" for name, value in net["dims"].items())
        rows.append({"net": net["name"], "dims": net["dims"], "file": net["file"], "used": _day(entry.used_s)})
        rows[-1]["text"] = f"{_day(entry.used_s)}  {net['name']}({dims})  {net['file']}"
    lines = [str(row.pop("text")) for row in rows]
    finish(as_json, "\n".join(lines) if lines else "no nets", nets=rows)


@command.command()
@click.option("--max-size", metavar="SIZE", help="Keep what was used last, up to so much: 500MB.")
@click.option("--older-than", metavar="AGE", help="Remove what was not used for so long: 30d, 12h, 2w.")
@json_option
def prune(max_size: str | None, older_than: str | None, as_json: bool) -> None:
    """Remove what was not used for long, or the least used until the rest fits."""
    if max_size is None and older_than is None:
        raise UsageError(Diagnostic("prune needs --max-size, --older-than or both", help="such as --older-than 30d"))
    most_bytes = None if max_size is None else parse_bytes(max_size, "--max-size")
    _remove(None if older_than is None else _seconds(older_than), most_bytes, as_json)


@command.command()
@json_option
def clear(as_json: bool) -> None:
    """Remove every entry; whatever else the directory holds stays."""
    _remove(None, 0, as_json)


def _remove(older_than_s: float | None, most_bytes: int | None, as_json: bool) -> None:
    from concatc.targets.cache_upkeep import entries, remove, to_remove

    cache = _cache()
    found = entries(cache)
    doomed = to_remove(found, older_than_s, most_bytes)
    gone = remove(cache, doomed)
    kept = [entry for entry in found if entry not in set(gone)]
    text = f"removed {_amount(gone)} from {cache.directory}; {_amount(kept)} left"
    if len(gone) < len(doomed):
        text += f"; {len(doomed) - len(gone)} cannot be removed"
    sizes = {"removed_bytes": sum(e.size_bytes for e in gone), "left_bytes": sum(e.size_bytes for e in kept)}
    finish(as_json, text, directory=os.fspath(cache.directory), removed=len(gone), left=len(kept), **sizes)


def _cache() -> Cache:
    from concatc.targets.cache import Cache, default_directory

    cache = Cache(default_directory())
    problem = cache.problem()
    if problem is not None:
        help = "set CONCATC_CACHE_DIR to a directory of yours"
        raise UsageError(Diagnostic(f"the cache {cache.directory} cannot be used: {problem}", help=help))
    return cache


def _amount(found: Sequence[Entry]) -> str:
    from concatc.ir.comments import bytes_text

    count = "1 entry" if len(found) == 1 else f"{len(found)} entries"
    return f"{count}, {bytes_text(sum(entry.size_bytes for entry in found))}"


def _seconds(age: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", age, re.ASCII)
    if match is None:
        help = "write a number and s, m, h, d or w (seconds, minutes, hours, days, weeks), such as 30d"
        raise UsageError(Diagnostic(f"--older-than: `{age}` is no age", help=help))
    return float(match[1]) * UNITS_S[match[2]]


def _day(used_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(used_s))
