"""``concatc summary``: what a net is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from concatc.cli.common import compile_file, finish, net_options

if TYPE_CHECKING:
    from concatc.ir.types import TensorType


@click.command()
@net_options
@click.option("--memory/--no-memory", default=True, help="Show the bytes of the plan as well.")
def command(
    file: Path, dims: tuple[str, ...], net: str | None, target: str, dtype: str, as_json: bool, memory: bool
) -> None:
    """Show inputs, parameters, losses, outputs and memory of a net."""
    from concatc.runtime.inputs import describe
    from concatc.runtime.memory_report import readable
    from concatc.runtime.module import CompiledModule

    module = CompiledModule(compile_file(file, dims, net, target, dtype))
    signature = module.signature
    width = max((len(name) for name in (*signature.inputs, *signature.params, *signature.states)), default=0)
    at = ", ".join(f"{name}={value}" for name, value in module.dims.items())
    lines = [f"net {module.name}({at})", "", "inputs"]
    lines += [f"  {name:<{width}}  {describe(spec)}" for name, spec in signature.inputs.items()]
    lines += ["", "parameters"]
    for name, parameter in signature.params.items():
        lines.append(f"  {name:<{width}}  {_type(parameter.type):<20} {parameter.type.numel:>12,}  {parameter.init}")
    total = sum(p.type.numel for p in signature.params.values())
    total_bytes = sum(p.type.size_bytes for p in signature.params.values())
    lines.append(f"  {'total':<{width}}  {'':<20} {total:>12,}  {readable(total_bytes)}")
    if signature.states:
        lines += ["", "states"]
        lines += [f"  {name:<{width}}  {_type(state.type)}" for name, state in signature.states.items()]
    if signature.loss_weights:
        lines += ["", "losses"]
        lines += [f"  {name:<{width}}  weight {weight:g}" for name, weight in signature.loss_weights.items()]
    lines += ["", "outputs"]
    lines += [f"  {name:<{width}}  {_type(type)}" for name, type in signature.outputs.items()]
    if memory:
        lines += ["", "memory", *(f"  {line}" for line in str(module.memory).splitlines()[1:])]
    finish(
        as_json,
        "\n".join(lines),
        net=module.name,
        dims=module.dims,
        inputs={name: describe(spec) for name, spec in signature.inputs.items()},
        parameters={name: _type(p.type) for name, p in signature.params.items()},
        parameter_count=total,
        losses=signature.loss_weights,
        outputs={name: _type(type) for name, type in signature.outputs.items()},
    )


def _type(type: TensorType) -> str:
    return f"{type.dtype}[{', '.join(map(str, type.shape))}]"
