"""IR text -> :class:`Module`.  The inverse of ``printer``: text -> IR -> text is a fixed point.

    module @m { func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> { func.return %x : tensor<4xf32> } }

Functions alone are a module without a name, as in MLIR.  Reads ops in MLIR's generic form, and the ops of MLIR's own
dialects in the syntax that ``std_syntax`` lists.  A text is data: nothing in it is run, and its size bounds the memory
that reading takes.  What is wrong ends in a :class:`ConcatcError` with file, line and column.
"""

from __future__ import annotations

import re

from concatc.diagnostics import Loc, did_you_mean
from concatc.ir.core import Attr, Block, FuncOp, Module, Operation, Region, Value
from concatc.ir.lexer import Token
from concatc.ir.reader import Reader, short
from concatc.ir.std_syntax import SYNTAX
from concatc.ir.types import Type

# MLIR prints these two without their dialect.
SHORT_NAMES = {"return": "func.return", "call": "func.call"}


def parse_module(text: str, filename: str | None = None) -> Module:
    """The module of a text.  Raises :class:`ConcatcError`.

    An operation without ``loc(..)`` gets its place in this text as its location where ``filename`` is given, so that
    later errors point into the file that was edited; without ``filename`` it gets none.
    """
    return Parser(text, filename).module()


class Parser(Reader):
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, filename: str | None = None) -> None:
        super().__init__(text, filename or "<text>")
        self.locate = filename is not None
        self._scope: dict[str, tuple[list[Value], int]] = {}  # the values of a name and the place of its definition
        self._defined: list[str] = []

    # -- values ----------------------------------------------------------------------------------------------------
    def operand(self) -> Value:
        """``%x`` or ``%x#1``: a value that is defined above."""
        token = self.take("value", "a value such as %x")
        if token.text not in self._scope:
            near = did_you_mean(token.text, self._scope) if len(self._scope) < 1000 else None
            self.fail(f"{token.text} is not defined here", token, near)
        values, _ = self._scope[token.text]
        if not self.at("#"):
            return values[0]
        self.advance()
        index = self.integer("the number of a result")
        if not 0 <= index < len(values):
            self.fail(f"{token.text} has {len(values)} results", token)
        return values[index]

    def operands_in_parentheses(self) -> list[Value]:
        """``(%x, %y)``."""
        self.expect("(")
        found: list[Value] = []
        while not self.accept(")"):
            if found:
                self.expect(",")
            found.append(self.operand())
        return found

    def typed(self, value: Value) -> Type:
        """A type, which must be the value's."""
        token = self.token
        type = self.type()
        if type != value.type:
            self.fail(f"%{value.name} has type {value.type}, not {type}", token)
        return type

    def define(self, token: Token, values: list[Value]) -> None:
        """Let the name of ``token`` stand for the values from here to the end of the region."""
        if token.text in self._scope:
            line = self.source.loc(self._scope[token.text][1]).line
            self.fail(f"{token.text} is defined twice; first in line {line}", token)
        self._scope[token.text] = (values, token.offset)
        self._defined.append(token.text)

    def block_arguments(self, block: Block, closing: str) -> None:
        """``%x: T, %y: T)``, up to the closing token."""
        while not self.accept(closing):
            if block.args:
                self.expect(",")
            token = self.take("value", f"an argument such as %x or `{closing}`")
            self.expect(":")
            value = block.add_arg(self.type(), token.text[1:])
            value.attrs = self.optional_dictionary()
            self.location()
            self.define(token, [value])

    # -- operations ------------------------------------------------------------------------------------------------
    def module(self) -> Module:
        """The whole text: a module, or functions, which a module is put around."""
        while self.token.kind == "alias":
            self._alias()
        if self.at("func.func"):
            module = Module("")
            self._functions(module, "end")
            return module
        if not (self.accept("module") or self.accept("builtin.module")):
            self.expected("`module` or `func.func`")
        name = self.symbol() if self.token.kind == "symbol" else ""
        module = Module(name, attributes=self.dictionary() if self.accept("attributes") else {})
        self.expect("{")
        self._functions(module, "}")
        self.expect("}")
        self.location()
        if self.token.kind != "end":
            self.expected("the end of the text")
        return module

    def _functions(self, module: Module, closing: str) -> None:
        """Operations up to the closing token."""
        seen: set[str] = set()
        while not self.at(closing) and self.token.kind != closing:
            start = self.token
            op = self.operation()
            if isinstance(op, FuncOp):
                if op.sym_name in seen:
                    self.fail(f"there are two functions @{op.sym_name}", start)
                seen.add(op.sym_name)
            module.regions[0].block.append(op)

    def _alias(self) -> None:
        token = self.advance()
        self.expect("=")
        if token.text in self.aliases:
            self.fail(f"{token.text} is defined twice", token)
        self.aliases[token.text] = self.type()

    def operation(self) -> Operation:
        """``%a, %b = name ..``."""
        start = self.token
        names: list[tuple[Token, int]] = []
        while self.token.kind == "value":
            name = self.advance()
            ways = self.integer("how many results") if self.accept(":") else 1
            if not 1 <= ways <= 1000:
                self.fail("a name may stand for 1 to 1000 results", name)
            names.append((name, ways))
            if not self.accept(","):
                break
        if names:
            self.expect("=")
        op = self._operation_body()
        total = sum(ways for _, ways in names)
        if total != len(op.results):
            self.fail(f"{op.name} has {len(op.results)} results, but {total} names stand before `=`", start)
        results = iter(op.results)
        for token, ways in names:
            values = [next(results) for _ in range(ways)]
            for value in values:
                value.name = token.text[1:]
            self.define(token, values)
        op.loc = self.location(start)
        return op

    def _operation_body(self) -> Operation:
        token = self.token
        if token.kind == "string":
            return self._generic_operation()
        if token.kind != "word":
            self.expected("an operation")
        name = SHORT_NAMES.get(token.text, token.text)
        if name == "func.func":
            self.advance()
            return self._function()
        if name not in SYNTAX:
            near = did_you_mean(name, SYNTAX)
            if near is None and "." in name:
                near = f'ops outside MLIR\'s own dialects are written "{name}"(..) : (..) -> ..'
            self.fail(f"unknown operation {short(name)}", token, near)
        self.advance()
        return SYNTAX[name].parse(self, name)

    def _generic_operation(self) -> Operation:
        name = self.string()
        if not _OP_NAME.match(name):
            self.fail('an operation is named "dialect.name"', self.peek(-1))
        operands = self.operands_in_parentheses()
        attributes: dict[str, Attr] = {}
        if self.at("<"):
            self.advance()
            attributes |= self.dictionary()
            self.expect(">")
        regions: list[Region] = []
        if self.accept("("):
            while not self.accept(")"):
                if regions:
                    self.expect(",")
                regions.append(self.region())
        attributes |= self.optional_dictionary()
        self.expect(":")
        start = self.token
        type = self.function_type()
        if len(type.inputs) != len(operands):
            self.fail(f"{name} has {len(operands)} operands, but its type takes {len(type.inputs)}", start)
        for operand, expected in zip(operands, type.inputs, strict=True):
            if operand.type != expected:
                self.fail(f"%{operand.name} has type {operand.type}, not {expected}", start)
        return Operation(name, operands, type.results, attributes, regions)

    def region(self, args: list[tuple[Token, Type]] | None = None, terminator: str | None = None) -> Region:
        """``{ operations }``, with blocks ``^bb0(%x: T):`` where the text has them.

        ``args`` are the arguments of the first block; a ``terminator`` that the text leaves out is added.
        """
        self.deeper()
        self.expect("{")
        mark = len(self._defined)
        region = Region()
        if args is not None or not self.at("}"):
            block = region.add_block(Block())
            for token, type in args or []:
                self.define(token, [block.add_arg(type, token.text[1:])])
            self._block_label(block)
            while not self.accept("}"):
                if self.token.kind == "block":
                    block = region.add_block(Block())
                    self._block_label(block)
                    continue
                block.append(self.operation())
            if terminator and (not block.ops or block.ops[-1].name != terminator):
                block.append(Operation(terminator))
        else:
            self.advance()
        self._forget(mark)
        self.depth -= 1
        return region

    def _block_label(self, block: Block) -> None:
        if self.token.kind != "block":
            return
        self.advance()
        if self.accept("("):
            self.block_arguments(block, ")")
        self.expect(":")

    def _forget(self, mark: int) -> None:
        for name in self._defined[mark:]:
            del self._scope[name]
        del self._defined[mark:]

    def _function(self) -> FuncOp:
        mark = len(self._defined)
        private = self.accept("private")
        if not private:
            self.accept("public")
        name = self.symbol()
        self.expect("(")
        if self.at(")") or self.token.kind == "value":
            function = FuncOp(name, private=private)
            self.block_arguments(function.body, ")")
        else:
            function = FuncOp(name, private=True)
            while not self.accept(")"):
                if function.args:
                    self.expect(",")
                value = function.body.add_arg(self.type(), f"arg{len(function.args)}")
                value.attrs = self.optional_dictionary()
        results, function.result_attrs = self._function_results()
        if self.accept("attributes"):
            function.attributes = self.dictionary()
        if self.at("{"):
            self._function_body(function, results)
        else:
            function.declared = results
            function.private = True
        self._forget(mark)
        return function

    def _function_body(self, function: FuncOp, results: tuple[Type, ...]) -> None:
        brace = self.expect("{")
        while not self.accept("}"):
            function.body.append(self.operation())
        if not function.ops or function.ops[-1].name != "func.return":
            self.fail(f"@{function.sym_name} does not end in func.return", brace)
        returned = tuple(v.type for v in function.ret.operands)
        if returned != results:
            self.fail(
                f"@{function.sym_name} returns ({', '.join(map(str, returned))}), but says "
                f"({', '.join(map(str, results))})",
                brace,
            )

    def _function_results(self) -> tuple[tuple[Type, ...], list[dict[str, Attr]]]:
        if not self.accept("->"):
            return (), []
        if not self.accept("("):
            return (self.type(),), [{}]
        types: list[Type] = []
        attrs: list[dict[str, Attr]] = []
        while not self.accept(")"):
            if types:
                self.expect(",")
            types.append(self.type())
            attrs.append(self.optional_dictionary())
        return tuple(types), attrs

    # -- locations -------------------------------------------------------------------------------------------------
    def location(self, start: Token | None = None) -> Loc | None:
        """``loc("f.cnet":3:4)`` or ``loc(unknown)``; without it the place of ``start`` (see :func:`parse_module`)."""
        if not self.accept("loc"):
            return self.source.loc(start.offset) if start and self.locate else None
        self.expect("(")
        if self.accept("unknown"):
            self.expect(")")
            return None
        file = self.string("a file name or `unknown`")
        self.expect(":")
        line = self.integer("a line")
        self.expect(":")
        column = self.integer("a column")
        self.expect(")")
        return Loc(file, line, column)


_OP_NAME = re.compile(r"[A-Za-z_][\w$]*(?:\.[\w$]+)+\Z", re.ASCII)
