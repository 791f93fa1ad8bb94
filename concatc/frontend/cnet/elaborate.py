"""A syntax tree to the graph level: choose the net, fix its dims and phase, run its statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

from concatc.diagnostics import ConcatcError, Diagnostic, Sink, UsageError, did_you_mean
from concatc.frontend.cnet import ast
from concatc.frontend.cnet.context import POISON, Frame, Run
from concatc.frontend.cnet.graph import Graph
from concatc.frontend.cnet.names import Analysis
from concatc.frontend.cnet.project import Imported, Project, Unit
from concatc.frontend.cnet.statements import Statements
from concatc.frontend.cnet.unused import behind_returns, dead_parameters, unused_names
from concatc.frontend.cnet.values import describe, is_blob
from concatc.frontend.source import SourceFiles
from concatc.ir.core import Attr, Module, Value
from concatc.op import ShapeError

Dim = int | float | str | bool
Phase = Literal["train", "infer"]


def elaborate(
    text: str,
    filename: str,
    net: str | None,
    dims: Mapping[str, Dim],
    phase: Phase,
    keep: Sequence[str],
    dtype: str | None,
    decisions: list[tuple[Any, ...]] | None = None,
    imports: list[Imported] | None = None,
    files: SourceFiles | None = None,
) -> tuple[Module, list[Diagnostic]]:
    """See :func:`concatc.frontend.cnet.load`."""
    sink = Sink()
    project = Project(files or SourceFiles(filename), sink)
    unit = project.load(text, filename)
    sink_is_clean = not sink.errors
    if not unit.nets and (unit.broken or not sink_is_clean):
        sink.raise_if_errors()
    analysis = Analysis(sink)
    for definition in unit.nets.values():
        analysis.of_net(unit, definition)
    for block in unit.blocks.values():
        analysis.of_block(block)
    definition = _choose(unit, net, sink)
    names = analysis.of_net(unit, definition)
    for block in unit.blocks.values():
        for statement in behind_returns(block.definition):
            sink.warning("nothing behind `return` runs", statement.loc)
    for what, name in unused_names(definition):
        sink.warning(f"{what} `{name.text}` is not used", name.loc)
    run = Run(sink, analysis, Graph(definition.name.text, definition.loc), phase == "train", dtype == "f64")
    values = _dims(definition, dims, sink)
    frame = Frame(unit, names)
    statements = Statements(run)
    statements.calls.file_defaults(unit)
    given = statements.net(frame, values)
    kept = _kept(run, keep, train=run.train)
    sink.raise_if_errors()
    _check_results(run, definition)
    run.graph.func.attributes["cnet.dims"] = _dim_attr(given)
    try:
        module = run.graph.finish(kept, run.train)
    except ShapeError as error:
        raise ConcatcError(Diagnostic(error.message, definition.loc, help=error.help), sink.sources) from None
    if run.train:
        sink.diagnostics += dead_parameters(module.main)
    if decisions is not None:
        decisions += run.decisions
    if imports is not None:
        imports += project.imports
    return module, sink.warnings


def _choose(unit: Unit, net: str | None, sink: Sink) -> ast.Definition:
    nets = unit.nets
    listed = ", ".join(f"`{name}`" for name in nets)
    if net is not None:
        if net not in nets:
            sink.raise_if_errors()
            help = did_you_mean(net, nets) or (f"it holds {listed}" if nets else None)
            raise UsageError(Diagnostic(f"{unit.file.name} holds no net `{net}`", help=help))
        return nets[net]
    if not nets:
        sink.raise_if_errors()
        raise ConcatcError(
            Diagnostic(f"{unit.file.name} holds no net", help="a net starts with `net NAME(..) {`"), sink.sources
        )
    if len(nets) > 1:
        sink.raise_if_errors()
        raise UsageError(
            Diagnostic(f"{unit.file.name} holds {len(nets)} nets: {listed}", help="choose one: `--net NAME`")
        )
    return next(iter(nets.values()))


def _dims(definition: ast.Definition, dims: Mapping[str, Dim], sink: Sink) -> dict[str, Any]:
    known = [formal.name.text for formal in definition.formals]
    problems: list[Diagnostic] = []
    values: dict[str, Any] = {}
    for name, value in dims.items():
        if name not in known:
            listed = ", ".join(f"`{k}`" for k in known) or "none"
            help = did_you_mean(name, known) or f"its dims are {listed}"
            problems.append(Diagnostic(f"net `{definition.name.text}` has no dim `{name}`", help=help))
        elif isinstance(value, bool | str):
            values[name] = value
        else:
            try:
                # Through text: 0.07 means the decimal number, not the nearest float.
                values[name] = Fraction(str(value))
            except ValueError:
                problems.append(Diagnostic(f"dim `{name}` must be a number, not {value!r}"))
    # A head that did not parse may have lost the dim that is asked for.
    if problems and not sink.errors:
        raise UsageError(problems)
    return values


def _dim_attr(values: Mapping[str, Any]) -> dict[str, Attr]:
    found: dict[str, Attr] = {}
    for name, value in values.items():
        if isinstance(value, bool | str):
            found[name] = value
        elif isinstance(value, Fraction):
            found[name] = int(value) if value.denominator == 1 else float(value)
    return found


def _kept(run: Run, keep: Sequence[str], train: bool) -> dict[str, Value]:
    kept: dict[str, Value] = {}
    problems: list[Diagnostic] = []
    by_value_name = {r.name: r for op in run.graph.func.ops for r in op.results if r.name} if keep else {}
    for name in keep:
        value = run.blobs.get(name, by_value_name.get(name))
        if value is POISON:
            continue
        if is_blob(value):
            assert isinstance(value, Value)
            kept[name] = value
        elif value is not None:
            problems.append(Diagnostic(f"keep: `{name}` is {describe(value)}, not a blob"))
        elif train:
            blobs = [k for k, v in run.blobs.items() if is_blob(v)]
            problems.append(Diagnostic(f"keep: the net has no blob `{name}`", help=did_you_mean(name, blobs)))
    if problems and not run.sink.errors:
        raise UsageError(problems)
    return kept


def _check_results(run: Run, definition: ast.Definition) -> None:
    if run.graph.outputs or run.graph.losses:
        return
    raise ConcatcError(
        Diagnostic(
            f"net `{definition.name.text}` has neither output nor loss",
            definition.loc,
            help="`output h` hands a blob to the caller, `loss softmax_loss(h, label)` trains",
        ),
        run.sink.sources,
    )
