"""``concatc summary``: what a net is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from concatc.cli.common import finish
from concatc.cli.net_choice import NetChoice, takes_net

if TYPE_CHECKING:
    from concatc.ir.types import TensorType
    from concatc.runtime.signature import Signature


@click.command()
@takes_net
@click.option("--memory/--no-memory", default=True, help="Show the bytes of the plan as well.")
def command(choice: NetChoice, as_json: bool, memory: bool) -> None:
    """Show inputs, operations, parameters, losses, outputs and memory of a net."""
    from concatc.inspect.summary import summarize, text
    from concatc.runtime.module import CompiledModule

    compilation = choice.compiled()
    module = CompiledModule(compilation)
    summary = summarize(compilation.phase("train").graph)
    at = ", ".join(f"{name}={value}" for name, value in module.dims.items())
    sections = [
        f"net {module.name}({at})",
        _tensors("inputs", {name: spec.type for name, spec in module.signature.inputs.items()}),
        text(summary),
        _parameters(module.signature),
        _tensors("states", {name: state.type for name, state in module.signature.states.items()}),
        _losses(module.signature),
        _tensors("outputs", module.signature.outputs),
        module.memory.text(pictures=False).partition("\n")[2] if memory else "",
    ]
    finish(
        as_json,
        "\n\n".join(section for section in sections if section),
        net=module.name,
        dims=module.dims,
        inputs={name: _type(spec.type) for name, spec in module.signature.inputs.items()},
        operations=[{**asdict(row), "loc": str(row.loc) if row.loc else None} for row in summary.rows],
        parameters={name: _type(p.type) for name, p in module.signature.params.items()},
        parameter_count=summary.params,
        losses=module.signature.loss_weights,
        outputs={name: _type(type) for name, type in module.signature.outputs.items()},
        memory=module.memory.data() if memory and as_json else None,
    )


def _parameters(signature: Signature) -> str:
    width = max((len(name) for name in signature.params), default=0)
    shape_width = max((len(_type(p.type)) for p in signature.params.values()), default=0)
    rows = [
        f"  {name:<{width}}  {_type(p.type):<{shape_width}}  {p.type.numel:>12,}  {p.init}"
        for name, p in signature.params.items()
    ]
    return "\n".join(["parameters", *rows]) if rows else ""


def _tensors(title: str, types: dict[str, TensorType]) -> str:
    width = max((len(name) for name in types), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {_type(type)}" for name, type in types.items())]) if types else ""


def _losses(signature: Signature) -> str:
    weights = signature.loss_weights
    width = max((len(name) for name in weights), default=0)
    return "\n".join(["losses", *(f"  {n:<{width}}  weight {w:g}" for n, w in weights.items())]) if weights else ""


def _type(type: TensorType) -> str:
    return f"{type.dtype}[{', '.join(map(str, type.shape))}]"
