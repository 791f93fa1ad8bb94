"""The net that a command is given: FILE and the options that say which net it is and how it is compiled.

    @click.command()
    @takes_net
    @plan_options                    # of the options in `options.py` those that the command offers
    def command(choice: NetChoice, as_json: bool) -> None:
        compilation = choice.compiled()

Whatever a command offers that is a field of :class:`concatc.options.Options` is in the choice; the rest are parameters
of the command itself.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from concatc.diagnostics import Diagnostic, UsageError
from concatc.frontend.source import is_dump, read, read_dump
from concatc.options import Options
from concatc.sizes import parse_bytes
from concatc.stages import stage

if TYPE_CHECKING:
    from concatc.cached_net import CachedNet
    from concatc.compiler import Compilation
    from concatc.runtime.module import CompiledModule
    from concatc.runtime.source import Dim
    from concatc.written import WrittenModule

F = TypeVar("F", bound=Callable[..., Any])
Made = TypeVar("Made")


@dataclass(frozen=True)
class NetChoice:
    """A file (a ``.cnet`` text, a dump, for some commands a directory) and how it is compiled."""

    file: Path
    options: Options

    def compiled(self) -> Compilation:
        """Compile it, and show its warnings."""
        if self.is_written:
            help = "`concatc run`, `train` and `bench` take it, and concatc.load() in Python; here give its .cnet file"
            raise UsageError(Diagnostic(f"{self.file} is a written module, which holds no text of a net", help=help))
        with stage("imports"):
            from concatc.compiler import compile_net
        return self._made(compile_net)

    @property
    def is_written(self) -> bool:
        """Whether it is a directory that ``concatc compile -o`` wrote."""
        if not self.file.is_dir():
            return False
        from concatc.manifest import MANIFEST

        return (self.file / MANIFEST).is_file()

    def module(self, threads: int | None = None) -> tuple[CompiledModule, Compilation | CachedNet | WrittenModule]:
        """The same to be run, and where it comes from: a written module is loaded, at the dims that are asked for."""
        from concatc.runtime.module import CompiledModule

        source = self._written() if self.is_written else self.opened()
        module = CompiledModule(source, threads)
        return (module.with_dims(**self.options.dims) if self.is_written and self.options.dims else module), source

    def _written(self) -> WrittenModule:
        from concatc.written import open_module

        settled = Options(dims=self.options.dims)
        given = [f.name for f in fields(Options) if getattr(self.options, f.name) != getattr(settled, f.name)]
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            message = f"{self.file} is a written module: what {names} would choose is settled in it"
            raise UsageError(Diagnostic(message, help="give these options to `concatc compile -o`"))
        return open_module(self.file)

    def opened(self) -> Compilation | CachedNet:
        """A net or a dump to be run: a net that the cache holds is not compiled."""
        with stage("imports"):
            from concatc.opening import open_net
        return self._made(open_net)

    def _made(self, make: Callable[[str, str, Options], Made]) -> Made | Compilation:
        filename = os.fspath(self.file)
        if is_dump(self.file):
            from concatc.edited import EditedDump

            return EditedDump(read_dump(self.file), filename, self.options)
        text = read(self.file)
        made = make(text, filename, self.options)
        for warning in made.warnings:  # type: ignore[attr-defined]
            click.echo(warning.render({filename: text}), err=True)
        return made


def all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator; the help shows them in this order."""

    def decorate(command: F) -> F:
        return functools.reduce(lambda made, option: option(made), reversed(options), command)

    return decorate


_net_options = all_of(
    click.argument("file", type=click.Path(path_type=Path)),
    click.option("--dim", "dims", multiple=True, metavar="NAME=VALUE", help="Set a dim of the net; repeatable."),
    click.option("--net", metavar="NAME", help="The net, where the file holds several."),
    click.option("--target", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda or reference."),
    click.option("--dtype", default="f32", show_default=True, metavar="TYPE", help="f32 or f64."),
    click.option("--json", "as_json", is_flag=True, help="Write the result to stdout as JSON, for tools."),
)


def takes_net(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``choice``, a :class:`NetChoice`, and ``as_json`` beside the options of its own."""

    @functools.wraps(command)
    def with_choice(file: Path, dims: tuple[str, ...], **given: Any) -> None:
        chosen = {field.name: given.pop(field.name) for field in fields(Options) if field.name in given}
        command(choice=NetChoice(file, Options(dims=parse_dims(dims), **chosen)), **given)

    return _net_options(with_choice)


freeze_option = click.option(
    "--freeze", multiple=True, metavar="NAME", help="Do not train a parameter, or all below a path; repeatable."
)

plan_options = all_of(
    click.option(
        "--recompute",
        type=click.Choice(("none", "auto", "max")),
        default="auto",
        show_default=True,
        help="What the backward pass computes again rather than keeps.",
    ),
    click.option(
        "--precision",
        type=click.Choice(("exact", "high", "fast")),
        default="high",
        show_default=True,
        help="By which algorithms products may be computed: as written, as exactly, or with larger errors.",
    ),
    click.option(
        "--max-memory",
        metavar="SIZE",
        callback=lambda context, option, size: None if size is None else parse_bytes(size, "--max-memory"),
        help="A budget such as 64MiB for all that a phase needs on one thread: recompute more to keep it, or fail.",
    ),
    click.option("--verify-plan", is_flag=True, help="Check every plan, try small ones, and say what was checked."),
)

# What may be asked of a pass manager, by commands that run passes.
pass_options = all_of(
    click.option(
        "--print-after", multiple=True, metavar="PASS", help="Write the IR after a pass to stderr; repeatable."
    ),
    click.option("--print-after-all", is_flag=True, help="Write what each pass changed to stderr."),
    click.option("--verify-each", is_flag=True, help="Check the IR after every pass, and a plan."),
    click.option("--time-passes", is_flag=True, help="Write how long each pass took to stderr."),
)


def show_checked(compilation: Compilation | CachedNet | WrittenModule) -> list[str]:
    """Write to stderr what ``--verify-plan`` checked, and return it."""
    found = [f"{phase}: {checked}" for phase, checked in compilation.checked]
    for line in found:
        click.echo(f"checked {line}", err=True)
    return found


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
