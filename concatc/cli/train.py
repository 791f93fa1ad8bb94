"""``concatc train``: train a net on a data file."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from concatc.cli.common import finish, threads_option
from concatc.cli.data import key_option, read_data
from concatc.cli.main import INTERRUPTED
from concatc.cli.net_choice import NetChoice, freeze_option, plan_options, show_checked, takes_net
from concatc.diagnostics import ConcatcError, Diagnostic, UsageError
from concatc.files import check_replaceable

if TYPE_CHECKING:
    from concatc.runtime.dataset import Dataset
    from concatc.runtime.module import CompiledModule
    from concatc.runtime.optimizers import Optimizer
    from concatc.runtime.training import Epoch


class StoppedError(Exception):
    """Training was interrupted behind a whole step."""

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch


class Interruption:
    """Ctrl-C and SIGTERM while training: the step that runs is finished, so the weights are those of whole steps.

    Before the first step, when there is nothing to save, and at the second signal it is a KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._has_stepped = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        # Python lets only the main thread set handlers.
        is_main = threading.current_thread() is threading.main_thread()
        before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self, epoch: int) -> None:
        """Call it behind each step."""
        self._has_stepped = True
        if self._is_asked:
            raise StoppedError(epoch)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked or not self._has_stepped:
            raise KeyboardInterrupt
        self._is_asked = True


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A .npz file; its keys are input names.")
@key_option
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1))
@click.option("--optimizer", "method", type=click.Choice(("sgd", "adam")), default="sgd", show_default=True)
@click.option("--lr", type=float, help="Learning rate; default 0.1 for sgd, 0.001 for adam.")
@click.option("--momentum", default=0.9, show_default=True, help="For sgd.")
@click.option("--weight-decay", default=0.0, show_default=True)
@click.option("--held-out", default=0.2, show_default=True, help="Share of the rows, the last ones, to test on.")
@click.option("--seed", default=0, show_default=True, help="Of initial values, order of rows, dropout.")
@freeze_option
@click.option("--weights", type=click.Path(path_type=Path), help="Start from this .safetensors file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Weights at the end; default FILE.safetensors.")
@takes_net
@plan_options
@threads_option
def command(
    choice: NetChoice,
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
    threads: int | None,
    weights: Path | None,
    output: Path | None,
) -> None:
    """Train a net, test it on held-out rows after each epoch, and write its weights.

    FILE is a net, a dump of one, or a directory that `concatc compile -o` wrote.

    Where branches have batch sizes of their own (x, y), each takes that many rows of a batch of x + y rows.

    Ctrl-C stops behind the step that runs, writes the weights so far and ends in 130.  A loss that is no finite number
    ends in 1 and writes nothing.
    """
    from concatc.runtime.dataset import Dataset
    from concatc.runtime.optimizers import SGD, Adam

    start = time.perf_counter()
    given = click.get_current_context().get_parameter_source("momentum") is not ParameterSource.DEFAULT
    if given and method != "sgd":
        raise UsageError(Diagnostic("--momentum goes with --optimizer sgd"))
    path = output or choice.file.with_suffix(".safetensors")
    check_replaceable(path)
    module, source = choice.module(threads)
    arrays, _ = read_data(data, keys, module.signature.inputs)
    dataset = Dataset(module.signature.inputs, arrays, held_out)
    optimizer: Optimizer = (
        SGD(0.1 if lr is None else lr, momentum, weight_decay)
        if method == "sgd"
        else Adam(1e-3 if lr is None else lr, weight_decay=weight_decay)
    )
    module.init(seed)
    if weights is not None:
        module.load(weights)
    try:
        history = _train(module, dataset, optimizer, epochs, seed, quiet=as_json)
    except StoppedError as stopped:
        module.save(path)
        message = f"interrupted in epoch {stopped.epoch}; the weights so far are written to {path}"
        click.echo(message, err=True)
        if as_json:
            diagnostics = [Diagnostic(message).to_json()]
            finish(as_json, "", ok=False, diagnostics=diagnostics, net=module.name, weights=str(path))
        raise click.exceptions.Exit(INTERRUPTED) from None
    module.save(path)
    taken = f"{epochs} epoch{'s' if epochs > 1 else ''} in {time.perf_counter() - start:.1f} s"
    finish(
        as_json,
        f"{taken}, compilation included; weights written to {path}",
        net=module.name,
        epochs=[{"epoch": e.number, "losses": e.losses, "accuracy": e.accuracy} for e in history],
        checked=show_checked(source),
        weights=str(path),
    )


def _train(
    module: CompiledModule, dataset: Dataset, optimizer: Optimizer, epochs: int, seed: int, quiet: bool
) -> list[Epoch]:
    from concatc.runtime.training import train

    interruption = Interruption()

    def on_step(epoch: int, losses: dict[str, float]) -> None:
        _check_loss(epoch, losses["loss"])
        interruption.check(epoch)

    def on_epoch(epoch: Epoch) -> None:
        if not quiet:
            click.echo(_line(epoch, epochs))
        if epoch.number < epochs:
            interruption.check(epoch.number)

    with interruption.caught():
        if quiet or not sys.stderr.isatty():
            return train(module, dataset, optimizer, epochs, seed, on_step, on_epoch)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("compiling", total=epochs * dataset.steps)

            def show_step(epoch: int, losses: dict[str, float]) -> None:
                progress.update(task, advance=1, description=f"epoch {epoch}/{epochs}  loss {losses['loss']:.4f}")
                on_step(epoch, losses)

            def show_epoch(epoch: Epoch) -> None:
                progress.print(_line(epoch, epochs), highlight=False)
                if epoch.number < epochs:
                    interruption.check(epoch.number)

            return train(module, dataset, optimizer, epochs, seed, show_step, show_epoch)


def _check_loss(epoch: int, loss: float) -> None:
    if not math.isfinite(loss):
        found = Diagnostic(
            f"the loss became {loss} in epoch {epoch}; no weights were written",
            help="a smaller --lr may help; see that the data hold no NaN",
        )
        raise ConcatcError([found])


def _line(epoch: Epoch, epochs: int) -> str:
    width = len(str(epochs))
    losses = "  ".join(f"{name} {value:.4f}" for name, value in epoch.losses.items() if _is_shown(name, epoch))
    accuracy = "" if epoch.accuracy is None else f"  held-out accuracy {100 * epoch.accuracy:.1f} %"
    return f"epoch {epoch.number:>{width}}/{epochs}  {losses}{accuracy}"


def _is_shown(name: str, epoch: Epoch) -> bool:
    # With one loss its own value says nothing beside the total.
    return name == "loss" or len(epoch.losses) > 2
