"""``concatc check``: parse a net and infer its shapes."""

from __future__ import annotations

import click

from concatc.cli.common import finish, quantity
from concatc.cli.net_choice import NetChoice, takes_net


@click.command()
@takes_net
def command(choice: NetChoice, as_json: bool) -> None:
    """Check a net: names, shapes and types, in training and in inference.

    All errors are reported at once; nothing is compiled.
    """
    from concatc.inspect.machine import least_bytes, size_warning
    from concatc.runtime.signature import signature_of

    compilation = choice.compiled()
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
    too_large = size_warning("inputs, parameters and results take", least_bytes(compilation.phase("train").graph.main))
    if too_large is not None:
        click.echo(too_large.render(), err=True)
    warnings = [*compilation.warnings, *([too_large] if too_large is not None else [])]
    at = ", ".join(f"{name}={value}" for name, value in compilation.dims.items())
    finish(
        as_json,
        f"{choice.file}: net {compilation.name}({at}) is well formed: {', '.join(parts)}",
        net=compilation.name,
        dims=compilation.dims,
        warnings=[w.to_json() for w in warnings],
    )
