"""``concatc compile``: compile a net, show what was made of it, write a module that can be imported."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from concatc.cli.common import finish, quantity, write_file
from concatc.cli.net_choice import NetChoice, freeze_option, pass_options, plan_options, show_checked, takes_net
from concatc.cli.progress import show_progress
from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.stages import Times, listening

if TYPE_CHECKING:
    from concatc.compiler import Compilation
    from concatc.lowering import Lowering
    from concatc.runtime.memory_report import MemoryReport
    from concatc.targets import Executable, Target

CALLS = {"train": "step", "infer": "call"}
EMIT = ("ir", "plan", "loops", "kernels", "llvm", "asm", "launches", "ptx", "cubin", "sass")


@click.command()
@takes_net
@click.option("--keep", multiple=True, metavar="BLOB", help="Keep a blob and its gradient readable; repeatable.")
@click.option("--input-grads", is_flag=True, help="Return gradients of inputs too.")
@click.option("--output-grads", is_flag=True, help="Take gradients of outputs from the caller of backward().")
@freeze_option
@plan_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Write an importable module, or cubins."
)
@click.option("--emit", type=click.Choice(EMIT), help="Print it; `ir` is the joint graph unless --level says else.")
@click.option(
    "--arch", metavar="SM,..", help="With --target cuda: architectures, such as sm_80,sm_90 (the default is both)."
)
@click.option("--level", metavar="LEVEL", help="The level for --emit ir: graph, split, joint, .. or its number.")
@click.option("--phase", type=click.Choice(("train", "infer")), default="train", show_default=True, help="For --emit.")
@click.option("--remarks", is_flag=True, help="Show each copy that remains, and the memory of each phase.")
@click.option("--blob", metavar="BLOB", help="With --emit ir and --dump-ir: only what makes and reads this blob.")
@click.option("--plain", is_flag=True, help="IR without locations, comments and short names for types.")
@click.option("--dump-ir", type=click.Path(path_type=Path), metavar="DIR", help="Write every level: 00-graph.mlir, ..")
@pass_options
def command(
    choice: NetChoice,
    as_json: bool,
    output: Path | None,
    emit: str | None,
    arch: str | None,
    level: str | None,
    phase: str,
    remarks: bool,
    blob: str | None,
    plain: bool,
    dump_ir: Path | None,
    time_passes: bool,
) -> None:
    """Compile a net for training and for inference.

    With -o the module is written as a package: ``import DIR; net = DIR.load()``.  It runs native code: load only
    modules that you trust.  Weights are apart, in safetensors files, which never run code.
    """
    start = time.perf_counter()
    times = Times()
    click.get_current_context().with_resource(listening(times))
    _check_options(as_json, emit, level, blob, plain, dump_ir, output)
    show_progress()
    compilation = choice.compiled()
    if arch is not None:
        compilation.target = _cuda_for(compilation, arch)
    _check_passes(compilation, choice.options.print_after)
    phases: list[str] = list(compilation.phases)
    if dump_ir is not None:
        for name in phases:
            _dump(compilation, name, dump_ir if name == "train" else dump_ir / "inference", plain, blob)
    if emit == "cubin" and output is not None:
        _write_cubins(compilation, phase, output)
    elif emit is not None:
        click.echo(_emitted(compilation, emit, level, phase, plain, blob), nl=False)
    elif output is not None:
        from concatc.artifact import write_module

        write_module(compilation, output)
    for name in phases if emit is None else ():
        _build(compilation, name)
    if time_passes:
        _show_times(compilation, phases, times, time.perf_counter() - start)
    checked = show_checked(compilation)
    if emit is None:
        _report(as_json, compilation, time.perf_counter() - start, output, checked, remarks)
    elif remarks:
        click.echo(_memory(compilation).text(), err=True)


def _check_options(
    as_json: bool,
    emit: str | None,
    level: str | None,
    blob: str | None,
    plain: bool,
    dump_ir: Path | None,
    output: Path | None,
) -> None:
    """Options without the one that they belong to would be ignored."""
    problems = []
    if level is not None and emit != "ir":
        problems.append(Diagnostic("--level goes with --emit ir"))
    if blob is not None and emit != "ir" and dump_ir is None:
        problems.append(Diagnostic("--blob goes with --emit ir and --dump-ir"))
    if plain and emit not in ("ir", "plan", "loops") and dump_ir is None:
        problems.append(Diagnostic("--plain goes with --emit ir|plan|loops and --dump-ir"))
    if as_json and emit is not None:
        problems.append(Diagnostic("--json is of what `compile` reports, and --emit prints text instead"))
    phase_given = click.get_current_context().get_parameter_source("phase") is not ParameterSource.DEFAULT
    if phase_given and emit is None:
        problems.append(Diagnostic("--phase goes with --emit"))
    if emit == "cubin" and output is None:
        problems.append(Diagnostic("--emit cubin writes files: say where with -o DIR"))
    if emit not in (None, "cubin") and output is not None:
        hint = "call it twice; `concatc compile FILE --emit .. > TEXT` writes what is printed to a file"
        problems.append(Diagnostic("--emit prints, and -o writes a module: they do not go together", help=hint))
    if problems:
        raise UsageError(problems)


def _check_passes(compilation: Compilation, wanted: tuple[str, ...]) -> None:
    known = compilation.phase("train").pass_names
    problems = [
        Diagnostic(f"no pass `{name}`", help=did_you_mean(name, known) or f"there are {', '.join(known)}")
        for name in wanted
        if name not in known
    ]
    if problems:
        raise UsageError(problems)


def _cuda_for(compilation: Compilation, names: str) -> Target:
    """The target with other architectures."""
    if compilation.options.target != "cuda":
        raise UsageError("--arch goes with --target cuda")
    from concatc.targets.cuda.arch import Arch
    from concatc.targets.cuda.target import CudaTarget

    arches = tuple(str(Arch.of(name.strip())) for name in names.split(","))
    return CudaTarget(arches, compilation.options.precision)


def _write_cubins(compilation: Compilation, phase: str, directory: Path) -> None:
    from concatc.targets.cuda.target import CudaExecutable

    executable = _build(compilation, phase)
    if not isinstance(executable, CudaExecutable):
        raise UsageError(f"the target `{compilation.options.target}` has no cubins: --target cuda has")
    for name, cubin in executable.cubins().items():
        write_file(directory / name, cubin)
        click.echo(f"{directory / name}: {len(cubin)} bytes")


def _build(compilation: Compilation, phase: str) -> Executable:
    return compilation.target.build(_phase(compilation, phase))


def _phase(compilation: Compilation, phase: str) -> Lowering:
    return compilation.phase("train" if phase == "train" else "infer")


def _emitted(compilation: Compilation, what: str, level: str | None, phase: str, plain: bool, blob: str | None) -> str:
    from concatc.ir.printer import PLAIN
    from concatc.passes.dumps import READING

    lowering = _phase(compilation, phase)
    style = PLAIN if plain else READING
    if what == "ir":
        return lowering.dump(level or "joint", style, blob)
    if what in ("plan", "loops"):
        return lowering.dump(what, style)
    text = _build(compilation, phase).text(what)
    return text if text.endswith("\n") else f"{text}\n"


def _dump(compilation: Compilation, phase: str, directory: Path, plain: bool, blob: str | None) -> None:
    from concatc.inspect.blob_path import has_blob
    from concatc.ir.levels import BLOB_LEVELS, LEVELS
    from concatc.ir.printer import PLAIN
    from concatc.passes.dumps import READING

    lowering = _phase(compilation, phase)
    for number, level in enumerate(LEVELS):
        # What is not needed is not in every level; the graph of the training phase has each blob.
        optional = number > 0 or phase != "train"
        if blob is not None and optional and (level not in BLOB_LEVELS or not has_blob(lowering.level(level), blob)):
            continue
        text = lowering.dump(level, PLAIN if plain else READING, blob)
        write_file(directory / f"{number:02d}-{level}.mlir", text)


def _show_times(compilation: Compilation, phases: list[str], times: Times, elapsed_s: float) -> None:
    """The passes of each phase, then what is done besides; all rows together are the time of the command."""
    from concatc.ir.passes import PassManager, Timing

    tables = {phase: list(_phase(compilation, phase).timings) for phase in phases}
    stages = [Timing(name, elapsed_ns) for name, elapsed_ns in times.elapsed_ns.items()]
    told_ns = sum(timing.elapsed_ns for timings in (*tables.values(), stages) for timing in timings)
    tables["both phases" if len(phases) > 1 else "besides"] = [
        *stages,
        Timing("everything else", max(round(elapsed_s * 1e9) - told_ns, 0)),
    ]
    for title, timings in tables.items():
        click.echo(f"{title}\n{PassManager([], timings=timings).timing_report()}", err=True, nl=False)
    click.echo(f"all of it  {elapsed_s * 1e3:.2f} ms", err=True)


def _memory(compilation: Compilation) -> MemoryReport:
    from concatc.runtime.memory_report import MemoryReport

    return MemoryReport.of(compilation.name, {phase: compilation.phase(phase) for phase in compilation.phases})


def _report(
    as_json: bool,
    compilation: Compilation,
    elapsed: float,
    output: Path | None,
    checked: list[str],
    remarks: bool,
) -> None:
    from concatc.inspect.machine import size_warning
    from concatc.ir.comments import bytes_text
    from concatc.runtime.memory_report import TITLES

    report = _memory(compilation)
    counts = {phase: compilation.phase(phase).launch_counts for phase in report.phases}
    lines = [f"net {compilation.name}: compiled in {elapsed:.2f} s"]
    for phase, memory in report.phases.items():
        too_large = size_warning(f"{TITLES[phase]} needs", memory.report.need_bytes)
        if too_large is not None:
            click.echo(too_large.render(), err=True)
        launches, kernels = counts[phase]
        arena, copied = bytes_text(memory.bases.get("arena", 0)), bytes_text(memory.copied_bytes)
        lines.append(
            f"{TITLES[phase]}: {quantity(launches, 'launch')} of {quantity(kernels, 'kernel')}, arena {arena}, "
            f"{copied} copied in a {CALLS[phase]}"
        )
    text = "\n".join(lines)
    if remarks:
        text += report.text().removeprefix(f"net {compilation.name}")
    launches, kernels = counts["train"]
    memory = report.phases["train"]
    if output is not None:
        text += f"\nwritten to {output}"
    finish(
        as_json,
        text,
        net=compilation.name,
        dims=compilation.dims,
        phases=list(report.phases),
        launches=launches,
        kernels=kernels,
        arena_bytes=memory.bases.get("arena", 0),
        copied_bytes=memory.copied_bytes,
        memory=report.data() if as_json else None,
        checked=checked,
        output=os.fspath(output) if output is not None else None,
    )
