"""The front end of ``.cnet``: text to the graph level.

    net = load('net f(n = 2) { input x: f32[n, 3]; output relu(x) as y }', "f.cnet")

Parsing (:mod:`parser`), imports (:mod:`project`), static names (:mod:`names`), elaboration (:mod:`elaborate`).
docs/LANGUAGE.md is the reference of the language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from concatc.diagnostics import Diagnostic
from concatc.frontend.cnet.elaborate import Phase, elaborate
from concatc.frontend.cnet.project import Imported
from concatc.frontend.source import SourceFiles, read
from concatc.ir.core import Module

__all__ = ["Phase", "load", "load_file", "read"]

_NO_DIMS: Mapping[str, int | float | str | bool] = MappingProxyType({})


def load(
    text: str,
    filename: str,
    *,
    net: str | None = None,
    dims: Mapping[str, int | float | str | bool] = _NO_DIMS,
    phase: Phase = "train",
    keep: Sequence[str] = (),
    dtype: str | None = None,
    decisions: list[tuple[Any, ...]] | None = None,
    imports: list[Imported] | None = None,
    files: SourceFiles | None = None,
) -> tuple[Module, list[Diagnostic]]:
    """The graph level of a net, and the warnings.

    ``net`` chooses one where the text holds several; ``dims`` overrides dims; ``phase`` is what ``train`` is in the
    source; ``keep`` names blobs to return (``h``, or with a path ``stage0.dense1.layer.y``; a name that is bound
    again means its last value); ``dtype="f64"`` turns every f32 into f64.  Imports are looked for beside ``filename``.
    ``decisions`` gets the numbers that decided something on the way: texts at other dims that agree in them are one
    net of other sizes.  ``imports`` gets the files that were imported; ``files`` holds them as another call read them.

    Raises :class:`ConcatcError` with all errors of the text, :class:`UsageError` where ``net``, ``dims`` or ``keep``
    do not fit it.
    """
    return elaborate(text, filename, net, dims, phase, keep, dtype, decisions, imports, files)


def load_file(
    path: str | Path,
    *,
    net: str | None = None,
    dims: Mapping[str, int | float | str | bool] = _NO_DIMS,
    phase: Phase = "train",
    keep: Sequence[str] = (),
    dtype: str | None = None,
) -> tuple[Module, list[Diagnostic]]:
    """:func:`load` of a file."""
    return load(read(path), str(path), net=net, dims=dims, phase=phase, keep=keep, dtype=dtype)
