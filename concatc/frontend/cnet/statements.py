"""Execution of statements: what a net or block does when it is built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from concatc.diagnostics import Loc, did_you_mean
from concatc.frontend.cnet import ast, habits, limits
from concatc.frontend.cnet.calls import Calls
from concatc.frontend.cnet.context import POISON, Frame, Poisoned, Run, Scope
from concatc.frontend.cnet.expressions import Expressions, is_number
from concatc.frontend.cnet.graph import LossResult
from concatc.frontend.cnet.names import all_bound_names, bound_names, holds_bad, holds_return, is_misplaced
from concatc.frontend.cnet.quotient import of_dim
from concatc.frontend.cnet.values import NumberError, Pairs, Range, as_float, describe, is_blob
from concatc.initial_values import XAVIER, Init, constant
from concatc.ir.core import Value
from concatc.ir.types import FLOATS, INTEGERS, TensorType
from concatc.loss_weights import Terms
from concatc.op import ShapeError

DTYPES = (*FLOATS, *INTEGERS)


class _Returned(Exception):
    """A block returns."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        super().__init__()
        self.values = values


class Statements:
    """Runs statements in a frame.  A statement that fails poisons what it would have bound, and the next one runs."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.expressions = Expressions(run)
        self.calls = Calls(run, self.expressions, self)
        self.expressions.calls = self.calls
        self._rules: dict[type, Callable[[Frame, Any], None]] = {
            ast.Assign: self._assign,
            ast.Augment: self._augment,
            ast.Input: self._input,
            ast.Parameter: self._parameter,
            ast.State: self._state,
            ast.Update: self._update,
            ast.Output: self._output,
            ast.Loss: self._loss,
            ast.Layer: self._layer,
            ast.Default: self._default,
            ast.For: self._for,
            ast.If: self._if,
            ast.Return: self._return,
            ast.Bad: self._bad,
        }

    # -- nets and blocks -----------------------------------------------------------------------------------------------
    def net(self, frame: Frame, dims: Mapping[str, Any]) -> dict[str, Any]:
        """Run a net; returns the values of its dims."""
        values: dict[str, Any] = {}
        for formal in frame.names.definition.formals:
            name = formal.name.text
            try:
                values[name] = of_dim(self._dim(frame, formal, dims))
            except Poisoned:
                values[name] = POISON
            frame.scopes[0].names[name] = values[name]
        self._body(frame, frame.names.definition.body)
        return values

    def _dim(self, frame: Frame, formal: ast.Formal, dims: Mapping[str, Any]) -> Any:
        name = formal.name.text
        if name in dims:
            return dims[name]
        if formal.default is None:
            raise self.run.fail(
                frame, f"dim `{name}` has no value", formal.name.loc, help=f"give one: `--dim {name}=64`"
            )
        value = self.expressions.evaluate(frame, formal.default)
        if is_blob(value):
            raise self.run.fail(frame, f"dim `{name}` cannot be a blob", formal.name.loc)
        return value

    def block(self, frame: Frame) -> Any:
        """Run a block; returns what it returns, several values as a list."""
        definition = frame.names.definition
        try:
            self._body(frame, definition.body)
        except _Returned as returned:
            return returned.values[0] if len(returned.values) == 1 else returned.values
        if not holds_return(definition.body) or holds_bad(definition.body):
            raise Poisoned  # reported where the names are resolved, or where the text was parsed
        message = f"block `{definition.name.text}` ends without `return`"
        raise self.run.fail(frame, message, definition.loc, ["no branch with a `return` was taken"])

    def _body(self, frame: Frame, body: Sequence[ast.Statement]) -> None:
        for statement in body:
            self._statement(frame, statement)

    def _statement(self, frame: Frame, statement: ast.Statement) -> None:
        self.run.charge(frame, statement.loc)
        try:
            if is_misplaced(statement, frame.names.definition.kind):
                raise Poisoned  # reported where the names are resolved
            self.run.enter(frame, statement.loc)
            try:
                self._rules[type(statement)](frame, statement)
            finally:
                self.run.depth -= 1
        except Poisoned:
            self.expressions.report_unknown(frame, statement)
            self._poison(frame, statement)

    def _poison(self, frame: Frame, statement: ast.Statement) -> None:
        """Bind what the failed statement would have bound, so that its readers stay silent."""
        names = [name.text for name in bound_names(statement)]
        if isinstance(statement, ast.For):
            names = all_bound_names(statement.body)
        elif isinstance(statement, ast.If):
            names = [name for body in _if_bodies(statement) for name in all_bound_names(body)]
        for name in names:
            frame.bind(name, POISON)
        if frame.names.definition.kind == "block" and holds_return((statement,)):
            raise Poisoned

    def _bad(self, frame: Frame, statement: ast.Bad) -> None:
        raise Poisoned

    # -- assignment ----------------------------------------------------------------------------------------------------
    def _bind(self, frame: Frame, name: str, value: Any) -> None:
        scope = frame.bind(name, value)
        self.run.blobs[".".join((*frame.base, *scope.segments, name))] = value

    def _assign(self, frame: Frame, statement: ast.Assign) -> None:
        start = len(self.run.graph.func.ops)
        value = self.expressions.evaluate(frame, statement.value)
        if len(statement.targets) == 1:
            values = (value,)
        elif isinstance(value, tuple) and len(value) == len(statement.targets):
            values = value
        else:
            found = f"{len(value)} values" if isinstance(value, tuple) else describe(value)
            raise self.run.fail(frame, f"{len(statement.targets)} names cannot take {found}", statement.loc)
        self._finish(frame, start, [(t.text, v) for t, v in zip(statement.targets, values, strict=True)])

    def _augment(self, frame: Frame, statement: ast.Augment) -> None:
        start = len(self.run.graph.func.ops)
        target = ast.Reference((statement.target.text,), statement.target.loc)
        old = self.expressions.evaluate(frame, target)
        value = self.expressions.evaluate(frame, statement.value)
        new = self.expressions.combine(frame, "+", (target, old), (statement.value, value), statement.loc)
        self._finish(frame, start, [(statement.target.text, new)])

    def _finish(self, frame: Frame, start: int, targets: list[tuple[str, Any]]) -> None:
        for name, value in targets:
            self._bind(frame, name, value)
        made = {id(result) for op in self.run.graph.func.ops[start:] for result in op.results}
        if not made:
            return
        blobs: list[tuple[str, Value]] = []
        for name, value in targets:
            if is_blob(value):
                blobs.append((name, value))
            elif isinstance(value, tuple):
                blobs += [(f"{name}.{k}", v) for k, v in enumerate(value) if id(v) in made]
        self.run.graph.name_values(start, blobs, targets[0][0])

    # -- declarations --------------------------------------------------------------------------------------------------
    def _type(self, frame: Frame, type: ast.TypeExpr) -> TensorType:
        if type.dtype not in DTYPES:
            known = ", ".join(f"`{d}`" for d in DTYPES)
            help = habits.type_help(type.dtype, DTYPES) or f"element types are {known}"
            raise self.run.fail(frame, f"there is no element type `{type.dtype}`", type.loc, help=help)
        if len(type.extents) > limits.RANK:
            message = f"a blob may have {limits.RANK} axes, not {len(type.extents)}"
            raise self.run.fail(frame, message, type.extents[limits.RANK].loc)
        shape: list[int] = []
        for axis, extent in enumerate(type.extents):
            size = self.expressions.integer(frame, extent, f"the size of axis {axis}")
            if size < 0:
                raise self.run.fail(
                    frame, f"the size of axis {axis} must not be negative, but it is {size}", extent.loc
                )
            shape.append(size)
        return TensorType(tuple(shape), self.run.dtype(type.dtype))

    def _input(self, frame: Frame, statement: ast.Input) -> None:
        graph, name = self.run.graph, statement.name.text
        if name in graph.inputs:
            note = _first(graph.inputs[name], self)
            self.run.report(frame, f"input `{name}` is declared twice", statement.name.loc, [note])
            return
        type = self._type(frame, statement.type)
        dims = [self._dim_alone(frame, extent) for extent in statement.type.extents]
        try:
            value = graph.add_input(name, type, dims, statement.loc)
        except ShapeError as error:
            raise self.run.fail(frame, error.message, statement.type.loc) from None
        self._bind(frame, name, value)

    @staticmethod
    def _dim_alone(frame: Frame, extent: ast.Expr) -> str:
        """The dim that an extent is, alone and unchanged; else ""."""
        if not isinstance(extent, ast.Reference) or len(extent.parts) > 1:
            return ""
        name = extent.parts[0]
        is_dim = any(f.name.text == name for f in frame.names.definition.formals)
        return name if is_dim and len(frame.names.bound[name]) == 1 else ""

    def _initial(self, frame: Frame, expr: ast.Expr | None, default: Init) -> Init:
        if expr is None:
            return default
        value = self.expressions.evaluate(frame, expr)
        if isinstance(value, Init):
            return value
        if not is_number(value):
            message = f"an initial value is `constant(0)`, `gaussian(std=0.1)` or the like, not {describe(value)}"
            raise self.run.fail(frame, message, expr.loc)
        try:
            return constant(as_float(value))
        except NumberError as error:
            raise self.run.fail(frame, str(error), expr.loc) from None

    def _parameter(self, frame: Frame, statement: ast.Parameter) -> None:
        type = self._type(frame, statement.type)
        if not type.is_float:
            raise self.run.fail(
                frame, f"a parameter is trained and must hold floats, not {type.dtype}", statement.type.loc
            )
        init = self._initial(frame, statement.init, XAVIER if type.rank > 1 else constant(0.0))
        factors = {"lr": 1.0, "decay": 1.0}
        for keyword in statement.keywords:
            if keyword.name not in factors:
                help = did_you_mean(keyword.name, factors)
                raise self.run.fail(
                    frame, f"a parameter takes `lr` and `decay`, not `{keyword.name}`", keyword.loc, help=help
                )
            factors[keyword.name] = self.expressions.number(frame, keyword.value, f"`{keyword.name}`")
            if factors[keyword.name] < 0:
                raise self.run.fail(frame, f"`{keyword.name}` must not be negative", keyword.value.loc)
        path = ".".join((*frame.segments, statement.name.text))
        value = self._owned(frame, path, statement, type, lambda: self.run.graph.params.get(path))
        if value is None:
            fan_in = TensorType(type.shape[1:]).numel
            try:
                value = self.run.graph.add_param(
                    path, type, init, fan_in, factors["lr"], factors["decay"], statement.loc
                )
            except ShapeError as error:
                raise self.run.fail(frame, error.message, statement.type.loc) from None
        self._bind(frame, statement.name.text, value)

    def _state(self, frame: Frame, statement: ast.State) -> None:
        type = self._type(frame, statement.type)
        init = self._initial(frame, statement.init, constant(0.0))
        path = ".".join((*frame.segments, statement.name.text))
        slots = self.run.graph.states
        value = self._owned(frame, path, statement, type, lambda: slots[path].argument if path in slots else None)
        if value is None:
            try:
                self.run.graph.add_state(path, type, init, statement.loc)
            except ShapeError as error:
                raise self.run.fail(frame, error.message, statement.type.loc) from None
        self._bind(frame, statement.name.text, slots[path].current)

    def _owned(
        self,
        frame: Frame,
        path: str,
        statement: ast.Parameter | ast.State,
        type: TensorType,
        find: Callable[[], Value | None],
    ) -> Value | None:
        """The parameter or state of this path, where a layer that is called again has made it."""
        known = find()
        if known is None:
            self.run.param_calls[path] = (statement.uid, frame.layers)
            return None
        uid, layers = self.run.param_calls[path]
        if any(error.loc == statement.name.loc for error in self.run.sink.errors):
            raise Poisoned  # the names of this net or block are reported
        if uid != statement.uid or not any(layer in layers for layer in frame.layers):
            raise self.run.fail(frame, f"two parameters would be called `{path}`", statement.loc, [_first(known, self)])
        if known.type != type:
            raise self.run.fail(
                frame, f"`{path}` is {known.type}, but this call needs {type}", statement.loc, [_first(known, self)]
            )
        return known

    def _update(self, frame: Frame, statement: ast.Update) -> None:
        name = statement.name.text
        start = len(self.run.graph.func.ops)
        current = self.expressions.evaluate(frame, ast.Reference((name,), statement.name.loc))
        slots = self.run.graph.states.values()
        slot = next((s for s in slots if s.current is current), None)
        if slot is None:
            raise self.run.fail(frame, f"`{name}` is {describe(current)}, not a state", statement.name.loc)
        value = self.expressions.evaluate(frame, statement.value)
        if not is_blob(value) or value.type != slot.argument.type:
            message = f"state `{name}` is {slot.argument.type} and cannot become {describe(value)}"
            raise self.run.fail(frame, message, statement.value.loc)
        if not self.run.train:
            return
        slot.current = value
        self._bind(frame, name, value)
        self.run.graph.name_values(start, [(name, value)], name)

    def _layer(self, frame: Frame, statement: ast.Layer) -> None:
        if frame.scope_of(statement.name.text) is not None:
            raise self.run.fail(frame, f"`{statement.name.text}` is bound already", statement.name.loc)
        frame.bind(statement.name.text, self.calls.define_layer(frame, statement))

    def _default(self, frame: Frame, statement: ast.Default) -> None:
        frame.defaults[statement.uid] = {}
        frame.defaults[statement.uid] = self.calls.default_values(frame, statement)

    # -- results -------------------------------------------------------------------------------------------------------
    def _output(self, frame: Frame, statement: ast.Output) -> None:
        start = len(self.run.graph.func.ops)
        if statement.name is None and not isinstance(statement.value, ast.Reference):
            value = self.expressions.evaluate(frame, statement.value)
            raise self.run.fail(frame, "this output needs a name", statement.loc, help="`output .. as NAME`")
        value = self.expressions.evaluate(frame, statement.value)
        if not is_blob(value):
            raise self.run.fail(frame, f"an output is a blob, not {describe(value)}", statement.value.loc)
        name = statement.name.text if statement.name else statement.value.parts[-1]  # type: ignore[union-attr]
        self._add_result(frame, name, statement.loc)
        self.run.graph.outputs[self._result_name(frame, name)] = value
        self.run.graph.name_values(start, [(name, value)], name)

    def _loss(self, frame: Frame, statement: ast.Loss) -> None:
        start = len(self.run.graph.func.ops)
        name = statement.name.text if statement.name else frame.names.losses[statement.uid]
        value = self.expressions.evaluate(frame, statement.value)
        weight: float | Terms = 1.0
        if statement.weight is not None:
            weight = self.expressions.weight(frame, statement.weight)
        if not is_blob(value):
            raise self.run.fail(frame, f"a loss is a blob of one element, not {describe(value)}", statement.value.loc)
        first = next(iter(self.run.graph.losses.values()), None)
        if first is not None and first.value.dtype != value.dtype:
            message = f"this loss is {value.dtype}, but the first one, `{first.name}`, is {first.value.dtype}"
            raise self.run.fail(frame, message, statement.loc, help="losses are added, so they need one element type")
        value = self._scalar(frame, statement, value)
        self._add_result(frame, name, statement.loc)
        full = self._result_name(frame, name)
        self.run.graph.losses[full] = LossResult(full, value, weight)
        self.run.graph.name_values(start, [(name, value)], name)

    def _scalar(self, frame: Frame, statement: ast.Loss, value: Value) -> Value:
        if value.tensor.numel != 1 or not value.tensor.is_float:
            help = "take the mean or the sum: `mean(h)`" if value.tensor.is_float else None
            message = f"a loss is one number, but {self.run.blob_name(statement.value, value)} is {value.type}"
            raise self.run.fail(frame, message, statement.value.loc, help=help)
        if value.shape == ():
            return value
        self.run.graph.b.loc = statement.value.loc
        scalar: Value = self.run.graph.b.reshape(value, shape=())
        return scalar

    @staticmethod
    def _result_name(frame: Frame, name: str) -> str:
        return ".".join((*frame.segments, name))

    def _add_result(self, frame: Frame, name: str, loc: Loc) -> None:
        full = self._result_name(frame, name)
        if full in self.run.graph.locs:
            line = self.run.graph.locs[full].line
            raise self.run.fail(
                frame, f"two results are called `{full}`", loc, [f"the other is in line {line}"], "`as NAME`"
            )
        self.run.graph.locs[full] = loc

    # -- control -------------------------------------------------------------------------------------------------------
    def _for(self, frame: Frame, statement: ast.For) -> None:
        try:
            items, pairs = self._loop_items(frame, statement)
        except Poisoned:
            # Once, for the errors in the body; what hangs on the loop's variables is silent.
            with contextlib.suppress(_Returned):
                self._iteration(frame, statement, "", [POISON] * len(statement.names))
            raise
        for label, values in _iterations(items, pairs):
            self._iteration(frame, statement, label, values)

    def _loop_items(self, frame: Frame, statement: ast.For) -> tuple[tuple[Any, ...] | Range, bool]:
        """What a loop goes over, and whether it goes over pairs."""
        iterable = self.expressions.evaluate(frame, statement.iterable)
        pairs = isinstance(iterable, Pairs)
        items = iterable.items if isinstance(iterable, Pairs) else iterable
        if not isinstance(items, tuple | Range):
            help = "`for i in 0..n` repeats n times" if is_number(items) else None
            message = f"`for` goes over a range or a list, not {describe(items)}"
            raise self.run.fail(frame, message, statement.iterable.loc, help=help)
        if len(statement.names) != (2 if pairs else 1):
            help = "`for i, x in enumerate(xs)` counts" if not pairs else "`for i, x in enumerate(xs)`"
            message = "a loop over pairs binds two names" if pairs else "this loop binds one name"
            raise self.run.fail(frame, message, statement.names[0].loc, help=help)
        if len(items) > limits.STEPS:
            raise self.run.fail(
                frame,
                f"this loop runs {len(items)} times; a net takes at most {limits.STEPS} steps to build",
                statement.iterable.loc,
                help="a loop is written out, once for each iteration",
            )
        return items, pairs

    def _iteration(self, frame: Frame, statement: ast.For, label: str, values: Sequence[Any]) -> None:
        # A scope of its own: what an iteration binds is gone after it, unless it was bound outside.
        names = [name.text for name in statement.names]
        segments = (*frame.scopes[-1].segments, f"{names[0]}{label}")
        frame.scopes.append(Scope(dict(zip(names, values, strict=True)), segments))
        try:
            self.run.charge(frame, statement.iterable.loc)
            self._body(frame, statement.body)
        finally:
            frame.scopes.pop()

    def _if(self, frame: Frame, statement: ast.If) -> None:
        for k, (condition, body) in enumerate(statement.branches):
            try:
                holds = self.expressions.condition(frame, condition)
            except Poisoned:
                self._doubtful(frame, [body, *(b for _, b in statement.branches[k + 1 :]), statement.otherwise])
                raise
            if holds:
                self._body(frame, body)
                return
        self._body(frame, statement.otherwise)

    def _doubtful(self, frame: Frame, branches: Sequence[Sequence[ast.Statement]]) -> None:
        """Run each branch for its errors, less those of shapes: the condition may be what keeps them out."""
        for body in branches:
            before = [dict(scope.names) for scope in frame.scopes]
            self.run.doubtful += 1
            try:
                with contextlib.suppress(Poisoned, _Returned):
                    self._body(frame, body)
            finally:
                self.run.doubtful -= 1
                for scope, names in zip(frame.scopes, before, strict=True):
                    scope.names = names

    def _return(self, frame: Frame, statement: ast.Return) -> None:
        values = tuple(self.expressions.evaluate(frame, value) for value in statement.values)
        raise _Returned(values)


def _iterations(items: tuple[Any, ...] | Range, pairs: bool) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The label and the values of each iteration: a range is labelled by its value, a list by position."""
    values = items.values() if isinstance(items, Range) else iter(items)
    for k, value in enumerate(values):
        if pairs:
            yield str(k), (Fraction(k), value)
        else:
            yield (str(value) if isinstance(items, Range) else str(k)), (value,)


def _if_bodies(statement: ast.If) -> Iterator[tuple[ast.Statement, ...]]:
    yield from (body for _, body in statement.branches)
    yield statement.otherwise


def _first(value: Value, statements: Statements) -> str:
    where = statements.run.graph.where(value)
    return f"first in line {where.line}" if where is not None else "the compiler made the first"
