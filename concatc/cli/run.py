"""``concatc run``: run a net once."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from concatc.cli.common import finish, threads_option, write_file
from concatc.cli.data import key_option, read_data
from concatc.cli.net_choice import NetChoice, plan_options, show_checked, takes_net
from concatc.cli.progress import show_progress
from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import check_replaceable

if TYPE_CHECKING:
    from concatc.runtime.signature import Input


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="A .npz file; its keys are input names.")
@key_option
@click.option("--weights", type=click.Path(path_type=Path), help="A .safetensors file; default: initial values.")
@click.option("--seed", default=0, show_default=True, help="Of initial values, and of dropout.")
@click.option("--train", "training", is_flag=True, help="The training phase: losses too, dropout on.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the results to this .npz file.")
@takes_net
@plan_options
@threads_option
def command(
    choice: NetChoice,
    as_json: bool,
    threads: int | None,
    data: Path | None,
    keys: tuple[str, ...],
    weights: Path | None,
    seed: int,
    training: bool,
    output: Path | None,
) -> None:
    """Run a net once on all rows of a data file and show its outputs.

    FILE is a net, a dump of one, or a directory that `concatc compile -o` wrote.

    Where branches have batch sizes of their own (x, y) and the data one row for all of them, they share the rows, as in
    training, in the proportion of x to y.
    """
    import numpy as np

    from concatc.runtime.dataset import as_one_batch
    from concatc.runtime.training import accuracy_of

    show_progress()
    if output is not None:
        check_replaceable(output)  # before the work, not behind it
    if keys and data is None:
        raise UsageError("--key goes with --data")
    module, source = choice.module(threads)
    if source.no_inference is not None and not training:
        click.echo(f"{choice.file} is of training: its forward pass runs, losses included", err=True)
        training = True
    inputs = module.signature.inputs
    arrays, key_of = read_data(data, keys, inputs) if data is not None else ({}, {})
    if training or module.outputs:
        _check_data(data, inputs if training else source.phase("infer").signature.inputs, arrays)
    batch, parts = as_one_batch(inputs, arrays, key_of)
    module.init(seed)
    if weights is not None:
        module.load(weights)
    results = module.forward(batch) if training else module.eval(batch)
    accuracy = None if training else accuracy_of(module, results, batch)
    if output is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **results)  # type: ignore[arg-type]
        write_file(output, buffer.getvalue())
    lines = [f"{name} takes rows {rows.start}..{rows.stop} of the data" for name, rows in parts.items()]
    lines += [_line(name, np.asarray(value)) for name, value in results.items()]
    if accuracy is not None:
        lines.append(f"accuracy {100 * accuracy:.1f} %")
    shapes = {name: list(np.shape(value)) for name, value in results.items()}
    finish(
        as_json,
        "\n".join(lines),
        net=module.name,
        results=shapes,
        accuracy=accuracy,
        checked=show_checked(source),
        output=str(output) if output else None,
    )


def _check_data(data: Path | None, needed: Mapping[str, Input], arrays: Mapping[str, Any]) -> None:
    from concatc.runtime.dataset import check_names

    if data is None and needed:
        names = ", ".join(f"`{name}`" for name in needed)
        raise UsageError(Diagnostic(f"the net reads {names}", help="give a file that holds them: --data FILE.npz"))
    check_names(needed, arrays)


def _line(name: str, value: Any) -> str:
    if value.ndim == 0:
        return f"{name}: {float(value):.6g}"
    if value.size == 0:
        return f"{name}: {value.dtype}{list(value.shape)}"
    return f"{name}: {value.dtype}{list(value.shape)}, mean {value.mean():.4g}, {value.min():.4g} to {value.max():.4g}"
