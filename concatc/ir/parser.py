"""IR text -> :class:`Module`.  The inverse of ``printer``: text -> IR -> text is a fixed point.

    module @m { func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> { func.return %x : tensor<4xf32> } }

Reads ops in MLIR's generic form, and the ops of MLIR's own dialects in the syntax that ``std_syntax`` lists.  A text
is data: nothing in it is run, and its size bounds the memory that reading takes.  What is wrong ends in a
:class:`ConcatcError` with file, line and column.
"""

from __future__ import annotations

import math
import re
from typing import NoReturn

from concatc.diagnostics import Loc, did_you_mean
from concatc.ir.attributes import float_value
from concatc.ir.core import Attr, Block, FuncOp, Module, Operation, Region, SymbolRef, Value
from concatc.ir.lexer import Source, Token, unquote
from concatc.ir.std_syntax import SYNTAX
from concatc.ir.types import ELEMENT_BYTES, FunctionType, MemRefType, ScalarType, TensorType, Type

# A text may not ask for more than this, whatever memory the machine has.
MAX_NUMEL = 1 << 40
MAX_RANK = 32
MAX_DEPTH = 60  # regions in regions, attributes in attributes: far below what Python's stack bears

SCALARS = ("f32", "f64", "i1", "i8", "i32", "i64", "index")
# MLIR prints these two without their dialect.
SHORT_NAMES = {"return": "func.return", "call": "func.call"}


def parse_module(text: str, filename: str | None = None) -> Module:
    """The module of a text.  Raises :class:`ConcatcError`.

    An operation without ``loc(..)`` gets its place in this text as its location where ``filename`` is given, so that
    later errors point into the file that was edited; without ``filename`` it gets none.
    """
    return Parser(text, filename).module()


class Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, filename: str | None = None) -> None:
        self.source = Source(text, filename or "<text>")
        self.locate = filename is not None
        self._tokens = self.source.tokens()
        self._next = 0
        self._depth = 0
        self._aliases: dict[str, Type] = {}
        self._types: dict[str, Type] = {}
        self._scope: dict[str, tuple[list[Value], int]] = {}  # the values of a name and the place of its definition
        self._defined: list[str] = []
        self.token: Token = self._tokens[0]

    # -- tokens ----------------------------------------------------------------------------------------------------
    def advance(self) -> Token:
        """Take the token."""
        token = self.token
        if token.kind != "end":
            self._next += 1
            self.token = self._tokens[self._next]
        return token

    def peek(self, ahead: int) -> Token:
        """A token behind the next one."""
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)]

    def at(self, *texts: str) -> bool:
        """Whether the token is one of these."""
        return self.token.text in texts

    def accept(self, text: str) -> bool:
        """Take the token if it is ``text``."""
        if self.token.text != text:
            return False
        self.advance()
        return True

    def expect(self, text: str) -> Token:
        """Take the token, which must be ``text``."""
        if self.token.text != text:
            self.expected(f"`{text}`")
        return self.advance()

    def take(self, kind: str, what: str) -> Token:
        """Take a token of this kind."""
        if self.token.kind != kind:
            self.expected(what)
        return self.advance()

    def expected(self, what: str) -> NoReturn:
        """Fail: ``what`` was expected in place of the token."""
        found = "the end of the text" if self.token.kind == "end" else f"`{_short(self.token.text)}`"
        self.fail(f"expected {what}, found {found}", self.token)

    def fail(self, message: str, token: Token | None = None, help: str | None = None) -> NoReturn:
        """Fail at a token (default: the next one)."""
        token = token or self.token
        self.source.fail(message, token.offset, token.offset + len(token.text), help)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} deep")

    # -- types -----------------------------------------------------------------------------------------------------
    def type(self) -> Type:
        """A type, or the name of one (``!t4x8``)."""
        token = self.token
        if token.kind == "alias":
            if token.text not in self._aliases:
                self.fail(f"unknown type {token.text}", token, did_you_mean(token.text, self._aliases))
            self.advance()
            return self._aliases[token.text]
        if token.kind == "shaped":
            self.advance()
            if token.text not in self._types:
                self._types[token.text] = self._shaped_type(token)
            return self._types[token.text]
        if token.text in SCALARS:
            self.advance()
            return ScalarType(token.text)
        if token.text == "(":
            return self.function_type()
        if token.text in ("tensor", "memref"):
            self.fail(f"expected a {token.text} type such as {token.text}<4x8xf32>", token)
        return self.expected("a type")

    def _shaped_type(self, token: Token) -> Type:
        kind, _, body = token.text[:-1].partition("<")
        dims, *layout = body.split(",", 1)
        *extents, dtype = "".join(dims.split()).split("x")
        if dtype not in ELEMENT_BYTES and not (kind == "memref" and dtype == "index"):
            self.fail(f"`{_short(dtype)}` is no element type; known are {', '.join(ELEMENT_BYTES)}", token)
        shape = [self._extent(text, kind == "memref", token) for text in extents]
        if len(shape) > MAX_RANK:
            self.fail(f"a type may not have more than {MAX_RANK} axes", token)
        if math.prod(max(n, 1) for n in shape if n is not None) > MAX_NUMEL:
            self.fail(f"a {kind} may not have more than 2^40 elements", token)
        if kind == "tensor":
            if layout:
                self.fail("a tensor has no layout", token)
            return TensorType(tuple(n for n in shape if n is not None), dtype)
        if not layout:
            return MemRefType(tuple(shape), dtype)
        strides, offset = self._layout(layout[0], token)
        if len(strides) != len(shape):
            self.fail(f"{len(strides)} strides for {len(shape)} axes", token)
        return MemRefType(tuple(shape), dtype, strides, offset)

    def _extent(self, text: str, dynamic: bool, token: Token) -> int | None:
        if text == "?" and dynamic:
            return None
        if not text.isascii() or not text.isdigit():
            self.fail(f"expected an extent{' or `?`' if dynamic else ''}, found `{_short(text)}`", token)
        if len(text) > 15:
            self.fail("a type may not have more than 2^40 elements", token)
        return int(text)

    def _layout(self, text: str, token: Token) -> tuple[tuple[int | None, ...], int | None]:
        m = _LAYOUT.match(text)
        if m is None:
            self.fail("expected a layout such as strided<[8, 1], offset: 4>", token)
        try:
            strides = tuple(_dynamic(s) for s in m.group(1).split(",")) if m.group(1).strip() else ()
            return strides, _dynamic(m.group(2) or "0")
        except ValueError:
            self.fail("strides and offset are integers of 64 bits or `?`", token)

    def types_in_parentheses(self) -> tuple[Type, ...]:
        """``(T, T)``."""
        self.expect("(")
        found: list[Type] = []
        while not self.accept(")"):
            if found:
                self.expect(",")
            found.append(self.type())
        return tuple(found)

    def function_type(self) -> FunctionType:
        """``(T, T) -> T`` or ``(T, T) -> (T, T)``."""
        self._deeper()
        inputs = self.types_in_parentheses()
        self.expect("->")
        results = self.types_in_parentheses() if self.at("(") else (self.type(),)
        self._depth -= 1
        return FunctionType(inputs, results)

    # -- attributes ------------------------------------------------------------------------------------------------
    def integer(self, what: str = "an integer") -> int:
        """An integer that fits 64 bits."""
        token = self.take("int", what)
        if len(token.text) > 20 or not -(1 << 63) <= int(token.text) < 1 << 63:
            self.fail("an integer must fit 64 bits", token)
        return int(token.text)

    def string(self, what: str = "a string") -> str:
        """The text of a string literal."""
        token = self.take("string", what)
        try:
            return unquote(token.text)
        except UnicodeDecodeError:
            self.fail("the bytes of this string are not UTF-8", token)
        except ValueError as error:
            self.fail(str(error), token)

    def symbol(self) -> str:
        """``@name``."""
        token = self.take("symbol", "a symbol such as @f")
        if token.text[1] != '"':
            return token.text[1:]
        return unquote(token.text[1:])

    def number(self, type: str | None = None) -> int | float:
        """A number of the type; without one, ``3`` is an integer and ``3.0`` is not."""
        token = self.token
        if type in _FLOATS or (type is None and token.kind == "float"):
            if token.kind not in ("float", "hex"):
                self.expected("a float such as 1.0")
            self.advance()
            try:
                return float_value(token.text, type or "f64")
            except ValueError as error:
                self.fail(str(error), token)
        return self.integer()

    def attribute(self) -> Attr:
        """The value of an attribute."""
        token = self.token
        match token.kind:
            case "int" | "float" | "hex":
                return self._typed_number()
            case "string":
                return self.string()
            case "symbol":
                return SymbolRef(self.symbol())
            case "array":
                self.advance()
                return self._dense_array(token)
        match token.text:
            case "true" | "false":
                return self.advance().text == "true"
            case "unit":
                self.advance()
                return True
            case "none":
                self.advance()
                return None
            case "[":
                return self._list()
            case "{":
                return self.dictionary()
        if token.kind in ("alias", "shaped") or token.text in SCALARS or token.text == "(":
            return self.type()
        return self.expected("an attribute")

    def _typed_number(self) -> int | float:
        literal = self.token
        # The type behind decides how the bits of a hexadecimal literal are read.
        behind = self.peek(2).text if self.peek(1).text == ":" else None
        type = "f64" if behind is None and literal.kind != "int" else behind
        value = self.number(type)
        if self.accept(":"):
            found = self.token
            if not isinstance(self.type(), ScalarType):
                self.fail("expected a scalar type such as i64", found)
        return value

    def _dense_array(self, token: Token) -> Attr:
        kind, colon, body = token.text[6:-1].partition(":")
        items = [item.strip() for item in body.split(",")] if colon else []
        try:
            match kind.strip():
                case "i1":
                    return tuple(_BOOLS[item] for item in items)
                case "i8" | "i32" | "i64":
                    return tuple(_int64(item) for item in items)
                case "f32" | "f64":
                    return tuple(float_value(item, kind.strip()) for item in items)
        except (ValueError, KeyError):
            self.fail(f"expected numbers of type {kind.strip()}, found `{_short(body.strip())}`", token)
        return self.fail(f"`{_short(kind)}` is no element type of an array", token)

    def _list(self) -> Attr:
        self._deeper()
        self.expect("[")
        found: list[Attr] = []
        while not self.accept("]"):
            if found:
                self.expect(",")
            found.append(self.attribute())
        self._depth -= 1
        return tuple(found)

    def dictionary(self) -> dict[str, Attr]:
        """``{a = 1 : i64, transpose}``."""
        self._deeper()
        self.expect("{")
        found: dict[str, Attr] = {}
        while not self.accept("}"):
            if found:
                self.expect(",")
            token = self.token
            if token.kind not in ("word", "string"):
                self.expected("the name of an attribute or `}`")
            name = self.string() if token.kind == "string" else self.advance().text
            if name in found:
                self.fail(f"the attribute `{_short(name)}` stands twice", token)
            found[name] = self.attribute() if self.accept("=") else True
        self._depth -= 1
        return found

    def optional_dictionary(self) -> dict[str, Attr]:
        """A dictionary if there is one."""
        return self.dictionary() if self.at("{") else {}

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
        """The whole text."""
        while self.token.kind == "alias":
            self._alias()
        if not (self.accept("module") or self.accept("builtin.module")):
            self.expected("`module`")
        name = self.symbol() if self.token.kind == "symbol" else ""
        module = Module(name, attributes=self.dictionary() if self.accept("attributes") else {})
        self.expect("{")
        block = module.regions[0].block
        seen: set[str] = set()
        while not self.accept("}"):
            start = self.token
            op = self.operation()
            if isinstance(op, FuncOp):
                if op.sym_name in seen:
                    self.fail(f"there are two functions @{op.sym_name}", start)
                seen.add(op.sym_name)
            block.append(op)
        self.location()
        if self.token.kind != "end":
            self.expected("the end of the text")
        return module

    def _alias(self) -> None:
        token = self.advance()
        self.expect("=")
        if token.text in self._aliases:
            self.fail(f"{token.text} is defined twice", token)
        self._aliases[token.text] = self.type()

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
            self.fail(f"unknown operation {_short(name)}", token, near)
        self.advance()
        return SYNTAX[name].parse(self, name)

    def _generic_operation(self) -> Operation:
        name = self.string()
        if not _OP_NAME.match(name):
            self.fail('an operation is named "dialect.name"', self._tokens[self._next - 1])
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
        self._deeper()
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
        self._depth -= 1
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


_FLOATS = ("f32", "f64")
_BOOLS = {"true": True, "false": False, "0": False, "1": True}
_LAYOUT = re.compile(r"\s*strided<\s*\[([^\[\]]*)\]\s*(?:,\s*offset:([^<>]*))?>\s*\Z")
_OP_NAME = re.compile(r"[A-Za-z_][\w$]*(?:\.[\w$]+)+\Z", re.ASCII)


def _dynamic(text: str) -> int | None:
    return None if text.strip() == "?" else _int64(text.strip())


def _int64(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
        raise ValueError
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
