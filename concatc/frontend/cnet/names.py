"""What can be known of a net or block before it runs: what each call refers to, and the names of its parameters.

    y = x |> batch_norm |> relu |> conv(8, kernel=1) @conv1       segments  y, -, conv1
    h = conv(h, 8, kernel=3)                                      segment   conv       (h is bound above)

Names are given to *places* in the source, never to what runs, so they cannot depend on dims, phase or passes: a call in
a branch that is not taken keeps its name, and an iteration adds `<variable><value>` when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from concatc.diagnostics import Loc, Sink, did_you_mean
from concatc.frontend.cnet import ast, habits, limits
from concatc.frontend.cnet.builtins import FUNCTIONS
from concatc.frontend.cnet.project import Block, Unit
from concatc.frontend.cnet.walk import all_statements, bodies, expressions_of, walk
from concatc.op import Op, load_all_ops_once

_NET_ONLY: dict[type, str] = {ast.Input: "input", ast.Output: "output", ast.Loss: "loss"}


@dataclass(frozen=True)
class LocalCallee:
    """A call of a name that is bound in the net or block: a layer."""

    name: str


@dataclass(frozen=True)
class FunctionCallee:
    """A call of a function on numbers, lists and shapes: ``len``."""

    name: str


Callee = type[Op] | Block | LocalCallee | FunctionCallee


@dataclass
class CallNames:
    """What a call refers to, the segment that it adds to a path ("" for none), and the defaults that hold for it."""

    callee: Callee | None
    segment: str = ""
    defaults: tuple[ast.Default, ...] = ()


@dataclass
class BodyNames:
    """The static facts of one net or block."""

    definition: ast.Definition
    calls: dict[int, CallNames] = field(default_factory=dict)  # by uid
    losses: dict[int, str] = field(default_factory=dict)  # names of losses, by uid
    bound: dict[str, list[Loc]] = field(default_factory=dict)  # every binding, also those that do not run
    owns: bool = False  # parameters, directly or through blocks
    inner: list[tuple[Block, Loc]] = field(default_factory=list)  # blocks that it calls


@dataclass
class _Claim:
    """A segment that a place wants: ``explicit`` ones get it, the others the next free suffix."""

    scope: tuple[str, ...]
    name: str
    loc: Loc
    explicit: bool
    call: CallNames | None = None


class Analysis:
    """Static facts of all nets and blocks, made on demand."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._done: dict[int, BodyNames] = {}
        self._files: dict[int, BodyNames] = {}
        self._open: list[Block] = []
        self._circular: set[int] = set()
        self._too_deep = False
        self.depth = 0  # bodies inside each other, through calls of blocks

    def of_net(self, unit: Unit, definition: ast.Definition) -> BodyNames:
        """The facts of a net."""
        return self._of(unit, definition)

    def of_block(self, block: Block) -> BodyNames:
        """The facts of a block; a block that calls itself is an error."""
        if block in self._open or len(self._open) > limits.CALL_DEPTH:
            return BodyNames(block.definition)
        self._open.append(block)
        names = self._of(block.unit, block.definition)
        self._open.pop()
        return names

    @staticmethod
    def op(name: str) -> type[Op] | None:
        """The op of that name, if the language can call it."""
        op = load_all_ops_once().get(name)
        return None if op is None or op.internal else op

    @staticmethod
    def op_names() -> list[str]:
        """The ops that the language can call."""
        return [name for name, op in load_all_ops_once().items() if not op.internal]

    def is_circular(self, block: Block) -> bool:
        """Whether the block calls itself, directly or through others."""
        return id(block) in self._circular

    def _of(self, unit: Unit, definition: ast.Definition) -> BodyNames:
        if id(definition) not in self._done:
            self._done[id(definition)] = _BodyAnalysis(self, unit, definition).run()
        return self._done[id(definition)]

    def of_file(self, unit: Unit) -> BodyNames:
        """The facts of the ``default`` items of a file."""
        items = tuple(item for item in unit.file.items if isinstance(item, ast.Default))
        if id(unit) not in self._files:
            place = items[0].loc if items else Loc(unit.file.name, 1, 1)
            definition = ast.Definition("defaults", ast.Name("default", place), (), items, place)
            self._files[id(unit)] = _BodyAnalysis(self, unit, definition).run()
        return self._files[id(unit)]

    def check_circle(self, block: Block, loc: Loc) -> bool:
        """Report a call that closes a circle of blocks, or a chain of them that is too long."""
        if block not in self._open:
            shallow = len(self._open) < limits.CALL_DEPTH and self.depth < limits.DYNAMIC_DEPTH // 2
            if shallow or id(block.definition) in self._done:
                return False
            if not self._too_deep:
                self.sink.error("too many blocks call each other here", loc, [f"the limit is {limits.CALL_DEPTH}"])
            self._too_deep = True
            return True
        circle = self._open[self._open.index(block) :]
        if not any(id(b) in self._circular for b in circle):
            chain = " -> ".join([b.name for b in circle] + [block.name])
            self.sink.error(
                f"block `{block.name}` calls itself",
                loc,
                [chain] if len(circle) > 1 else [],
                "a block is copied into each call; repeat with `for`",
            )
        self._circular |= {id(b) for b in circle}
        return True


class _BodyAnalysis:
    """Walks one body in source order."""

    def __init__(self, analysis: Analysis, unit: Unit, definition: ast.Definition) -> None:
        self.analysis = analysis
        self.sink = analysis.sink
        self.unit = unit
        self.definition = definition
        self.names = BodyNames(definition)
        self.claims: list[_Claim] = []
        self.results: list[tuple[tuple[str, ...], str, int | None]] = []  # scope, name, uid of an unnamed loss
        self.layers = {s.name.text for s in all_statements(definition.body) if isinstance(s, ast.Layer)}
        self.formals = {f.name.text for f in definition.formals}
        self.ops = load_all_ops_once()

    def run(self) -> BodyNames:
        """All facts of the body."""
        for formal in self.definition.formals:
            self._bind(formal.name)
            if formal.default is not None:
                self._calls([formal.default], (), None, ())
        self._body(self.definition.body, (), self._file_defaults())
        self._check_return()
        self._give_segments()
        self._give_loss_names()
        return self.names

    def _file_defaults(self) -> tuple[ast.Default, ...]:
        found: list[ast.Default] = []
        for item in self.unit.file.items:
            if item is self.definition:
                break
            if isinstance(item, ast.Default):
                found.append(item)
        return tuple(found)

    def _bind(self, name: ast.Name) -> None:
        self.names.bound.setdefault(name.text, []).append(name.loc)

    def _body(self, body: tuple[ast.Statement, ...], scope: tuple[str, ...], defaults: tuple[ast.Default, ...]) -> None:
        self.analysis.depth += 1
        for statement in body:
            self._statement(statement, scope, defaults)
            if isinstance(statement, ast.Default):
                defaults = (*defaults, statement)
        self.analysis.depth -= 1

    def _statement(self, statement: ast.Statement, scope: tuple[str, ...], defaults: tuple[ast.Default, ...]) -> None:
        self._check_place(statement)
        self._calls(list(expressions_of(statement)), scope, _target(statement, self.names.bound), defaults)
        if isinstance(statement, ast.Parameter | ast.State | ast.Layer):
            self._claim_explicit(scope, statement.name)
            self.names.owns |= not isinstance(statement, ast.Layer)
        for name in bound_names(statement):
            self._bind(name)
        if isinstance(statement, ast.Loss):
            result = statement.name.text if statement.name else _natural_name(statement.value)
            self.results.append((scope, result, None if statement.name else statement.uid))
        if isinstance(statement, ast.Output):
            self.results.append(
                (scope, statement.name.text if statement.name else _natural_name(statement.value), None)
            )
        inner = (*scope, statement.names[0].text) if isinstance(statement, ast.For) else scope
        for body in bodies(statement):
            self._body(body, inner, defaults)

    def _check_place(self, statement: ast.Statement) -> None:
        if isinstance(statement, ast.Default) and self.analysis.op(statement.op.text) is None:
            help = did_you_mean(statement.op.text, self.analysis.op_names())
            self.sink.error(f"there is no op `{statement.op.text}`", statement.op.loc, help=help)
        if not is_misplaced(statement, self.definition.kind):
            return
        if isinstance(statement, ast.Return):
            help = "`output h` hands a blob to the caller"
            self.sink.error("`return` stands in a block, not in a net", statement.loc, help=help)
            return
        word = _NET_ONLY[type(statement)]
        help = "give the block an argument" if word == "input" else "return the blob and write this in the net"
        self.sink.error(f"`{word}` stands in a net, not in a block", statement.loc, help=help)

    def _check_return(self) -> None:
        broken = holds_bad(self.definition.body)
        if self.definition.kind == "block" and not broken and not holds_return(self.definition.body):
            message = f"block `{self.definition.name.text}` has no `return`"
            self.sink.error(message, self.definition.loc, help="`return y` gives its result")

    # -- calls ---------------------------------------------------------------------------------------------------------
    def _calls(
        self,
        expressions: list[ast.Expr],
        scope: tuple[str, ...],
        target: ast.Name | None,
        defaults: tuple[ast.Default, ...],
    ) -> None:
        unlabelled: list[tuple[ast.Call, CallNames]] = []
        for expression in expressions:
            for call in walk(expression):
                if not isinstance(call, ast.Call):
                    continue
                callee = self._resolve(call)
                relevant = tuple(d for d in defaults if isinstance(callee, type) and d.op.text == callee.name)
                names = CallNames(callee, defaults=relevant)
                self.names.calls[call.uid] = names
                owns = self._owns(callee, call)
                self.names.owns |= owns
                if call.label is not None:
                    self._claim_explicit(scope, call.label, names)
                elif owns:
                    unlabelled.append((call, names))
        for call, names in unlabelled:
            kind = call.callee[-1]
            if target is None:
                wanted = kind
            else:
                wanted = target.text if len(unlabelled) == 1 else f"{target.text}.{kind}"
            self.claims.append(_Claim(scope, wanted, call.loc, False, names))

    def _owns(self, callee: Callee | None, call: ast.Call) -> bool:
        if isinstance(callee, Block):
            self.names.inner.append((callee, call.callee_loc))
            if self.analysis.check_circle(callee, call.callee_loc):
                return False
            return self.analysis.of_block(callee).owns
        return isinstance(callee, type) and bool(callee.params)

    def _resolve(self, call: ast.Call) -> Callee | None:
        name = call.callee[0]
        if len(call.callee) > 1:
            return self._resolve_imported(call)
        if name in self.layers:
            return LocalCallee(name)
        if name in self.unit.blocks:
            return self.unit.blocks[name]
        if name in self.ops and not self.ops[name].internal:
            return self.ops[name]
        if name in FUNCTIONS:
            return FunctionCallee(name)
        if name in self.formals or name in self.names.bound:
            return LocalCallee(name)
        if self.unit.broken:
            return None
        self.sink.error(f"there is no op, block or layer `{name}`", call.callee_loc, help=self._callee_help(name))
        return None

    def _callee_help(self, name: str) -> str | None:
        if name in self.unit.nets:
            return "a net cannot be called; make it a block"
        if name in self.unit.aliases:
            return f"a block of that file is called `{name}.BLOCK(..)`"
        if name in self.ops:
            return f"`{name}` is made by the compiler and cannot be called"
        known = [n for n, op in self.ops.items() if not op.internal]
        near = habits.callee_help(name, [*known, *self.unit.blocks, *self.layers, *FUNCTIONS])
        return near or "`concatc ops` lists the ops; a `block` makes one's own of them"

    def _resolve_imported(self, call: ast.Call) -> Callee | None:
        head, *rest = call.callee
        shown = ".".join(call.callee)
        if head not in self.unit.aliases:
            if not self.unit.broken:
                hint = self._path_help(head, rest)
                self.sink.error(f"there is no import `{head}` to call `{shown}` of", call.callee_loc, help=hint)
            return None
        imported = self.unit.aliases[head]
        if len(rest) == 1 and rest[0] in imported.blocks:
            return imported.blocks[rest[0]]
        if not imported.broken:
            hint = did_you_mean(rest[0], imported.blocks)
            self.sink.error(f"`{head}` has no block `{'.'.join(rest)}`", call.callee_loc, help=hint)
        return None

    def _path_help(self, head: str, rest: list[str]) -> str | None:
        """``x.relu()``, ``nn.Conv2d(..)``: what may be meant by a call of a path that starts with no import."""
        known = [n for n, op in self.ops.items() if not op.internal]
        is_blob = head in self.formals or head in self.names.bound
        meant = habits.meant_callee(rest[-1], known)
        if is_blob and meant is not None:
            return f"ops are no methods: `{meant}({head})` or `{head} |> {meant}`"
        near = did_you_mean(head, self.unit.aliases)
        return near or (None if is_blob else habits.callee_help(rest[-1], known))

    # -- segments ------------------------------------------------------------------------------------------------------
    def _claim_explicit(self, scope: tuple[str, ...], name: ast.Name, call: CallNames | None = None) -> None:
        self.claims.append(_Claim(scope, name.text, name.loc, True, call))

    def _give_segments(self) -> None:
        taken: dict[tuple[tuple[str, ...], str], Loc] = {}
        for claim in self.claims:
            if not claim.explicit:
                continue
            key = (claim.scope, claim.name)
            if key in taken:
                lines = f"in line {taken[key].line} and in line {claim.loc.line}"
                if taken[key].line == claim.loc.line:
                    lines = f"twice in line {claim.loc.line}"
                self.sink.error(
                    f"the label `{claim.name}` stands {lines}",
                    claim.loc,
                    help="labels, parameters and layers of one net or block need names of their own",
                )
                key = (claim.scope, _free(claim.name, lambda n, scope=claim.scope: (scope, n) in taken))
            taken[key] = claim.loc
            if claim.call is not None:
                claim.call.segment = key[1]
        for claim in self.claims:
            if claim.explicit or claim.call is None:
                continue
            name = _free(claim.name, lambda n, scope=claim.scope: (scope, n) in taken)
            taken[claim.scope, name] = claim.loc
            claim.call.segment = name

    def _give_loss_names(self) -> None:
        taken = {(scope, name) for scope, name, uid in self.results if uid is None}
        for scope, name, uid in self.results:
            if uid is None:
                continue
            wanted = "loss1" if name == "loss" else name
            free = _free(wanted, lambda n, scope=scope: (scope, n) in taken)
            taken.add((scope, free))
            self.names.losses[uid] = free


def _free(name: str, is_taken: object) -> str:
    assert callable(is_taken)
    candidate, number = name, 1
    while is_taken(candidate):
        number += 1
        candidate = f"{name}{number}"
    return candidate


def _target(statement: ast.Statement, bound: dict[str, list[Loc]]) -> ast.Name | None:
    """The single target of an assignment, where that name is not bound above."""
    if isinstance(statement, ast.Layer):
        return statement.name
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and statement.targets[0].text not in bound:
        return statement.targets[0]
    return None


def bound_names(statement: ast.Statement) -> tuple[ast.Name, ...]:
    """The names that a statement itself binds."""
    if isinstance(statement, ast.Assign | ast.Bad):
        return statement.targets
    if isinstance(statement, ast.Augment):
        return (statement.target,)
    if isinstance(statement, ast.Input | ast.Parameter | ast.State | ast.Layer):
        return (statement.name,)
    return statement.names if isinstance(statement, ast.For) else ()


def is_misplaced(statement: ast.Statement, kind: str) -> bool:
    """Whether a statement stands in a block but belongs into a net, or the other way round."""
    if kind == "net":
        return isinstance(statement, ast.Return)
    return kind == "block" and type(statement) in _NET_ONLY


def holds_return(body: tuple[ast.Statement, ...]) -> bool:
    """Whether a `return` stands in the body, at any depth."""
    return any(isinstance(statement, ast.Return) for statement in all_statements(body))


def holds_bad(body: tuple[ast.Statement, ...]) -> bool:
    """Whether a statement of the body, at any depth, did not parse."""
    return any(isinstance(statement, ast.Bad) for statement in all_statements(body))


def all_bound_names(body: tuple[ast.Statement, ...]) -> list[str]:
    """The names bound in a body, at any depth."""
    return list(dict.fromkeys(name.text for s in all_statements(body) for name in bound_names(s)))


def _natural_name(expr: ast.Expr) -> str:
    """What a loss or output without `as` is called: its blob, or the op that makes it."""
    if isinstance(expr, ast.Reference):
        return expr.parts[-1]
    if isinstance(expr, ast.Call):
        return expr.callee[-1]
    if isinstance(expr, ast.Pipeline):
        return expr.steps[-1].callee[-1]
    first = next((e for e in walk(expr) if isinstance(e, ast.Call)), None)
    return first.callee[-1] if first else "loss1"
