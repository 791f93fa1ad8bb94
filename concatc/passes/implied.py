"""What the text of a dump need not say, because the rest of it does.

    %y = "cnet.linear"(%x, %w)                     {transpose = false} is the default
    %p, %q = "cnet.split"(%y) : .. -> (!t, !t)     {ways = 2} is seen
    %x.grad = "cnet.relu_grad"(%y, %y.grad)        {transposes = "relu %y"}: relu is the reader of %x
    func.return %w.grad                            {cnet.kind = "grad", cnet.name = "w"}: %w is a parameter

:class:`ShortForm` leaves such attributes out, :func:`restore` puts them back.  Both ask the same questions, of the
names as they are printed, so that the answers are the same.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from concatc.initial_values import MSRA, XAVIER
from concatc.ir.core import Attr, FuncOp, Module, Operation, Value
from concatc.ir.types import TensorType
from concatc.op import DIALECT, Op, is_op, load_all_ops_once
from concatc.passes.graph import short_name, split_source

# A function with these dims is a net: each of its arguments and results is of some kind.
DIMS, NET = "cnet.dims", "cnet.net"


class ShortForm:
    """The attributes that the text of one function says; ``name(value)`` is the text of a value, ``%h``."""

    def __init__(self, function: FuncOp, name: Callable[[Value], str]) -> None:
        self._function = function
        self._name = name
        self._params = _params(function)
        self._provenance = _Provenance(function, name)

    def operation(self, op: Operation) -> Mapping[str, Attr]:
        """All but defaults, what the types of the results show, and a ``transposes`` that follows from names."""
        implied = implied_attributes(op)
        for name in ALWAYS_TOLD.get(short_name(op), ()):
            implied.pop(name, None)
        told = {k: v for k, v in op.attributes.items() if k not in implied or not _identical(implied[k], v)}
        derived = self._provenance.transposes(op)
        if derived is None:
            return told
        if "transposes" not in told:
            return told | {"transposes": None}  # an operation of the forward half whose name looks otherwise
        if told["transposes"] == derived and list(_completed(op, op.attributes, derived)) == list(op.attributes):
            del told["transposes"]
        return told

    def argument(self, arg: Value) -> Mapping[str, Attr]:
        """All but what the name and the type of the argument show; the arguments of a declaration have no names."""
        if self._function.declared is not None:
            return _shortest(
                arg.attrs,
                (("cnet.kind", "cnet.fan_in"), ("cnet.kind",)),
                lambda told: complete_declared_argument(told, arg, is_net(self._function)),
            )
        return _shortest(
            arg.attrs,
            (("cnet.kind", "cnet.name", "cnet.fan_in"), ("cnet.kind", "cnet.name"), ("cnet.name",)),
            lambda told: complete_argument(told, arg, self._name, is_net(self._function)),
        )

    def result(self, index: int) -> Mapping[str, Attr]:
        """All but what the name of the value shows."""
        value = self._function.ret.operands[index]
        return _shortest(
            self._function.result_attrs[index],
            (("cnet.kind", "cnet.name"), ("cnet.name", "cnet.weight"), ("cnet.name",)),
            lambda told: complete_result(told, value, self._name, self._params),
        )

    def function(self) -> Mapping[str, Attr]:
        """All but the name of the net, where it is the function's."""
        return _shortest(self._function.attributes, ((NET,),), lambda told: complete_function(told, self._function))


def restore(module: Module) -> None:
    """Put back what :class:`ShortForm` left out of the functions of a module."""
    for op in module.walk():
        complete(op)
    for function in module.functions:
        if function.declared is None:
            _restore_function(function)
            continue
        for arg in function.args:
            arg.attrs = complete_declared_argument(arg.attrs, arg, is_net(function))


def complete(op: Operation) -> None:
    """Put back the defaults of one operation, and what its results show, in the order of declaration."""
    op.attributes = _completed(op, op.attributes, None)


def _restore_function(function: FuncOp) -> None:
    provenance = _Provenance(function, _own_name)
    for op in function.ops:
        derived = provenance.transposes(op)
        if derived is None:
            continue
        if "transposes" not in op.attributes:
            op.attributes = _completed(op, op.attributes, derived)
        elif op.attributes["transposes"] is None:
            del op.attributes["transposes"]
    function.attributes = complete_function(function.attributes, function)
    for arg in function.args:
        arg.attrs = complete_argument(arg.attrs, arg, _own_name, is_net(function))
    params = _params(function)
    if len(function.result_attrs) == len(function.ret.operands):
        pairs = zip(function.result_attrs, function.ret.operands, strict=True)
        function.result_attrs = [complete_result(given, value, _own_name, params) for given, value in pairs]


# -- attributes of operations --------------------------------------------------------------------------------------


def implied_attributes(op: Operation) -> dict[str, Attr]:
    """What an operation's attributes are where its text does not say: defaults, and what its results show."""
    short = short_name(op)
    if not op.name.startswith(DIALECT) or short not in load_all_ops_once():
        return {}
    implied = dict(_defaults(short))
    for name in _shown(short):
        value = _SHOWN[name](op)
        if value is not None:
            implied[name] = value
    return implied


def _completed(op: Operation, given: Mapping[str, Attr], transposes: str | None) -> dict[str, Attr]:
    """All attributes: the op's own in the order of declaration, then what the operation transposes, then others."""
    implied = implied_attributes(op)
    order = load_all_ops_once()[short_name(op)].attribute_fields() if implied else {}
    own = {name: given.get(name, implied.get(name)) for name in order if name in given or name in implied}
    derived: dict[str, Attr] = {} if transposes is None else {"transposes": transposes}
    return own | derived | {name: value for name, value in given.items() if name not in own}


def _shape(op: Operation) -> Attr:
    type = _result_type(op)
    return None if type is None else type.shape


def _dtype(op: Operation) -> Attr:
    type = _result_type(op)
    return None if type is None else type.dtype


def _sizes(op: Operation) -> Attr:
    axis = op.attributes.get("axis", _defaults(short_name(op)).get("axis"))
    types = [r.type for r in op.results]
    if type(axis) is not int or not all(isinstance(t, TensorType) and 0 <= axis < len(t.shape) for t in types):
        return None
    return tuple(r.shape[axis] for r in op.results)


def _result_type(op: Operation) -> TensorType | None:
    type = op.results[0].type if op.results else None
    return type if isinstance(type, TensorType) else None


# Attributes that results show, wherever an op has one of that name.
_SHOWN: dict[str, Callable[[Operation], Attr]] = {
    "shape": _shape,
    "dtype": _dtype,
    "ways": lambda op: len(op.results),
    "sizes": _sizes,
}


@functools.cache
def _defaults(short: str) -> dict[str, Attr]:
    fields = load_all_ops_once()[short].attribute_fields()
    return {name: field.default for name, field in fields.items() if not field.required}


# Which axis is joined or cut is the first thing that a reader asks.
ALWAYS_TOLD = {"concat": ("axis",), "slice": ("axis",)}


@functools.cache
def _shown(short: str) -> tuple[str, ...]:
    return tuple(name for name in load_all_ops_once()[short].attribute_fields() if name in _SHOWN)


# -- what an operation of the backward half transposes -------------------------------------------------------------


class _Provenance:
    """What names say that operations transpose: ``%x.grad`` the reader of ``%x``, ``%y.vjp0`` the maker of ``%y``.

    The first operation of the backward half says it itself, and so shows where the forward half ends.
    """

    def __init__(self, function: FuncOp, name: Callable[[Value], str]) -> None:
        self._name = name
        self._values: dict[str, Value] = {}
        self._readers: dict[Value, list[Operation]] = {}
        self._backward: dict[Operation, None] = {}
        ops = function.ops
        half = next((k for k, op in enumerate(ops) if op.attributes.get("transposes") is not None), len(ops))
        self._backward = dict.fromkeys(ops[half + 1 :])
        if not self._backward:
            return
        self._values = {name(v): v for v in (*function.args, *(y for op in ops[:half] for y in op.results))}
        for op in ops[:half]:
            for operand in op.operands:
                self._readers.setdefault(operand, []).append(op)

    def transposes(self, op: Operation) -> str | None:
        """``relu %y``; None where names do not say."""
        if op not in self._backward or not op.results or op.regions or not op.name.startswith(DIALECT):
            return None
        match = _MADE_BY_VJP.match(self._name(op.results[0]))
        value = self._values.get(match["value"]) if match else None
        if match is None or value is None or (match["use"] and not is_op(op, "split")):
            return None
        if match["use"] or match["part"] != "grad":
            return None if value.op is None else self._describe(value.op)
        found = self._splits(value) if is_op(op, "accumulate") else list(dict.fromkeys(self._differentiable(value)))
        return self._describe(found[0]) if len(found) == 1 else None

    def _describe(self, op: Operation) -> str:
        return f"{short_name(op)} {', '.join(map(self._name, op.results))}"

    def _splits(self, value: Value) -> list[Operation]:
        return [op for op in self._readers.get(value, []) if is_op(op, "split")]

    def _differentiable(self, value: Value) -> Iterator[Operation]:
        """The readers of a value that have a gradient, also those behind splits."""
        waiting = [value]
        while waiting:
            for op in self._readers.get(waiting.pop(), []):
                if is_op(op, "split"):
                    waiting += op.results
                elif _has_gradient(op.name):
                    yield op


_MADE_BY_VJP = re.compile(r"(?P<value>.+)\.(?P<part>grad|vjp\d+)(?P<use>\.use\d+)?\Z", re.DOTALL)


@functools.cache
def _has_gradient(name: str) -> bool:
    op = load_all_ops_once().get(name.removeprefix(DIALECT))
    return op is not None and op.vjp is not Op.vjp


# -- arguments and results of a net --------------------------------------------------------------------------------


def is_net(function: FuncOp) -> bool:
    """Whether the function is a net, whose dims have values."""
    return DIMS in function.attributes


def complete_function(told: Mapping[str, Attr], function: FuncOp) -> dict[str, Attr]:
    """The attributes of a function: a net has its name."""
    if not is_net(function) or NET in told:
        return dict(told)
    return {NET: function.sym_name, **told}


def complete_argument(
    told: Mapping[str, Attr], arg: Value, name: Callable[[Value], str], in_net: bool
) -> dict[str, Attr]:
    """The attributes of an argument: in a net ``cnet.dims`` show an input, and ``cnet.init`` shows a parameter."""
    shown = name(arg).removeprefix("%")
    if "cnet.kind" in told:
        return {"cnet.kind": told["cnet.kind"], "cnet.name": shown, **told}
    if in_net and "cnet.dims" in told:
        return {"cnet.kind": "input", "cnet.name": shown, **told}
    if not in_net or "cnet.init" not in told:
        return dict(told)
    implied: dict[str, Attr] = {"cnet.kind": "param", "cnet.name": shown, "cnet.init": told["cnet.init"]}
    if told["cnet.init"] in _SCALED_BY_FAN_IN and isinstance(arg.type, TensorType):
        implied["cnet.fan_in"] = math.prod(arg.type.shape[1:])
    return {**implied, **told}


def complete_declared_argument(told: Mapping[str, Attr], arg: Value, in_net: bool) -> dict[str, Attr]:
    """The same for an argument of a declaration, whose name is an attribute."""
    name = told.get("cnet.name")
    return complete_argument(told, arg, lambda _: f"%{name}", in_net) if isinstance(name, str) else dict(told)


_SCALED_BY_FAN_IN = (XAVIER.to_attr(), MSRA.to_attr())


def complete_result(
    told: Mapping[str, Attr], value: Value, name: Callable[[Value], str], params: Mapping[str, Attr] | None
) -> dict[str, Attr]:
    """The attributes of a result: the total loss and the gradients of ``params`` (of a net) show their kind."""
    source = split_source(value)
    shown = name(source).removeprefix("%")
    kind = told.get("cnet.kind")
    if kind is None and params is not None and not told:
        kind = _kind_of(source, shown, params)
    if kind is None:
        return dict(told)
    if kind in ("grad", "input_grad", "kept_grad"):
        shown = shown.removesuffix(".grad")
    implied: dict[str, Attr] = {"cnet.kind": kind, "cnet.name": shown}
    if kind == "loss":
        implied["cnet.weight"] = 1.0
    return {**implied, **told}


def _kind_of(source: Value, shown: str, params: Mapping[str, Attr]) -> str | None:
    if source.op is not None and is_op(source.op, "total_loss"):
        return "total"
    return "grad" if shown.endswith(".grad") and shown.removesuffix(".grad") in params else None


def _params(function: FuncOp) -> dict[str, Attr] | None:
    """The parameters of a net, by name; None where the function is no net."""
    if not is_net(function):
        return None
    return {str(a.attrs.get("cnet.name")): True for a in function.args if a.attrs.get("cnet.kind") == "param"}


def _own_name(value: Value) -> str:
    return f"%{value.name}"


def _shortest(
    given: Mapping[str, Attr],
    left_out: Sequence[tuple[str, ...]],
    completed: Callable[[Mapping[str, Attr]], Mapping[str, Attr]],
) -> Mapping[str, Attr]:
    """``given`` without the first of ``left_out`` that comes back when it is completed."""
    for names in left_out:
        told = {k: v for k, v in given.items() if k not in names}
        if _same(completed(told), given):
            return told
    return given


def _same(a: Mapping[str, Attr], b: Mapping[str, Attr]) -> bool:
    return list(a) == list(b) and all(_identical(a[k], b[k]) for k in a)


def _identical(a: Attr, b: Attr) -> bool:
    return type(a) is type(b) and a == b
