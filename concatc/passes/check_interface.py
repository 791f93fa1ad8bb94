"""Is the interface of a net's function whole: kinds, names and attributes of its arguments and results?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from concatc.diagnostics import Diagnostic, did_you_mean
from concatc.ir.core import Attr, FuncOp, Value
from concatc.op import parse_init

ARGUMENT_KINDS = ("input", "param", "state", "loss_weights", "random", "output_grad")
RESULT_KINDS = ("output", "loss", "total", "kept", "state", "grad", "input_grad", "kept_grad")
# What a result of a kind is the value or the gradient of: an argument of that kind and of the same name and type.
OF_ARGUMENT = {"grad": "param", "input_grad": "input", "state": "state"}
NOUNS = {"param": "parameter", "input": "input", "state": "state"}
NUMBERS = ("cnet.weight", "cnet.lr", "cnet.decay")


def interface_problems(function: FuncOp) -> Iterator[Diagnostic]:
    """What is wrong with the attributes of arguments and results; functions that are no nets have none."""
    if function.declared is not None:
        return
    arguments = [("argument", arg, arg.attrs, ARGUMENT_KINDS) for arg in function.args]
    results = [
        ("result", value, attrs, RESULT_KINDS)
        for value, attrs in zip(function.ret.operands, function.result_attrs, strict=False)
    ]
    by_kind = {kind: _arguments(function, kind) for kind in dict.fromkeys(OF_ARGUMENT.values())}
    seen: set[tuple[str, str, str]] = set()
    for what, value, attrs, kinds in (*arguments, *results):
        if "cnet.kind" not in attrs:
            continue
        kind, name = attrs["cnet.kind"], attrs.get("cnet.name")
        where = f"{what} %{value.name} of @{function.sym_name}"
        if kind not in kinds:
            near = did_you_mean(str(kind), kinds) or f"one of {', '.join(kinds)}"
            yield Diagnostic(f"{where} has the unknown kind `{kind}`", function.loc, help=near)
            continue
        if not isinstance(name, str):
            yield Diagnostic(f"{where} of kind {kind} needs a name, `cnet.name`", function.loc)
            continue
        if (what, str(kind), name) in seen:
            yield Diagnostic(f"@{function.sym_name} has two {what}s of kind {kind} named `{name}`", function.loc)
        seen.add((what, str(kind), name))
        for message in _attributes(what, kind, attrs):
            yield Diagnostic(f"{where}: {message}", function.loc)
        if what == "result" and kind in OF_ARGUMENT:
            yield from _source(function, str(kind), name, value, by_kind[OF_ARGUMENT[str(kind)]])


def _arguments(function: FuncOp, kind: str) -> dict[str, Value]:
    return {str(a.attrs.get("cnet.name")): a for a in function.args if a.attrs.get("cnet.kind") == kind}


def _attributes(what: str, kind: Attr, attrs: Mapping[str, Attr]) -> Iterator[str]:
    for key in NUMBERS:
        number = attrs.get(key, 1.0)
        if isinstance(number, bool) or not isinstance(number, int | float):
            yield f"`{key}` must be a number, not {number!r}"
    fan_in = attrs.get("cnet.fan_in", 1)
    if isinstance(fan_in, bool) or not isinstance(fan_in, int) or fan_in < 0:
        yield f"`cnet.fan_in` must be a whole number, not {fan_in!r}"
    if what != "argument" or kind not in ("param", "state"):
        return
    init = attrs.get("cnet.init")
    if not isinstance(init, str):
        yield "`cnet.init` must say how it starts, such as `xavier()`"
        return
    try:
        parse_init(init)
    except ValueError as error:
        yield str(error)


def _source(
    function: FuncOp, kind: str, name: str, value: Value, arguments: Mapping[str, Value]
) -> Iterator[Diagnostic]:
    of = OF_ARGUMENT[kind]
    if name not in arguments:
        lacks = f"@{function.sym_name} has no {NOUNS[of]} of that name"
        message = f"result %{value.name} of kind {kind} is of `{name}`, but {lacks}"
        yield Diagnostic(message, function.loc, help=did_you_mean(name, arguments))
    elif value.type != arguments[name].type:
        message = f"result %{value.name} of kind {kind} is {value.type}, but {of} `{name}` is {arguments[name].type}"
        yield Diagnostic(message, function.loc)
