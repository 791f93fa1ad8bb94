"""Other dims of a net, as a user asks for them: what they may be, and whether the parameters stay the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.runtime.signature import Parameter
from concatc.runtime.source import Dim


def take_dims(net: str, known: Mapping[str, Dim], given: Mapping[str, Any]) -> dict[str, Dim]:
    """The given dims, as Python writes them: ``np.int64(7)`` and ``7.0`` are 7 where the dim is a whole number.

    Raises one :class:`UsageError` that names every unknown dim and every value that is none.
    """
    listed = ", ".join(f"`{name}`" for name in known) or "none"
    problems = []
    found: dict[str, Dim] = {}
    for name, value in given.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if name not in known:
            help = did_you_mean(name, list(known)) or f"its dims are {listed}"
            problems.append(Diagnostic(f"net {net} has no dim `{name}`", help=help))
        elif not _fits(plain, known[name]):
            problems.append(Diagnostic(f"dim `{name}` is {known[name]!r} here, and {value!r} is no other value for it"))
        else:
            whole = type(plain) is float and type(known[name]) is int and plain.is_integer()
            found[name] = int(plain) if whole else plain
    if problems:
        raise UsageError(problems)
    return found


def _fits(value: Any, known: Dim) -> bool:
    if isinstance(known, bool | str):
        return type(value) is type(known)
    return type(value) is int or (type(value) is float and math.isfinite(value))


def other_parameters(
    known: Mapping[str, Parameter],
    params: Mapping[str, Parameter],
    phase: str,
    changed: Mapping[str, object],
    why: str,
) -> Iterator[Diagnostic]:
    """What hinders a net at other dims (``changed``) to share parameters: others, or of other shapes.

    In inference some may be missing.
    """
    at = ", ".join(f"{name}={value}" for name, value in changed.items())
    for name, p in params.items():
        if name not in known or known[name].type == p.type:
            continue
        here, then = known[name].type, p.type
        axes = [k for k, (a, b) in enumerate(zip(here.shape, then.shape, strict=False)) if a != b]
        where = " and ".join(f"axis {k}, which is {here.shape[k]} here and {then.shape[k]} then" for k in axes)
        yield Diagnostic(
            f"{why}, but parameter `{name}` is {then} then and {here} here",
            notes=(f"{' and '.join(f'`{dim}`' for dim in changed)} is part of its {where}",) if axes else (),
            help=f"compile with dims={dict(changed)!r}",
        )
    missing = [name for name in known if name not in params] if phase == "train" else []
    if missing or any(name not in known for name in params):
        yield Diagnostic(f"{why}, and the net has other parameters then", notes=(f"with {at}",))
