"""``concatc bench``: how long a step takes, and what each kernel makes of the machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from concatc.cli.common import finish, write_file
from concatc.cli.net_choice import NetChoice, plan_options, show_checked, takes_net
from concatc.cli.progress import show_progress
from concatc.diagnostics import Diagnostic, UsageError
from concatc.files import check_replaceable

if TYPE_CHECKING:
    from concatc.compiler import Compilation
    from concatc.runtime.module import CompiledModule
    from concatc.runtime.optimizers import Optimizer
    from concatc.runtime.signature import Signature
    from concatc.runtime.source import Dim, Phase


@click.command()
@click.option("--batch", type=click.IntRange(1), metavar="N", help="The batch size: --dim n=N, whatever its name is.")
@click.option("--train/--eval", "training", default=None, help="What to run; default: training where there is a loss.")
@click.option("--optimizer", "method", type=click.Choice(("sgd", "adam")), help="Update parameters in each step.")
@click.option("--rounds", type=click.IntRange(1), help="How many; default: as many as take two seconds, 5 to 500.")
@click.option("--rows", default=20, show_default=True, type=click.IntRange(0), help="Of the table; 0: every kernel.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a trace for Perfetto or chrome://tracing.")
@click.option("--cpu-time", is_flag=True, help="Time of the processor in this thread, for busy machines.")
@click.option("--measure-peaks", is_flag=True, help="Measure again what the machine can do.")
@takes_net
@plan_options
def command(
    choice: NetChoice,
    as_json: bool,
    batch: int | None,
    training: bool | None,
    method: str | None,
    rounds: int | None,
    rows: int,
    trace: Path | None,
    cpu_time: bool,
    measure_peaks: bool,
) -> None:
    """Time a step of a net, kernel by kernel, on made-up data.

    FILE is a net, a dump of one, or a directory that `concatc compile -o` wrote.  For each kernel the table says how
    long it takes, how many multiply-adds of contractions (GFLOP/s) and bytes (GB/s) it does, and which share of what
    this machine could do that is.  docs/PROFILE.md says how to read it.
    """
    start = time.perf_counter()
    show_progress()
    if trace is not None:
        check_replaceable(trace)
    checked: list[str] = []
    if choice.is_written:
        module, _ = choice.module()
        if batch is not None:
            module = module.with_dims(**{_batch_dim(module.signature, choice.options.dims, batch): batch})
    else:
        compilation = choice.compiled()
        module = _module(compilation, choice.options.dims, batch)
        checked = show_checked(compilation)
    phase: Phase = "train" if (bool(module.signature.loss_weights) if training is None else training) else "infer"
    profile = module.profile(
        phase=phase,
        rounds=rounds,
        optimizer=_optimizer(method, phase),
        measure_peaks=measure_peaks,
        cpu_time=cpu_time,
    )
    ready_s = time.perf_counter() - start - profile.measured_ns / 1e9
    if trace is not None:
        write_file(trace, json.dumps(profile.trace()))
    ready = f"ready after {ready_s:.2f} s: compilation, or code from the cache, and a first step"
    text = f"{profile.text(rows)}\n\n{ready}" + (f"\ntrace written to {trace}" if trace is not None else "")
    finish(
        as_json,
        text,
        **profile.data(),
        ready_s=ready_s,
        checked=checked,
        trace=os.fspath(trace) if trace is not None else None,
    )


def _module(compilation: Compilation, given: Mapping[str, Dim], batch: int | None) -> CompiledModule:
    from concatc.runtime.module import CompiledModule

    if batch is not None:
        name = _batch_dim(compilation.phase("train").signature, given, batch)
        compilation = compilation.with_dims({**compilation.dims, name: batch})
    return CompiledModule(compilation)


def _batch_dim(signature: Signature, given: Mapping[str, Dim], batch: int) -> str:
    """The dim that is the first axis of every input that begins with one; ``given`` may say nothing else of it."""
    names = list(dict.fromkeys(spec.dims[0] for spec in signature.inputs.values() if spec.dims and spec.dims[0]))
    if len(names) == 1:
        if given.get(names[0], batch) != batch:
            raise UsageError(
                f"--batch {batch}: `{names[0]}` is {given[names[0]]} already, by --dim {names[0]}={given[names[0]]}"
            )
        return names[0]
    if not names:
        raise UsageError(Diagnostic("no input of the net begins with a dim, so --batch sets none"))
    listed = " ".join(f"--dim {name}=N" for name in names)
    raise UsageError(Diagnostic(f"the net has {len(names)} batch sizes, {', '.join(names)}", help=f"write {listed}"))


def _optimizer(method: str | None, phase: Phase) -> Optimizer | None:
    from concatc.runtime.optimizers import SGD, Adam

    if method is None:
        return None
    if phase == "infer":
        raise UsageError("--optimizer goes with --train")
    # A rate of 0: what a step takes does not depend on it, and steps on made-up data lead nowhere.
    return SGD(0.0, momentum=0.9) if method == "sgd" else Adam(0.0)
