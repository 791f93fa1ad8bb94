"""Calls: of functions, ops, blocks and layers.

Data comes first, then at most one attribute by position (the op's size), the rest by name.  For each parameter P of an
op a call may say ``P=blob`` (tie it), ``P=false`` (leave it out), ``P_init=``, ``P_lr=`` and ``P_decay=``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from concatc.diagnostics import Loc, did_you_mean
from concatc.frontend.cnet import ast, limits
from concatc.frontend.cnet.attributes import Attributes, usage
from concatc.frontend.cnet.builtins import FUNCTIONS, FunctionError
from concatc.frontend.cnet.context import Frame, Poisoned, Run, Scope
from concatc.frontend.cnet.expressions import Expressions, is_number
from concatc.frontend.cnet.formals import Argument, bind_formals, count
from concatc.frontend.cnet.graph import OperandError
from concatc.frontend.cnet.names import Callee, CallNames, FunctionCallee, LocalCallee
from concatc.frontend.cnet.project import Block, Unit
from concatc.frontend.cnet.site import ParamOptions, Site
from concatc.frontend.cnet.values import as_layer, describe, is_blob, show
from concatc.ir.core import Value
from concatc.op import Op, ShapeError
from concatc.op_attributes import Signature


@dataclass(eq=False)
class LayerValue:
    """``layer enc = linear(256)``: an op or block with arguments, and one set of parameters for all its calls."""

    name: str
    callee: type[Op] | Block
    path: tuple[str, ...]
    uid: int
    positional: tuple[Argument, ...]
    keywords: dict[str, tuple[ast.Keyword, Any]]
    defaults: dict[str, Any]
    loc: Loc
    calls: int = 0


class RunsBlocks(Protocol):
    """What runs the statements of a block."""

    def block(self, frame: Frame) -> Any:
        """The value that the block returns."""
        ...


@dataclass
class Calls:
    """Evaluates calls in a frame; raises :class:`Poisoned` where an error was reported."""

    run: Run
    expressions: Expressions
    statements: RunsBlocks
    _signatures: dict[str, Signature] = field(default_factory=dict)
    _file_defaults: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attributes = Attributes(self.run)

    def call(self, frame: Frame, call: ast.Call, piped: tuple[Argument, ...]) -> Any:
        """The value of a call; ``piped`` comes first."""
        self.run.charge(frame, call.loc, 5)
        names = frame.names.calls[call.uid]
        layer = as_layer(frame.lookup(call.callee[0])) if len(call.callee) == 1 else None
        callee: Callee | None = names.callee if layer is None else None
        if layer is None and callee is None:
            raise Poisoned
        positional = [*piped, *((e, self.expressions.evaluate(frame, e)) for e in call.positional)]
        keywords = {k.name: (k, self.expressions.evaluate(frame, k.value)) for k in call.keywords}
        if layer is not None:
            return self._layer(frame, layer, call, positional, keywords)
        if isinstance(callee, type) and callee.name in FUNCTIONS and all(is_number(v) for _, v in positional):
            callee = FunctionCallee(callee.name)
        if isinstance(callee, FunctionCallee):
            return self._function(frame, callee.name, call, positional, keywords)
        if isinstance(callee, LocalCallee):
            self._not_callable(frame, callee.name, call)
        assert callee is not None
        path = (*frame.segments, names.segment) if names.segment else frame.segments
        if isinstance(callee, Block):
            return self._block(frame, callee, call.loc, call.callee_loc, path, positional, keywords, frame.layers)
        defaults = self._defaults(frame, names)
        return self._op(frame, callee, call, path, call.uid, positional, keywords, defaults, frame.layers)

    def _not_callable(self, frame: Frame, name: str, call: ast.Call) -> NoReturn:
        value = self.expressions.evaluate(frame, ast.Reference((name,), call.callee_loc))
        raise self.run.fail(frame, f"`{name}` is {describe(value)} and cannot be called", call.callee_loc)

    # -- functions on numbers, lists and shapes --------------------------------------------------------------------
    def _function(
        self,
        frame: Frame,
        name: str,
        call: ast.Call,
        positional: Sequence[Argument],
        keywords: dict[str, tuple[ast.Keyword, Any]],
    ) -> Any:
        function = FUNCTIONS[name]
        takes = f"`{name}({', '.join(function.parameters)})`"
        if len(positional) > len(function.parameters):
            raise self.run.fail(frame, f"too many arguments: {takes}", call.loc)
        values = dict(zip(function.parameters, (value for _, value in positional), strict=False))
        for key, (keyword, value) in keywords.items():
            if key not in function.parameters or key in values:
                problem = "is given twice" if key in values else f"is no parameter of {takes}"
                raise self.run.fail(
                    frame, f"`{key}` {problem}", keyword.loc, help=did_you_mean(key, function.parameters)
                )
            values[key] = value
        if function.defaults:
            values = {**dict(zip(function.parameters, function.defaults, strict=True)), **values}
        missing = [p for p in function.parameters if p not in values]
        if missing:
            raise self.run.fail(frame, f"`{name}` needs `{missing[0]}`: {takes}", call.loc)
        try:
            if name in ("min", "max"):
                self.run.decisions.append((name, *(values[p] for p in function.parameters)))
            return function.run(*(values[p] for p in function.parameters))
        except FunctionError as error:
            raise self.run.fail(frame, error.message, call.loc, help=error.help) from None

    # -- blocks ------------------------------------------------------------------------------------------------------
    def _block(
        self,
        frame: Frame,
        block: Block,
        loc: Loc,
        callee_loc: Loc,
        path: tuple[str, ...],
        positional: Sequence[Argument],
        keywords: dict[str, tuple[ast.Keyword, Any]],
        layers: tuple[object, ...],
    ) -> Any:
        names = self.run.analysis.of_block(block)
        if self.run.analysis.is_circular(block):
            raise Poisoned
        if len(frame.calls) >= limits.CALL_DEPTH:
            note = f"the limit is {limits.CALL_DEPTH}"
            raise self.run.fail(frame, "too many blocks call each other here", callee_loc, [note])
        inner = Frame(block.unit, names, path, [Scope()], layers, (*frame.calls, loc))
        bind_formals(self.run, self.expressions, frame, inner, block, loc, positional, keywords)
        return self.statements.block(inner)

    # -- layers --------------------------------------------------------------------------------------------------------
    def define_layer(self, frame: Frame, statement: ast.Layer) -> LayerValue:
        """``layer enc = linear(256)``: evaluate the arguments; the parameters are made at the first call."""
        call = statement.call
        names = frame.names.calls[call.uid]
        callee = names.callee
        if callee is None:
            raise Poisoned
        if isinstance(callee, FunctionCallee | LocalCallee):
            raise self.run.fail(frame, f"a layer is made of an op or a block, and `{callee.name}` is neither", call.loc)
        if call.label is not None:
            raise self.run.fail(frame, "a layer is called by its name and needs no label", call.label.loc)
        return LayerValue(
            statement.name.text,
            callee,
            (*frame.segments, statement.name.text),
            call.uid,
            tuple((e, self.expressions.evaluate(frame, e)) for e in call.positional),
            {k.name: (k, self.expressions.evaluate(frame, k.value)) for k in call.keywords},
            self._defaults(frame, names),
            statement.loc,
        )

    def _layer(
        self,
        frame: Frame,
        layer: LayerValue,
        call: ast.Call,
        positional: list[Argument],
        keywords: dict[str, tuple[ast.Keyword, Any]],
    ) -> Any:
        for key, (keyword, _) in keywords.items():
            raise self.run.fail(
                frame,
                f"`{key}` is given where layer `{layer.name}` is called",
                keyword.loc,
                help=f"give it where the layer is made, in line {layer.loc.line}",
            )
        if layer.positional and not isinstance(layer.callee, Block):
            for expr, value in positional:
                if not is_blob(value) and not isinstance(value, tuple):
                    raise self.run.fail(
                        frame,
                        f"layer `{layer.name}` has its attributes already, and takes {describe(value)} for one more",
                        call.loc if expr is None else expr.loc,
                        help=f"they are given where the layer is made, in line {layer.loc.line}",
                    )
        layers = (*frame.layers, layer)
        layer.calls += 1
        arguments = [*positional, *layer.positional]
        if isinstance(layer.callee, Block):
            return self._block(
                frame, layer.callee, call.loc, call.callee_loc, layer.path, arguments, layer.keywords, layers
            )
        return self._op(
            frame, layer.callee, call, layer.path, layer.uid, arguments, layer.keywords, layer.defaults, layers
        )

    def layer_parameter(self, frame: Frame, layer: LayerValue, rest: Sequence[str], loc: Loc) -> Value:
        """``enc.weight``."""
        prefix = ".".join(layer.path) + "."
        known = {path.removeprefix(prefix): p for path, p in self.run.graph.params.items() if path.startswith(prefix)}
        name = ".".join(rest)
        if name in known:
            return known[name]
        if layer.calls == 0:
            raise self.run.fail(
                frame,
                f"`{layer.name}` has no parameters yet",
                loc,
                [f"line {layer.loc.line} makes the layer; its first call makes its parameters"],
                f"call `{layer.name}(..)` above this line",
            )
        parts = ", ".join(f"`{layer.name}.{k}`" for k in known) or "none"
        raise self.run.fail(
            frame,
            f"layer `{layer.name}` has no parameter `{name}`",
            loc,
            [f"it has {parts}"],
            did_you_mean(name, known),
        )

    # -- ops -----------------------------------------------------------------------------------------------------------
    def _op(
        self,
        frame: Frame,
        op: type[Op],
        call: ast.Call,
        path: tuple[str, ...],
        uid: int,
        positional: Sequence[Argument],
        keywords: dict[str, tuple[ast.Keyword, Any]],
        defaults: dict[str, Any],
        layers: tuple[object, ...],
    ) -> Any:
        signature = self.signature(op)
        named_data = [k for key, (k, _) in keywords.items() if key in (d.lstrip("*") for d in signature.data)]
        if any(not self.attributes.is_known(frame, op, signature, keyword) for keyword in named_data):
            raise Poisoned
        data, size = self._split_positional(frame, op, signature, call, positional)
        values: dict[str, Any] = dict(defaults)
        given: dict[str, tuple[Loc, Any]] = {}
        if size is not None:
            assert signature.size is not None
            given[signature.size] = (call.loc if size[0] is None else size[0].loc, size[1])
        failed = False
        for key, (keyword, value) in keywords.items():
            if key in given:
                self.run.report(frame, f"`{key}` is given twice", keyword.loc)
                failed = True
            given[key] = (keyword.value.loc, value)
            failed |= not self.attributes.is_known(frame, op, signature, keyword)
        if failed:
            raise Poisoned
        for key, (loc, value) in given.items():
            values[key] = self.attributes.value(frame, op, signature, key, value, loc)
        missing = [a.name for a in signature.attributes.values() if a.required and a.name not in values]
        if missing:
            self._missing_attribute(frame, op, signature, call, missing)
        attributes = {name: values[name] for name in signature.attributes if name in values}
        site = Site(
            self.run.graph.b,
            self.run.train,
            op.name,
            self.run,
            frame,
            path,
            uid,
            call.loc,
            {p: param_options(p, values) for p in op.params},
            layers,
        )
        self.run.graph.b.loc = call.loc
        operands = [(e, v) for e, v in data]
        try:
            result = op.build(site, *(v for _, v in data), **attributes)
        except ShapeError as error:
            self.shape_error(frame, error, call.loc, operands)
        doubt = op.doubt([v for _, v in data])
        if doubt is not None:
            named = [(self.run.blob_name(e, v), v) for e, v in data]
            self.run.warn(_fill(doubt[0], named), call.loc, doubt[1])
        return result

    def signature(self, op: type[Op]) -> Signature:
        """How the op is called."""
        if op.name not in self._signatures:
            self._signatures[op.name] = op.signature()
        return self._signatures[op.name]

    def _split_positional(
        self, frame: Frame, op: type[Op], signature: Signature, call: ast.Call, positional: Sequence[Argument]
    ) -> tuple[list[Argument], Argument | None]:
        variadic = bool(signature.data) and signature.data[-1].startswith("*")
        rest = list(positional)
        data: list[Argument] = []
        while rest and (variadic or len(data) < len(signature.data)):
            expr, value = rest[0]
            if is_blob(value):
                data.append(rest.pop(0))
            elif variadic and isinstance(value, tuple) and all(map(is_blob, value)):
                data += _items(expr, value)
                rest.pop(0)
            else:
                break
        required = len(signature.data) - signature.optional_data
        called = f"`{usage(op, signature)}`"
        if len(data) < required:
            loc = rest[0][0].loc if rest and rest[0][0] is not None else call.loc
            if rest:
                wanted = signature.data[min(len(data), len(signature.data) - 1)].lstrip("*")
                problem = f"`{wanted}` of `{op.name}` must be a blob, not {describe(rest[0][1])}"
                if variadic and isinstance(rest[0][1], tuple):
                    problem = f"`{op.name}` takes a list of blobs, not {show(rest[0][1])}"
                raise self.run.fail(frame, problem, loc, [f"call it as {called}"])
            which = " and ".join(f"`{d.lstrip('*')}`" for d in signature.data[len(data) : required])
            if variadic and positional:
                raise self.run.fail(frame, f"`{op.name}` is given an empty list", call.loc, [f"call it as {called}"])
            raise self.run.fail(frame, f"`{op.name}` needs {which}", call.loc, [f"call it as {called}"])
        if not rest:
            return data, None
        first = rest[0]
        if signature.size is None or len(rest) > 1 or is_blob(first[1]):
            self._too_many(frame, op, signature, call, rest, called)
        return data, first

    def _too_many(
        self, frame: Frame, op: type[Op], signature: Signature, call: ast.Call, rest: list[Argument], called: str
    ) -> NoReturn:
        extra = rest[1] if len(rest) > 1 and signature.size is not None and not is_blob(rest[0][1]) else rest[0]
        loc = extra[0].loc if extra[0] is not None else call.loc
        if is_blob(extra[1]):
            taken = len([d for d in signature.data if not d.startswith("*")])
            raise self.run.fail(frame, f"`{op.name}` takes {count(taken, 'blob')}", loc, [f"call it as {called}"])
        names = [a for a in signature.attributes if a != signature.size]
        help = f"give it by name: {', '.join(f'`{n}=`' for n in names)}" if names else None
        what = "one attribute" if signature.size is not None else "no attribute"
        raise self.run.fail(frame, f"`{op.name}` takes {what} by position", loc, [f"call it as {called}"], help)

    def _missing_attribute(
        self, frame: Frame, op: type[Op], signature: Signature, call: ast.Call, missing: list[str]
    ) -> NoReturn:
        which = ", ".join(f"`{m}`" for m in missing)
        raise self.run.fail(frame, f"`{op.name}` needs {which}", call.loc, [f"call it as `{usage(op, signature)}`"])

    # -- defaults ------------------------------------------------------------------------------------------------------
    def _defaults(self, frame: Frame, names: CallNames) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for default in names.defaults:
            known = frame.defaults if default.uid in frame.defaults else self.file_defaults(frame.unit)
            values.update(known[default.uid])
        return values

    def file_defaults(self, unit: Unit) -> dict[int, dict[str, Any]]:
        """The attributes of the ``default`` items of a file, which see no names of a net or block."""
        if id(unit) not in self._file_defaults:
            frame = Frame(unit, self.run.analysis.of_file(unit))
            self._file_defaults[id(unit)] = {
                item.uid: self.default_values(frame, item) for item in unit.file.items if isinstance(item, ast.Default)
            }
        return self._file_defaults[id(unit)]

    def default_values(self, frame: Frame, default: ast.Default) -> dict[str, Any]:
        """The attributes of a ``default`` statement, checked against its op; an erroneous one is
        reported and left out."""
        op = self.run.analysis.op(default.op.text)
        if op is None:
            return {}  # reported where the names are resolved
        signature = self.signature(op)
        values: dict[str, Any] = {}
        if default.positional:
            self.run.report(frame, "a default gives attributes by name", default.positional[0].loc)
        for keyword in default.keywords:
            try:
                value = self.expressions.evaluate(frame, keyword.value)
                if self.attributes.is_known(frame, op, signature, keyword):
                    values[keyword.name] = self.attributes.value(
                        frame, op, signature, keyword.name, value, keyword.value.loc
                    )
            except Poisoned:
                continue
        return values

    # -- shape errors --------------------------------------------------------------------------------------------------
    def shape_error(self, frame: Frame, error: ShapeError, loc: Loc, operands: Sequence[Argument]) -> NoReturn:
        """Report an op's error with the names, types and lines of its blobs."""
        if self.run.doubtful:
            raise Poisoned
        known = {id(value): expr for expr, value in operands}
        values = error.operands if isinstance(error, OperandError) else tuple(v for _, v in operands)
        named = [(self.run.blob_name(known.get(id(v)), v), v) for v in values]
        notes = [_fill(note, named) for note in error.notes]
        if named:
            notes.append(self.run.blob_note(loc, named))
        help = None if error.help is None else _fill(error.help, named)
        raise self.run.fail(frame, _fill(error.message, named), loc, notes, help)


def param_options(name: str, values: dict[str, Any]) -> ParamOptions:
    """What a call says about the parameter ``name``."""
    options = ParamOptions()
    if name in values:
        value = values[name]
        options = replace(options, tied=value if is_blob(value) else None, omitted=value is False)
    return replace(
        options,
        init=values.get(f"{name}_init"),
        lr=values.get(f"{name}_lr", 1.0),
        decay=values.get(f"{name}_decay", 1.0),
    )


def _items(expr: ast.Expr | None, values: tuple[Any, ...]) -> list[Argument]:
    if isinstance(expr, ast.ListExpr) and len(expr.items) == len(values):
        return list(zip(expr.items, values, strict=True))
    return [(None, value) for value in values]


def _fill(text: str, named: list[tuple[str, Value]]) -> str:
    for k, (name, _) in enumerate(named):
        text = text.replace(f"{{{k}}}", name)
    return text
