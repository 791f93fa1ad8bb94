"""``concatc train``: train a net on a data file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from concatc.cli.common import compile_file, finish, net_options
from concatc.diagnostics import Diagnostic, UsageError

if TYPE_CHECKING:
    from concatc.cli.npz import NpzFile
    from concatc.runtime.dataset import Dataset
    from concatc.runtime.module import CompiledModule
    from concatc.runtime.optimizers import Optimizer
    from concatc.runtime.training import Epoch


@click.command()
@net_options
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A .npz file; its keys are input names.")
@click.option("--key", "keys", multiple=True, metavar="INPUT=KEY", help="Take an input from another key; repeatable.")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1))
@click.option("--optimizer", "method", type=click.Choice(("sgd", "adam")), default="sgd", show_default=True)
@click.option("--lr", type=float, help="Learning rate; default 0.1 for sgd, 0.001 for adam.")
@click.option("--momentum", default=0.9, show_default=True, help="For sgd.")
@click.option("--weight-decay", default=0.0, show_default=True)
@click.option("--held-out", default=0.2, show_default=True, help="Share of the rows, the last ones, to test on.")
@click.option("--seed", default=0, show_default=True, help="Of initial values, order of rows, dropout.")
@click.option("--weights", type=click.Path(path_type=Path), help="Start from this .safetensors file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Weights at the end; default FILE.safetensors.")
def command(
    file: Path,
    dims: tuple[str, ...],
    net: str | None,
    target: str,
    dtype: str,
    as_json: bool,
    data: Path,
    keys: tuple[str, ...],
    epochs: int,
    method: str,
    lr: float | None,
    momentum: float,
    weight_decay: float,
    held_out: float,
    seed: int,
    weights: Path | None,
    output: Path | None,
) -> None:
    """Train a net, test it on held-out rows after each epoch, and write its weights.

    Where branches have batch sizes of their own (x, y), each takes that many rows of a batch of x + y rows.
    """
    from concatc.cli.npz import NpzFile
    from concatc.runtime.dataset import Dataset
    from concatc.runtime.module import CompiledModule
    from concatc.runtime.optimizers import SGD, Adam

    start = time.perf_counter()
    module = CompiledModule(compile_file(file, dims, net, target, dtype))
    dataset = Dataset(module.signature.inputs, _renamed(NpzFile(data), keys), held_out)
    optimizer: Optimizer = (
        SGD(0.1 if lr is None else lr, momentum, weight_decay)
        if method == "sgd"
        else Adam(1e-3 if lr is None else lr, weight_decay=weight_decay)
    )
    module.init(seed)
    if weights is not None:
        module.load(weights)
    history = _train(module, dataset, optimizer, epochs, seed, quiet=as_json)
    path = output or file.with_suffix(".safetensors")
    module.save(path)
    finish(
        as_json,
        f"{epochs} epochs in {time.perf_counter() - start:.1f} s, compilation included; weights written to {path}",
        net=module.name,
        epochs=[{"epoch": e.number, "losses": e.losses, "accuracy": e.accuracy} for e in history],
        weights=str(path),
    )


def _train(
    module: CompiledModule, dataset: Dataset, optimizer: Optimizer, epochs: int, seed: int, quiet: bool
) -> list[Epoch]:
    from concatc.runtime.training import train

    if quiet:
        return train(module, dataset, optimizer, epochs, seed)
    if not sys.stderr.isatty():
        return train(module, dataset, optimizer, epochs, seed, on_epoch=lambda e: click.echo(_line(e, epochs)))
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("compiling", total=epochs * dataset.steps)

        def on_step(epoch: int, losses: dict[str, float]) -> None:
            progress.update(task, advance=1, description=f"epoch {epoch}/{epochs}  loss {losses['loss']:.4f}")

        def on_epoch(epoch: Epoch) -> None:
            progress.print(_line(epoch, epochs), highlight=False)

        return train(module, dataset, optimizer, epochs, seed, on_step, on_epoch)


def _line(epoch: Epoch, epochs: int) -> str:
    width = len(str(epochs))
    losses = "  ".join(f"{name} {value:.4f}" for name, value in epoch.losses.items() if _is_shown(name, epoch))
    accuracy = "" if epoch.accuracy is None else f"  held-out accuracy {100 * epoch.accuracy:.1f} %"
    return f"epoch {epoch.number:>{width}}/{epochs}  {losses}{accuracy}"


def _is_shown(name: str, epoch: Epoch) -> bool:
    # With one loss its own value says nothing beside the total.
    return name == "loss" or len(epoch.losses) > 2


def _renamed(arrays: NpzFile, keys: tuple[str, ...]) -> NpzFile:
    problems = []
    renamed = {}
    for text in keys:
        name, _, key = text.partition("=")
        if not name or key not in arrays:
            held = ", ".join(f"`{k}`" for k in arrays)
            expected = f"--key {text}: expected INPUT=KEY with a key of the data"
            problems.append(Diagnostic(expected, help=f"there are {held}"))
            continue
        renamed[name] = key
    if problems:
        raise UsageError(problems)
    return arrays.renamed(renamed)
