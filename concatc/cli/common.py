"""What the commands share: options, reading nets, writing files and results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import replacing
from concatc.frontend.source import DUMP_SUFFIX, read, read_dump
from concatc.runtime.threads import thread_count
from concatc.sizes import parse_bytes
from concatc.stages import stage

if TYPE_CHECKING:
    from concatc.cached_net import CachedNet
    from concatc.compiler import Compilation
    from concatc.options import Options
    from concatc.runtime.source import Dim

F = TypeVar("F", bound=Callable[..., Any])


def net_options(command: F) -> F:
    """The options of every command that compiles a net."""
    options: Sequence[Callable[[F], F]] = (
        click.argument("file", type=click.Path(path_type=Path)),
        click.option("--dim", "dims", multiple=True, metavar="NAME=VALUE", help="Set a dim of the net; repeatable."),
        click.option("--net", metavar="NAME", help="The net, where the file holds several."),
        click.option("--target", default="cpu", show_default=True, metavar="NAME", help="cpu or reference."),
        click.option("--dtype", default="f32", show_default=True, metavar="TYPE", help="f32 or f64."),
        click.option("--json", "as_json", is_flag=True, help="Write the result to stdout as JSON, for tools."),
    )
    for option in reversed(options):
        command = option(command)
    return command


recompute_option = click.option(
    "--recompute",
    type=click.Choice(("none", "auto", "max")),
    default="auto",
    show_default=True,
    help="What the backward pass computes again rather than keeps.",
)


precision_option = click.option(
    "--precision",
    type=click.Choice(("exact", "high", "fast")),
    default="high",
    show_default=True,
    help="By which algorithms convolutions may be computed: as written, as exactly, or with larger errors.",
)


def plan_options(command: F) -> F:
    """The options of commands that make plans."""
    options: Sequence[Callable[[F], F]] = (
        click.option(
            "--max-memory",
            metavar="SIZE",
            callback=lambda context, option, size: None if size is None else parse_bytes(size, "--max-memory"),
            help="A budget such as 64MiB for all that a phase needs: recompute more to keep it, or fail.",
        ),
        click.option("--verify-plan", is_flag=True, help="Check every plan, try small ones, and say what was checked."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def show_checked(compilation: Compilation | CachedNet) -> list[str]:
    """Write to stderr what ``--verify-plan`` checked, and return it."""
    found = [f"{phase}: {checked}" for phase, checked in compilation.checked]
    for line in found:
        click.echo(f"checked {line}", err=True)
    return found


threads_option = click.option(
    "--threads",
    type=int,
    metavar="N",
    callback=lambda context, option, n: None if n is None else thread_count(n),
    help="How many threads run the net; default: CONCATC_NUM_THREADS, else all cores.",
)


freeze_option = click.option(
    "--freeze", multiple=True, metavar="NAME", help="Do not train a parameter, or all below a path; repeatable."
)


def compile_file(file: Path, dims: Iterable[str], net: str | None, target: str, dtype: str, **more: Any) -> Compilation:
    """Compile a ``.cnet`` file, or a dump, and show its warnings; ``more`` are options (`options.py`)."""
    with stage("imports"):
        from concatc.compiler import compile_net

    text, options = _read(file, dims, net, target, dtype, more)
    if file.suffix == DUMP_SUFFIX:
        return _edited(text, file, options)
    compilation = compile_net(text, os.fspath(file), options)
    _show_warnings(file, text, compilation.warnings)
    return compilation


def open_file(
    file: Path, dims: Iterable[str], net: str | None, target: str, dtype: str, **more: Any
) -> Compilation | CachedNet:
    """The same to be run: a net that the cache holds is not compiled."""
    with stage("imports"):
        from concatc.opening import open_net

    text, options = _read(file, dims, net, target, dtype, more)
    if file.suffix == DUMP_SUFFIX:
        return _edited(text, file, options)
    found = open_net(text, os.fspath(file), options)
    _show_warnings(file, text, found.warnings)
    return found


def _read(
    file: Path, dims: Iterable[str], net: str | None, target: str, dtype: str, more: dict[str, Any]
) -> tuple[str, Options]:
    from concatc.options import Options

    options = Options(target=target, dims=parse_dims(dims), net=net, dtype=dtype, **more)
    return read_dump(file) if file.suffix == DUMP_SUFFIX else read(file), options


def _edited(text: str, file: Path, options: Options) -> Compilation:
    from concatc.edited import EditedDump

    return EditedDump(text, os.fspath(file), options)


def _show_warnings(file: Path, text: str, warnings: Iterable[Diagnostic]) -> None:
    for warning in warnings:
        click.echo(warning.render({os.fspath(file): text}), err=True)


def parse_dims(given: Iterable[str]) -> dict[str, Dim]:
    """``["x=128"]`` as a dict; raises one UsageError for all that are no ``NAME=VALUE``."""
    dims: dict[str, Dim] = {}
    problems = []
    for text in given:
        name, equals, value = text.partition("=")
        if not name.isidentifier() or not equals or not value.strip():
            problems.append(Diagnostic(f"--dim {text}: expected NAME=VALUE, such as --dim x=128"))
        elif dims.setdefault(name, _dim(value.strip())) != _dim(value.strip()):
            problems.append(Diagnostic(f"--dim {text}: `{name}` is {dims[name]} already"))
    if problems:
        raise UsageError(problems)
    return dims


def _dim(text: str) -> Dim:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip('"')


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file beside ``path``, then rename it, so that readers see the old file or the new one."""
    content = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    with replacing(path) as part:
        part.write_bytes(content)


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
