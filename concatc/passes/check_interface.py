"""Is the interface of a net's function whole: kinds, names and attributes of its arguments and results?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from concatc.diagnostics import Diagnostic, did_you_mean
from concatc.initial_values import parse_init
from concatc.ir.core import Attr, FuncOp, Value
from concatc.ir.types import TensorType
from concatc.loops.declaration import BASE, DECLARED, OFFSET, STAGED_IN, STRIDES, net_of
from concatc.loss_weights import WEIGHT, is_quotient
from concatc.passes.graph import is_backward

ARGUMENT_KINDS = ("input", "param", "state", "loss_weights", "random", "output_grad")
RESULT_KINDS = ("output", "loss", "total", "kept", "state", "grad", "input_grad", "kept_grad")
# What a result of a kind is the value or the gradient of: an argument of that kind and of the same name and type.
OF_ARGUMENT = {"grad": "param", "input_grad": "input", "state": "state"}
NOUNS = {"param": "parameter", "input": "input", "state": "state"}
GRADIENTS = ("grad", "input_grad", "kept_grad")
DIMS = "cnet.dims"
NUMBERS = (WEIGHT, "cnet.lr", "cnet.decay")


def interface_problems(function: FuncOp) -> Iterator[Diagnostic]:
    """What is wrong with the attributes of arguments and results; functions that are no nets have none."""
    if function.declared is not None:
        if function.sym_name != DECLARED:
            return
        function = net_of(function)
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
        if not isinstance(value.type, TensorType):
            yield Diagnostic(f"{where} is a tensor, not {value.type}", function.loc)
            continue
        for message in _attributes(what, kind, attrs):
            yield Diagnostic(f"{where}: {message}", function.loc)
        for message in _staging(what, str(kind), attrs, value.type):
            yield Diagnostic(f"{where}: {message}", function.loc)
        if what == "result" and kind in OF_ARGUMENT:
            yield from _source(function, str(kind), name, value, by_kind[OF_ARGUMENT[str(kind)]])
    yield from _dims(function)
    yield from _gradients(function, by_kind["param"])


def _dims(function: FuncOp) -> Iterator[Diagnostic]:
    """Dims are numbers and texts; an axis that is a dim has its size."""
    if DIMS not in function.attributes:
        return
    dims = function.attributes[DIMS]
    if not isinstance(dims, Mapping) or not all(isinstance(value, int | float | str) for value in dims.values()):
        yield Diagnostic(f"`{DIMS}` of @{function.sym_name} must give each dim a number or a text", function.loc)
        return
    for arg in function.args:
        named = arg.attrs.get(DIMS)
        if named is None or not isinstance(arg.type, TensorType):
            continue
        where = f"argument %{arg.name} of @{function.sym_name}"
        if not isinstance(named, tuple) or len(named) != arg.type.rank or not all(isinstance(n, str) for n in named):
            axes = "one text" if arg.type.rank == 1 else f"{arg.type.rank} texts"
            yield Diagnostic(f'{where}: `{DIMS}` must be {axes}, "" where an axis is no dim', function.loc)
            continue
        for axis, (name, extent) in enumerate(zip(named, arg.type.shape, strict=True)):
            if name and name not in dims:
                near = did_you_mean(str(name), dims) or f"there are {', '.join(dims) or 'none'}"
                yield Diagnostic(
                    f"{where}: axis {axis} is the dim `{name}`, which the net does not have", function.loc, help=near
                )
            elif name and (isinstance(dims[str(name)], bool) or dims[str(name)] != extent):
                at = f"axis {axis} has {extent} elements, but is the dim {name} = {dims[str(name)]}"
                yield Diagnostic(f"{where}: {at}", function.loc)


def _gradients(function: FuncOp, params: Mapping[str, Value]) -> Iterator[Diagnostic]:
    """A net with a backward half returns the gradient of every float parameter that is not frozen."""
    kinds = [attrs.get("cnet.kind") for attrs in function.result_attrs]
    if not any(is_backward(op) for op in function.ops) and not any(kind in GRADIENTS for kind in kinds):
        return
    given = [attrs.get("cnet.name") for attrs, kind in zip(function.result_attrs, kinds, strict=True) if kind == "grad"]
    for name, param in params.items():
        if name in given or not isinstance(param.type, TensorType) or not param.type.is_float:
            continue
        if param.attrs.get("cnet.lr", 1.0) != 0.0:
            message = f"@{function.sym_name} has a backward half, but returns no gradient of parameter `{name}`"
            yield Diagnostic(message, function.loc, help="return it, or freeze the parameter: `cnet.lr = 0.0`")


def _arguments(function: FuncOp, kind: str) -> dict[str, Value]:
    return {str(a.attrs.get("cnet.name")): a for a in function.args if a.attrs.get("cnet.kind") == kind}


def _attributes(what: str, kind: Attr, attrs: Mapping[str, Attr]) -> Iterator[str]:
    for key in NUMBERS:
        number = attrs.get(key, 1.0)
        if key == WEIGHT and is_quotient(number):
            continue
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


def _staging(what: str, kind: str, attrs: Mapping[str, Attr], type: TensorType) -> Iterator[str]:
    """An input that is staged elsewhere than in ``inputs`` says base, offset and strides."""
    if BASE not in attrs:
        return
    base, offset, strides = attrs[BASE], attrs.get(OFFSET), attrs.get(STRIDES)
    if (what, kind) != ("argument", "input"):
        yield f"`{BASE}` is for inputs, not for {what}s of kind {kind}"
    elif base not in STAGED_IN:
        yield f"an input is staged in {' or '.join(STAGED_IN)}, not in `{base}`"
    elif isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        yield f"`{OFFSET}` must say at which byte of {base} it lies"
    elif not isinstance(strides, tuple) or len(strides) != type.rank or not all(_is_stride(s) for s in strides):
        yield f"`{STRIDES}` must be {type.rank} whole numbers, in elements"


def _is_stride(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
