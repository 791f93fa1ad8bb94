"""``concatc opt``: run passes over a dump."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from concatc.cli.common import write_file
from concatc.cli.net_choice import pass_options
from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import check_replaceable


def _list_passes(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from concatc.passes.registry import load_all_passes

    passes = load_all_passes()
    width = max(map(len, passes))
    for name, cls in passes.items():
        first_line = (sys.modules[cls.__module__].__doc__ or "").strip().partition("\n")[0]
        click.echo(f"{name:<{width}}  {first_line.partition(': ')[2] or first_line}")
    ctx.exit()


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--passes", default="", metavar="A,B", help="Passes in order, with options: fuse{max_ops=8},dce.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_passes, help="List the passes.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write there, not to stdout.")
@pass_options
@click.option("--plain", is_flag=True, help="Neither locations nor comments nor short names for types.")
def command(
    file: Path,
    passes: str,
    output: Path | None,
    print_after: tuple[str, ...],
    print_after_all: bool,
    verify_each: bool,
    time_passes: bool,
    plain: bool,
) -> None:
    """Parse the IR in FILE (``-`` for stdin), verify it, run passes over it, and print the result."""
    from concatc.edited import STEPS, level_of
    from concatc.ir.passes import PassManager
    from concatc.ir.printer import PLAIN
    from concatc.passes.dumps import READING, dump_text, load_dump
    from concatc.passes.registry import parse_pipeline
    from concatc.passes.verify import verify

    if output is not None:
        check_replaceable(output)
    pipeline = parse_pipeline(passes)
    if file.suffix == ".cnet":
        how = f"concatc compile {file} --emit ir --level graph > graph.mlir"
        raise UsageError(Diagnostic(f"{file} is a net; passes run on its IR", help=f"`{how}` writes it"))
    module = load_dump(_read(file), str(file))
    if any(step.name != "verify" for step in pipeline) and (level := level_of(module)) in STEPS:
        hint = f"edit it as it is, or run passes over 04-kernels.mlir and before; `concatc compile {file}` compiles it"
        raise UsageError(Diagnostic(f"{file} is a dump of the level {level}; passes rewrite graphs", help=hint))
    style = PLAIN if plain else READING
    manager = PassManager(
        pipeline,
        verify=verify,
        verify_each=verify_each,
        print_after=print_after,
        print_after_all=print_after_all,
        time_passes=time_passes,
        style=style,
    )
    manager.run(module)
    text = dump_text(module, style)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_file(output, text)


def _read(file: Path) -> str:
    try:
        if str(file) == "-":
            return sys.stdin.read()
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: byte {error.start}") from None
