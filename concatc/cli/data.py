"""Data files of the commands that run nets: the option ``--key``, and a file's arrays by the names of inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean

if TYPE_CHECKING:
    from concatc.cli.npz import NpzFile
    from concatc.runtime.signature import Input

key_option = click.option(
    "--key", "keys", multiple=True, metavar="INPUT=KEY", help="Take an input from another key of the data; repeatable."
)


def read_data(path: Path, keys: Iterable[str], inputs: Mapping[str, Input]) -> tuple[NpzFile, dict[str, str]]:
    """The arrays of a ``.npz`` file, by the names of inputs where ``keys`` say so, and the key of each input.

    Raises one UsageError for all of ``keys`` that are not ``INPUT=KEY`` with an input of the net and a key of the file.
    """
    from concatc.cli.npz import NpzFile

    arrays = NpzFile(path)
    renamed: dict[str, str] = {}
    problems = []
    for text in keys:
        name, _, key = text.partition("=")
        if not name or key not in arrays:
            held = ", ".join(f"`{k}`" for k in arrays) or "none"
            expected = f"--key {text}: expected INPUT=KEY with a key of the data"
            problems.append(Diagnostic(expected, help=did_you_mean(key, arrays) or f"there are {held}"))
        elif name not in inputs:
            names = ", ".join(f"`{n}`" for n in inputs)
            hint = did_you_mean(name, inputs) or f"there are {names}"
            problems.append(Diagnostic(f"--key {text}: the net has no input `{name}`", help=hint))
        elif renamed.setdefault(name, key) != key:
            problems.append(Diagnostic(f"--key {text}: `{name}` is taken from `{renamed[name]}` already"))
    if problems:
        raise UsageError(problems)
    return arrays.renamed(renamed), {name: name for name in inputs} | renamed
