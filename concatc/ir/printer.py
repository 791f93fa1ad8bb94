"""IR -> text that MLIR, xDSL and ``parser`` read.  Three styles:

- :data:`READING`  for people: short names for shapes, less than 110 columns, a comment at line ends
- :data:`MACHINE`  for tools: one operation a line, nothing abbreviated, with locations
- :data:`PLAIN`    neither names for shapes nor locations nor comments

The same IR gives the same bytes.  A name stands for one value within its function: the second ``%h`` is printed as
``%h.1``, a value without a name as ``%0``.  Names inside a region may recur in a region beside it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from concatc.diagnostics import Loc
from concatc.ir.attributes import dict_text, symbol_text
from concatc.ir.comments import comment_candidates
from concatc.ir.core import Attr, Block, FuncOp, Module, Operation, Region, Value
from concatc.ir.layout import wrap
from concatc.ir.lexer import quote
from concatc.ir.naming import Names
from concatc.ir.plan_comments import plan_comments
from concatc.ir.std_syntax import GENERIC, SYNTAX
from concatc.ir.types import FunctionType, MemRefType, TensorType, Type

BACKWARD_MARK = "// ---- backward ----"


class Brief(Protocol):
    """Which attributes of a function the text says; the others are implied."""

    def operation(self, op: Operation) -> Mapping[str, Attr]:
        """Those of an operation."""
        ...

    def argument(self, arg: Value) -> Mapping[str, Attr]:
        """Those of an argument."""
        ...

    def result(self, index: int) -> Mapping[str, Attr]:
        """Those of a result."""
        ...

    def function(self) -> Mapping[str, Attr]:
        """Those of the function itself."""
        ...


@dataclass(frozen=True)
class Style:
    """How a module is printed.

    ``brief(function, name)`` knows which attributes the text need not say, where values are printed as ``name(value)``;
    whoever reads such a text puts them back (`concatc/passes/dumps.py`).  Numbers in it have no types.
    """

    locations: bool = False
    comments: bool = False
    aliases: bool = False
    width: int | None = None
    brief: Callable[[FuncOp, Callable[[Value], str]], Brief] | None = None


READING = Style(comments=True, aliases=True, width=109)
MACHINE = Style(locations=True)
PLAIN = Style()


def print_module(module: Module, style: Style = READING) -> str:
    """The text of a module, with a newline at its end."""
    aliases: dict[Type, str] = {}
    if style.aliases:
        # The first round counts how often each type is printed.
        counting = Printer(replace(style, width=None, comments=False))
        counting.module(module)
        aliases = _choose_aliases(counting.types_printed)
    printer = Printer(style, aliases)
    printer.module(module)
    return "\n".join(printer.lines) + "\n"


def print_functions(functions: Iterable[FuncOp], style: Style = PLAIN) -> str:
    """The text of functions alone, which reads back as a module without a name."""
    printer = Printer(style)
    for function in functions:
        printer.function(function)
    return "\n".join(printer.lines) + "\n"


def print_operation(op: Operation, style: Style = PLAIN) -> str:
    """The text of one operation, for messages and tests; what it reads is named as in its function."""
    printer = Printer(style)
    root = op
    while root.block is not None and root.block.region is not None and root.block.region.parent is not None:
        if isinstance(root, FuncOp):
            break
        root = root.block.region.parent
    printer.names.add_function(root)
    printer.operation(op)
    return "\n".join(printer.lines)


def print_excerpt(function: FuncOp, chosen: Container[Operation], style: Style = READING) -> str:
    """Some operations of a function; a line ``// .. 3 operations`` stands for those between."""
    aliases: dict[Type, str] = {}
    if style.aliases:
        counting = Printer(replace(style, width=None, comments=False))
        counting.excerpt(function, chosen)
        aliases = _choose_aliases(counting.types_printed)
    printer = Printer(style, aliases)
    printer.excerpt(function, chosen)
    return "\n".join(printer.lines) + "\n"


class Printer:
    """Collects the lines of one module."""

    def __init__(self, style: Style, aliases: Mapping[Type, str] | None = None) -> None:
        self.style = style
        self.aliases = dict(aliases or {})
        self.lines: list[str] = []
        self.names = Names()
        self.types_printed: Counter[Type] = Counter()
        self._texts: dict[Type, str] = {}
        self._indent = 0
        self._line_before: tuple[str, int] | None = None  # file and line of the operation before, for comments
        self._plan_notes: dict[Operation, str] = {}
        self._brief: Brief | None = None
        self._in_forward = False

    # -- what the syntax of an operation asks ----------------------------------------------------------------------
    def name(self, value: Value) -> str:
        """``%x``; a value that is defined nowhere in the function prints as ``%<x>``, which no parser takes."""
        return self.names.of.get(value) or f"%<{value.name}>"

    def type(self, type: Type) -> str:
        """The text of a type, or its alias."""
        if isinstance(type, FunctionType):
            return self._function_type(type.inputs, type.results)
        self.types_printed[type] += 1
        text = self._texts.get(type)
        if text is None:
            text = self._texts[type] = self.aliases.get(type) or str(type)
        return text

    def dictionary(self, attributes: Mapping[str, Attr], skip: Sequence[str] = (), short: bool = False) -> str:
        """`` {a = 1 : i64}``, with a space before it, or nothing.

        MLIR's own operations tell ``true`` from a name alone, so ``short`` is for others.
        """
        left = {k: v for k, v in attributes.items() if k not in skip} if skip else attributes
        return f" {dict_text(left, self.type, short, typed=self.style.brief is None)}" if left else ""

    def line(self, text: str, op: Operation | None = None, note: str = "") -> None:
        """Print a line, wrapped and commented as the style wants; ``note`` opens the comment."""
        comments = self._comments(op, note) if op is not None and self.style.comments else []
        if self.style.width is None:
            self.lines.append("  " * self._indent + text + (f"  // {comments[0]}" if comments else ""))
            return
        self.lines += wrap(text, comments, 2 * self._indent, self.style.width)

    def region(self, region: Region) -> None:
        """Print the operations of an ``scf`` region without braces; an empty ``scf.yield`` at the end is implied."""
        ops = region.block.ops
        if ops and ops[-1].name == "scf.yield" and not ops[-1].operands and not ops[-1].attributes:
            ops = ops[:-1]
        self._indent += 1
        for op in ops:
            self.operation(op)
        self._indent -= 1

    # -- the parts of a module -------------------------------------------------------------------------------------
    def module(self, module: Module) -> None:
        """Print all of it."""
        self._definitions()
        head = "module"
        if module.sym_name:
            head += f" {symbol_text(module.sym_name)}"
        if module.attributes:
            head += f" attributes{self.dictionary(module.attributes, short=True)}"
        self.line(head + " {")
        self._indent += 1
        outside = Names()
        outside.add_block_list(module.regions[0].blocks)
        for op in module.regions[0].block.ops:
            if isinstance(op, FuncOp):
                self.function(op)
                self.names = outside
            else:
                self.names = outside
                self.operation(op)
        self._indent -= 1
        self.line("}")

    def function(self, function: FuncOp) -> None:
        """Print a function; names of values are its own."""
        self.names = Names()
        self.names.add_function(function)
        self._function(function)

    def excerpt(self, function: FuncOp, chosen: Container[Operation]) -> None:
        """Print some operations of a function, and how many are left out between them."""
        self._definitions()
        self.names.add_function(function)
        self._enter(function)
        left_out = 0
        for op in (*function.ops, None):
            if op is not None and op not in chosen:
                left_out += 1
                if "transposes" in op.attributes and self._in_forward:
                    self._gap(left_out - 1)
                    left_out = 1
                    self._start_backward()
                continue
            self._gap(left_out)
            left_out = 0
            if op is not None:
                self.operation(op)

    def _gap(self, count: int) -> None:
        if count:
            self._line_before = None
            self.line(f"// .. {count} operation{'s' if count > 1 else ''}")

    def _definitions(self) -> None:
        definitions = [f"{name} = {type}" for type, name in self.aliases.items()]
        self.lines += _fill(definitions, 0, self.style.width or 0)

    def operation(self, op: Operation) -> None:
        """Print one operation and its regions."""
        lead = f"{', '.join(map(self.name, op.results))} = " if op.results else ""
        if self._in_forward and "transposes" in op.attributes:
            self._start_backward()
        syntax = SYNTAX.get(op.name)
        if syntax is not None and op.name not in GENERIC:
            text = syntax.print(self, op, f"{lead}{op.name}")
            # With regions the comment stands at the first line.
            self.line(text + self._location(op.loc), None if op.regions else op)
            return
        text = f"{lead}{quote(op.name)}({', '.join(map(self.name, op.operands))})"
        told = op.attributes if self._brief is None else self._brief.operation(op)
        note = "" if "transposes" in told else str(op.attributes.get("transposes", ""))
        tail = f"{self.dictionary(told, short=True)} : {self._signature(op)}{self._location(op.loc)}"
        if not op.regions:
            self.line(text + tail, op, note)
            return
        self.line(f"{text} ({{", op)
        for k, region in enumerate(op.regions):
            if k:
                self.line("}, {")
            self._blocks(region.blocks)
        self.line(f"}}){tail}")

    def _start_backward(self) -> None:
        self._in_forward = False
        self.line(BACKWARD_MARK)

    def _signature(self, op: Operation) -> str:
        return self._function_type([v.type for v in op.operands], [v.type for v in op.results])

    def _function_type(self, inputs: Sequence[Type], results: Sequence[Type]) -> str:
        outputs = ", ".join(map(self.type, results))
        if len(results) != 1:
            outputs = f"({outputs})"
        return f"({', '.join(map(self.type, inputs))}) -> {outputs}"

    def _blocks(self, blocks: Sequence[Block]) -> None:
        for k, block in enumerate(blocks):
            if k or block.args or not block.ops:
                args = ", ".join(f"{self.name(a)}: {self.type(a.type)}" for a in block.args)
                self.line(f"^bb{k}({args}):" if args else f"^bb{k}:")
            self._indent += 1
            for op in block.ops:
                self.operation(op)
            self._indent -= 1

    def _location(self, loc: Loc | None) -> str:
        if not self.style.locations:
            return ""
        if loc is None:
            return " loc(unknown)"
        return f" loc({quote(loc.file)}:{loc.line}:{loc.column})"

    def _comments(self, op: Operation, transposes: str) -> list[str]:
        here = (op.loc.file, op.loc.line) if op.loc else None
        candidates = comment_candidates(op, self.name, show_line=here != self._line_before, transposes=transposes)
        self._line_before = here
        note = self._plan_notes.get(op)
        if note is None:
            return candidates
        return [*(f"{note}  {candidate}" for candidate in candidates), note]

    # -- functions -------------------------------------------------------------------------------------------------
    def _enter(self, function: FuncOp) -> None:
        self._brief = None if self.style.brief is None else self.style.brief(function, self.name)
        self._in_forward = self.style.comments
        self._line_before = None
        self._plan_notes = plan_comments(function, self.name) if self.style.comments else {}

    def _function(self, function: FuncOp) -> None:
        declared = function.declared is not None
        visibility = "private " if function.private or declared else ""
        head = f"func.func {visibility}{symbol_text(function.sym_name)}("
        if declared:
            self._brief = None if self.style.brief is None else self.style.brief(function, self.name)
        else:
            self._enter(function)
        args = [self._argument(a, named=not declared) for a in function.args]
        types = function.type.results
        attrs: Sequence[Mapping[str, Attr]] = function.result_attrs
        if len(attrs) != len(types):
            attrs = [{}] * len(types)
        elif self._brief is not None and not declared:
            attrs = [self._brief.result(k) for k in range(len(types))]
        results = [self.type(t) + self.dictionary(a, short=True) for t, a in zip(types, attrs, strict=True)]
        bare = len(results) == 1 and not attrs[0]
        own = function.attributes if self._brief is None else self._brief.function()
        tail = f" attributes{self.dictionary(own, short=True)}" if own else ""
        tail += "" if declared else " {"
        self._signature_lines(head, args, results, bare, tail + (self._location(function.loc) if declared else ""))
        if declared:
            self._brief = None
            return
        self._indent += 1
        for op in function.ops:
            self.operation(op)
        self._in_forward = False
        self._brief = None
        self._indent -= 1
        self.line("}" + self._location(function.loc))

    def _argument(self, arg: Value, named: bool) -> str:
        attributes = arg.attrs if self._brief is None else self._brief.argument(arg)
        if not named:
            return self.type(arg.type) + self.dictionary(attributes, short=True)
        return f"{self.name(arg)}: {self.type(arg.type)}{self.dictionary(attributes, short=True)}"

    def _signature_lines(self, head: str, args: list[str], results: list[str], bare: bool, tail: str) -> None:
        arrow = ""
        if results:
            arrow = f" -> {results[0]}" if bare else f" -> ({', '.join(results)})"
        whole = f"{head}{', '.join(args)}){arrow}{tail}"
        margin = 2 * self._indent
        width = self.style.width
        if width is None or margin + len(whole) <= width:
            self.lines.append(" " * margin + whole)
            return
        self.lines.append(" " * margin + head)
        for group in _by_owner(_with_commas(args)):
            self.lines += _fill(group, margin + 4, width)
        if not results or margin + len(f"){arrow}{tail}") <= width:
            self.lines += wrap(f"){arrow}{tail}", [], margin, width)
            return
        compact = _fill(_result_units(results, bare, tail), margin + 4, width)
        if len(compact) <= 2:
            self.lines += [compact[0][4:], *compact[1:]]
            return
        self.lines.append(" " * margin + ") -> (")
        self.lines += _fill(_with_commas(results), margin + 4, width)
        self.lines += wrap(f"){tail}", [], margin, width)


def _with_commas(items: Sequence[str]) -> list[str]:
    return [*(f"{item}," for item in items[:-1]), *items[-1:]]


def _result_units(results: Sequence[str], bare: bool, tail: str) -> list[str]:
    """``) -> (T,``, ``T)``, ``attributes {..} {``: what stays on one line each."""
    before, after = (") -> ", "") if bare else (") -> (", ")")
    units = _with_commas(results)
    units[0] = before + units[0]
    units[-1] += after
    if tail.startswith(" attributes"):
        return [*units, tail.strip()]
    return [*units[:-1], units[-1] + tail]


def _by_owner(args: Sequence[str]) -> list[list[str]]:
    """The arguments in groups that share lines: ``%a``, ``%b``; ``%conv1.weight``, ``%conv1.bias``."""
    groups = itertools.groupby(args, lambda arg: arg.partition(":")[0].rpartition(".")[0])
    return [list(group) for _, group in groups]


def _fill(items: Sequence[str], margin: int, width: int) -> list[str]:
    """Lines of as many items as fit; an item that fits no line is wrapped."""
    lines: list[str] = []
    current = ""
    for item in items:
        if current and margin + len(current) + 1 + len(item) <= width:
            current += " " + item
            continue
        if current:
            lines += wrap(current, [], margin, width)
        current = item
    if current:
        lines += wrap(current, [], margin, width)
    return lines


_ALIAS_PREFIX = {"f32": "t", "f64": "d", "i32": "n", "i64": "l", "i1": "b", "i8": "c"}


def _choose_aliases(counts: Mapping[Type, int]) -> dict[Type, str]:
    """Names for the types that are worth one: ``!t64x128`` for a tensor of f32, ``!m0`` for a memref."""
    chosen: dict[Type, str] = {}
    memrefs = 0
    for type, count in counts.items():
        if isinstance(type, TensorType):
            name = f"!{_ALIAS_PREFIX[type.dtype]}{'x'.join(map(str, type.shape))}"
        elif isinstance(type, MemRefType):
            name = f"!m{memrefs}"
        else:
            continue
        text = str(type)
        if count * (len(text) - len(name)) <= len(f"{name} = {text}"):
            continue
        chosen[type] = name
        memrefs += isinstance(type, MemRefType)
    return chosen
