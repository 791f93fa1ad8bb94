"""Parameters that are not trained.

    freeze=["stem"]:  %stem.weight {cnet.name = "stem.weight"}   ->   {cnet.name = "stem.weight", cnet.lr = 0.0}

A factor of 0 on the learning rate is how the language says it too (``P_lr=0``).  `derive-backward` then makes no
gradient for the parameter, and no optimizer touches it.
"""

from __future__ import annotations

from collections.abc import Sequence

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.core import FuncOp


def freeze(net: FuncOp, names: Sequence[str]) -> None:
    """Freeze the parameters of these names, and all whose path begins with one: ``stem`` freezes ``stem.weight``.

    Raises :class:`UsageError` for names that no parameter of the net has.
    """
    params = net.arguments("param")
    unknown = [name for name in names if not any(_is_in(path, name) for path in params)]
    if unknown:
        known = list(dict.fromkeys(prefix for path in params for prefix in _prefixes(path)))
        problems = [
            Diagnostic(
                f"freeze: the net has no parameter `{name}`",
                help=did_you_mean(name, known) or f"there are {', '.join(f'`{path}`' for path in params) or 'none'}",
            )
            for name in unknown
        ]
        raise UsageError(problems)
    for path, param in params.items():
        if any(_is_in(path, name) for name in names):
            param.attrs["cnet.lr"] = 0.0


def frozen(net: FuncOp) -> tuple[str, ...]:
    """The parameters that are not trained."""
    return tuple(name for name, value in net.arguments("param").items() if value.attrs.get("cnet.lr") == 0.0)


def _is_in(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _prefixes(path: str) -> list[str]:
    """``a.b.weight``: ``a``, ``a.b``, ``a.b.weight``."""
    parts = path.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]
