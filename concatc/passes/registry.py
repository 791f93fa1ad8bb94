"""All passes by name, and pipelines as text: ``insert-splits,fuse{max_ops=8, prologues=true},dce``."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import typing
from typing import Any

from concatc.diagnostics import Diagnostic, UsageError, did_you_mean
from concatc.ir.passes import Pass
from concatc.op_attributes import Attribute, ShapeError, check_attribute

# What stands behind the passes, by the names under which it is timed.
STEPS = {"plan-memory": "makes the plan of kernels", "lower-to-loops": "makes the loops of a plan"}


@functools.cache
def load_all_passes() -> dict[str, type[Pass]]:
    """Import every file of ``concatc/passes`` and return the passes that rewrite modules, by name.

    A pass is a dataclass with a ``name`` and a method ``run(module)``.
    """
    package = importlib.import_module("concatc.passes")
    found: dict[str, type[Pass]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"concatc.passes.{info.name}")
        for cls in vars(module).values():
            if not _is_pass(cls, module.__name__):
                continue
            assert cls.name not in found, f"two passes are called {cls.name}"
            found[cls.name] = cls
    return dict(sorted(found.items()))


def _is_pass(cls: Any, module: str) -> bool:
    if not (inspect.isclass(cls) and cls.__module__ == module and dataclasses.is_dataclass(cls)):
        return False
    run = getattr(cls, "run", None)
    if not isinstance(getattr(cls, "name", None), str) or run is None:
        return False
    return list(inspect.signature(run).parameters) == ["self", "module"]


_STEP = re.compile(r"\s*([a-z][a-z0-9-]*)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")


def parse_pipeline(text: str) -> list[Pass]:
    """The passes of a pipeline.  Raises :class:`UsageError` for an unknown pass, option or value.

    Options are the fields of the pass: ``fuse{max_ops=8}``; a value is a number, ``true``, ``false``,
    a word, or a list of these, ``freeze=[enc.weight dec.weight]``.
    """
    passes: list[Pass] = []
    at = 0
    while at < len(text):
        m = _STEP.match(text, at)
        if m is None:
            raise UsageError(f"expected passes such as `insert-splits,dce`, found `{text[at : at + 40]}`")
        passes.append(make_pass(m.group(1), _options(m.group(1), m.group(2) or "")))
        at = m.end()
    return passes


def make_pass(name: str, options: dict[str, Any] | None = None) -> Pass:
    """A pass with options.  Raises :class:`UsageError`."""
    known = load_all_passes()
    if name not in known:
        if name in STEPS:
            message = f"`{name}` rewrites no graph, so it is no pass of a pipeline: it {STEPS[name]}"
            raise UsageError(Diagnostic(message, help="`concatc compile FILE.mlir --emit plan|loops` does that"))
        raise UsageError(Diagnostic(f"there is no pass `{name}`", help=_known_passes(name, list(known))))
    cls: Any = known[name]
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if key not in fields:
            hint = did_you_mean(key, fields) or (f"it has {', '.join(fields)}" if fields else "it has no options")
            raise UsageError(Diagnostic(f"{name} has no option `{key}`", help=hint))
        values[key] = _option(name, Attribute(key, hints[key], None), value)
        least = fields[key].metadata.get("least")
        if least is not None and values[key] < least:
            raise UsageError(f"{name}: `{key}` must be {least} or more, not {values[key]}")
    made: Pass = cls(**values)
    return made


def _known_passes(name: str, known: list[str]) -> str:
    return did_you_mean(name, known) or f"passes are {', '.join(known)}"


def _option(name: str, option: Attribute, value: Any) -> Any:
    for candidate in (value, (value,)):  # one word may stand for a list of one
        try:
            return check_attribute(name, option, candidate)
        except ShapeError as error:
            failure = error.message
    raise UsageError(failure.replace(repr((value,)), repr(value)))


def _options(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not key or not value:
            raise UsageError(f"{name}: expected an option such as `{key or 'name'}=1`, found `{entry}`")
        options[key] = _literal(value)
    return options


def _literal(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text[0] == "[" and text[-1] == "]":
        return tuple(_literal(word) for word in text[1:-1].split())
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"-?\d+\.\d*(e-?\d+)?", text):
        return float(text)
    return text.strip('"')
