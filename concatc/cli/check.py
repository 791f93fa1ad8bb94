"""``concatc check``: parse a net and infer its shapes."""

from __future__ import annotations

from pathlib import Path

import click

from concatc.cli.common import compile_file, finish, net_options, quantity


@click.command()
@net_options
def command(file: Path, dims: tuple[str, ...], net: str | None, target: str, dtype: str, as_json: bool) -> None:
    """Check a net: names, shapes and types, in training and in inference.

    All errors are reported at once; nothing is compiled.
    """
    from concatc.runtime.signature import signature_of

    compilation = compile_file(file, dims, net, target, dtype)
    signature = signature_of(compilation.phase("train").graph.main)
    outputs = dict(signature.outputs)
    if compilation.no_inference is None:
        outputs |= signature_of(compilation.phase("infer").graph.main).outputs
    parts = [
        quantity(len(signature.inputs), "input"),
        quantity(len(signature.params), "parameter"),
        quantity(len(signature.loss_weights), "loss"),
        quantity(len(outputs), "output"),
    ]
    at = ", ".join(f"{name}={value}" for name, value in compilation.dims.items())
    finish(
        as_json,
        f"{file}: net {compilation.name}({at}) is well formed: {', '.join(parts)}",
        net=compilation.name,
        dims=compilation.dims,
        warnings=[w.to_json() for w in compilation.warnings],
    )
