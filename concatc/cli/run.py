"""``concatc run``: run a net once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click

from concatc.cli.common import compile_file, finish, net_options, write_file


@click.command()
@net_options
@click.option("--data", type=click.Path(path_type=Path), help="A .npz file; its keys are input names.")
@click.option("--weights", type=click.Path(path_type=Path), help="A .safetensors file; default: initial values.")
@click.option("--seed", default=0, show_default=True, help="Of initial values, and of dropout.")
@click.option("--train", "training", is_flag=True, help="The training phase: losses too, dropout on.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the results to this .npz file.")
def command(
    file: Path,
    dims: tuple[str, ...],
    net: str | None,
    target: str,
    dtype: str,
    as_json: bool,
    data: Path | None,
    weights: Path | None,
    seed: int,
    training: bool,
    output: Path | None,
) -> None:
    """Run a net once and show its outputs: inputs from a .npz file, outputs to one."""
    import numpy as np

    from concatc.cli.npz import NpzFile
    from concatc.runtime.dataset import matching
    from concatc.runtime.module import CompiledModule

    module = CompiledModule(compile_file(file, dims, net, target, dtype))
    module.init(seed)
    if weights is not None:
        module.load(weights)
    arrays = matching(module.signature.inputs, NpzFile(data) if data is not None else {})
    results = module.forward(arrays) if training else module.eval(arrays)
    if output is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **results)  # type: ignore[arg-type]
        write_file(output, buffer.getvalue())
    lines = [_line(name, np.asarray(value)) for name, value in results.items()]
    shapes = {name: list(np.shape(value)) for name, value in results.items()}
    finish(as_json, "\n".join(lines), net=module.name, results=shapes, output=str(output) if output else None)


def _line(name: str, value: Any) -> str:
    if value.ndim == 0:
        return f"{name}: {float(value):.6g}"
    if value.size == 0:
        return f"{name}: {value.dtype}{list(value.shape)}"
    return f"{name}: {value.dtype}{list(value.shape)}, mean {value.mean():.4g}, {value.min():.4g} to {value.max():.4g}"
