"""Reading types and attributes: the lower half of the parser, over the tokens of one text.

    tensor<2x3xf32>    memref<4x?xf32, strided<[?, 1]>>    (f32) -> i1    3 : i64    array<i64: 4, 4>    {axis = 1}

Sizes and nesting are bounded here, so that no text makes the reader allocate or recurse without end.
"""

from __future__ import annotations

import math
import re
from typing import NoReturn

from concatc.diagnostics import did_you_mean
from concatc.ir.attributes import float_value
from concatc.ir.core import Attr, SymbolRef
from concatc.ir.lexer import Source, Token, unquote
from concatc.ir.types import ELEMENT_BYTES, FunctionType, MemRefType, ScalarType, TensorType, Type

# A text may not ask for more than this, whatever memory the machine has.
MAX_NUMEL = 1 << 40
MAX_RANK = 32
MAX_DEPTH = 60  # regions in regions, attributes in attributes: far below what Python's stack bears

SCALARS = ("f32", "f64", "i1", "i8", "i32", "i64", "index")


class Reader:
    """The tokens of a text, and what stands in values' types and operations' attributes."""

    def __init__(self, text: str, filename: str) -> None:
        self.source = Source(text, filename)
        self._tokens = self.source.tokens()
        self._next = 0
        self.depth = 0
        self.aliases: dict[str, Type] = {}
        self._types: dict[str, Type] = {}
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
        found = "the end of the text" if self.token.kind == "end" else f"`{short(self.token.text)}`"
        self.fail(f"expected {what}, found {found}", self.token)

    def fail(self, message: str, token: Token | None = None, help: str | None = None) -> NoReturn:
        """Fail at a token (default: the next one)."""
        token = token or self.token
        self.source.fail(message, token.offset, token.offset + len(token.text), help)

    def deeper(self) -> None:
        """Count one more level of nesting."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} deep")

    # -- types -----------------------------------------------------------------------------------------------------
    def type(self) -> Type:
        """A type, or the name of one (``!t4x8``)."""
        token = self.token
        if token.kind == "alias":
            if token.text not in self.aliases:
                self.fail(f"unknown type {token.text}", token, did_you_mean(token.text, self.aliases))
            self.advance()
            return self.aliases[token.text]
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
            self.fail(f"`{short(dtype)}` is no element type; known are {', '.join(ELEMENT_BYTES)}", token)
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
            self.fail(f"expected an extent{' or `?`' if dynamic else ''}, found `{short(text)}`", token)
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
        self.deeper()
        inputs = self.types_in_parentheses()
        self.expect("->")
        results = self.types_in_parentheses() if self.at("(") else (self.type(),)
        self.depth -= 1
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
            self.fail(f"expected numbers of type {kind.strip()}, found `{short(body.strip())}`", token)
        return self.fail(f"`{short(kind)}` is no element type of an array", token)

    def _list(self) -> Attr:
        self.deeper()
        self.expect("[")
        found: list[Attr] = []
        while not self.accept("]"):
            if found:
                self.expect(",")
            found.append(self.attribute())
        self.depth -= 1
        return tuple(found)

    def dictionary(self) -> dict[str, Attr]:
        """``{a = 1 : i64, transpose}``."""
        self.deeper()
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
                self.fail(f"the attribute `{short(name)}` stands twice", token)
            found[name] = self.attribute() if self.accept("=") else True
        self.depth -= 1
        return found

    def optional_dictionary(self) -> dict[str, Attr]:
        """A dictionary if there is one."""
        return self.dictionary() if self.at("{") else {}


_FLOATS = ("f32", "f64")
_BOOLS = {"true": True, "false": False, "0": False, "1": True}
_LAYOUT = re.compile(r"\s*strided<\s*\[([^\[\]]*)\]\s*(?:,\s*offset:([^<>]*))?>\s*\Z")


def _dynamic(text: str) -> int | None:
    return None if text.strip() == "?" else _int64(text.strip())


def _int64(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
        raise ValueError
    return int(text)


def short(text: str) -> str:
    """A text that a message may quote."""
    return text if len(text) <= 60 else f"{text[:57]}..."
