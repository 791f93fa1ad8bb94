"""The syntax of MLIR's own dialects: func, arith, math, scf, memref.

    "arith.addf"    $0, $1fastmath{} : T0          %c = arith.addf %a, %b : f32

One format serves reading and printing, so that they cannot disagree.  In a format ``$0`` is an operand, ``$*`` the
rest of the operands, ``T0`` the type of operand 0, ``R`` the type of the result, ``.predicate`` an attribute that is a
bare word, ``fastmath`` the optional ``fastmath<..>``, ``{}`` the optional dictionary of all other attributes; the rest
stands for itself.  Regions and mixed lists of numbers and values are written by hand below.

How the operations look in memory:

- ``arith.constant``: attribute ``value`` (bool, int or float)
- ``arith.cmpf``, ``arith.cmpi``: attribute ``predicate`` (``"olt"``)
- ``memref.load`` reads (memref, indices..), ``memref.store`` (value, memref, indices..)
- ``memref.view`` reads (buffer, offset in bytes, dynamic extents..)
- ``memref.reinterpret_cast`` and ``memref.subview``: attributes ``offsets``, ``sizes``, ``strides``, each a tuple with
  None where an operand stands; operands (source, those values in this order..)
- ``scf.for`` reads (lower, upper, step, initial values..); its region takes (index, carried values..) and ends in
  ``scf.yield``
- ``scf.if`` reads (condition); one region or two, each ends in ``scf.yield``
- ``func.call``: attribute ``callee`` (a SymbolRef)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from concatc.ir.attributes import float_text, symbol_text
from concatc.ir.core import Attr, Operation, Region, SymbolRef, Value
from concatc.ir.types import I1, INDEX, MemRefType, ScalarType, Type

if TYPE_CHECKING:
    from concatc.ir.lexer import Token
    from concatc.ir.parser import Parser

FLOAT_PREDICATES = (
    *("false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord"),
    *("ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true"),
)
INTEGER_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")


class TextOf(Protocol):
    """What printing asks of the printer."""

    def name(self, value: Value) -> str:
        """``%x``."""
        ...

    def type(self, type: Type) -> str:
        """The text of a type."""
        ...

    def dictionary(self, attributes: Mapping[str, Attr], skip: Sequence[str] = ()) -> str:
        """`` {a = 1 : i64}``, with a space before it, or nothing."""
        ...

    def region(self, region: Region) -> None:
        """Print the operations of a region as lines of their own, without the braces."""
        ...

    def line(self, text: str, op: Operation | None = None) -> None:
        """Print a line."""
        ...


class Syntax(Protocol):
    """How one operation is read and printed, without the names before ``=`` and the location."""

    def parse(self, p: Parser, name: str) -> Operation:
        """Read what stands behind the operation's name."""
        ...

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        """The last line of the operation; lines above it are printed.  ``lead`` is ``%a = name``."""
        ...


ResultTypes = Callable[[Sequence[Type]], list[Type]]


def _same(operand: int, times: int = 1) -> ResultTypes:
    return lambda types: [types[operand]] * times


def _element(types: Sequence[Type]) -> list[Type]:
    if not isinstance(types[0], MemRefType):
        raise ValueError(f"expected a memref, found a value of type {types[0]}")
    return [ScalarType(types[0].dtype)]


_ITEM = re.compile(r"\$\d|\$\*|T\d|R|\.\w+|\{\}|fastmath|[a-z]+|\s+|\S")


@dataclass(frozen=True)
class Format:
    """Syntax from a format string (see the module's docstring); ``results`` is None where ``R`` says the type."""

    text: str
    results: ResultTypes | None = None
    words: tuple[str, ...] = ()  # allowed values of the bare word

    @property
    def items(self) -> list[str]:
        """The parts of the format."""
        return _items(self.text)

    def parse(self, p: Parser, name: str) -> Operation:
        start = p.token
        operands: list[Value] = []
        attributes: dict[str, Attr] = {}
        results: list[Type] = []
        for item in self.items:
            if item.isspace():
                continue
            if item == "$*":
                while p.token.kind == "value":
                    operands.append(p.operand())
                    if not p.accept(","):
                        break
            elif item[0] == "$":
                operands.append(p.operand())
            elif item[0] == "T" and len(item) == 2:
                p.typed(operands[int(item[1])])
            elif item == "R":
                results.append(p.type())
            elif item == "{}":
                attributes |= p.optional_dictionary()
            elif item == "fastmath":
                _parse_fastmath(p, attributes)
            elif item[0] == "." and len(item) > 1:
                if p.token.text not in self.words:
                    p.expected("one of " + ", ".join(self.words))
                attributes[item[1:]] = p.advance().text
            else:
                p.expect(item)
        if self.results is not None:
            try:
                results = self.results([v.type for v in operands])
            except ValueError as error:
                p.fail(str(error), start)
        return Operation(name, operands, results, attributes)

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        text = [lead, " " if self.text[0] not in "({" else ""]
        taken = 0
        known = [item[1:] for item in self.items if item[0] == "." and len(item) > 1]
        for item in self.items:
            if item == "$*":
                text.append(", ".join(map(pr.name, op.operands[taken:])))
            elif item[0] == "$":
                text.append(pr.name(op.operands[int(item[1])]))
                taken += 1
            elif item[0] == "T" and len(item) == 2:
                text.append(pr.type(op.operands[int(item[1])].type))
            elif item == "R":
                text.append(pr.type(op.result.type))
            elif item == "{}":
                text.append(pr.dictionary(op.attributes, [*known, "fastmath"]))
            elif item == "fastmath":
                if "fastmath" in op.attributes:
                    text.append(f" fastmath<{op.attributes['fastmath']}>")
            elif item[0] == "." and len(item) > 1:
                text.append(str(op.attributes[item[1:]]))
            else:
                text.append(" " if item.isspace() else item)
        return "".join(text)


_ITEMS: dict[str, list[str]] = {}


def _items(text: str) -> list[str]:
    if text not in _ITEMS:
        _ITEMS[text] = _ITEM.findall(text)
    return _ITEMS[text]


FASTMATH = ("reassoc", "nnan", "ninf", "nsz", "arcp", "contract", "afn", "fast", "none")


def _parse_fastmath(p: Parser, attributes: dict[str, Attr]) -> None:
    if not p.at("fastmath"):
        return
    p.advance()
    p.expect("<")
    flags: list[str] = []
    while not p.accept(">"):
        if flags:
            p.expect(",")
        if p.token.text not in FASTMATH:
            p.expected("one of " + ", ".join(FASTMATH))
        flags.append(p.advance().text)
    attributes["fastmath"] = ",".join(flags)


class Constant:
    """``arith.constant 1.0 : f32``; an ``i1`` is ``true`` or ``false`` without its type."""

    def parse(self, p: Parser, name: str) -> Operation:
        attributes = p.optional_dictionary()
        if p.at("true", "false"):
            value: Attr = p.advance().text == "true"
            if p.accept(":") and p.type() != I1:
                p.fail("`true` and `false` have type i1")
            return Operation(name, (), [I1], {"value": value, **attributes})
        type = p.peek(2).text if p.peek(1).text == ":" else None
        value = p.number(type)
        p.expect(":")
        token = p.token
        found = p.type()
        if not isinstance(found, ScalarType):
            p.fail(f"a constant is a scalar, not {found}", token)
        if found == I1:
            value = bool(value)
        return Operation(name, (), [found], {"value": value, **attributes})

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        value, type = op.attributes["value"], op.result.type
        extra = pr.dictionary(op.attributes, ["value"])
        if type == I1:
            return f"{lead}{extra} {'true' if value else 'false'}"
        number = float_text(value, str(type)) if isinstance(value, float) else str(value)
        return f"{lead}{extra} {number} : {pr.type(type)}"


class Terminator:
    """``func.return %a, %b : T, T``, or nothing where there are no operands."""

    def parse(self, p: Parser, name: str) -> Operation:
        operands: list[Value] = []
        attributes = p.optional_dictionary()
        while p.token.kind == "value":
            if not operands and _starts_operation(p):
                break
            operands.append(p.operand())
            if not p.accept(","):
                break
        for k, operand in enumerate(operands):
            p.expect("," if k else ":")
            p.typed(operand)
        return Operation(name, operands, (), attributes)

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        head = lead + pr.dictionary(op.attributes)
        if not op.operands:
            return head
        names = ", ".join(map(pr.name, op.operands))
        return f"{head} {names} : {', '.join(pr.type(v.type) for v in op.operands)}"


class Call:
    """``func.call @f(%x) : (T) -> T``."""

    def parse(self, p: Parser, name: str) -> Operation:
        callee = SymbolRef(p.symbol())
        operands = p.operands_in_parentheses()
        attributes = p.optional_dictionary()
        p.expect(":")
        token = p.token
        type = p.function_type()
        if type.inputs != tuple(v.type for v in operands):
            p.fail(f"the operands have types ({', '.join(str(v.type) for v in operands)})", token)
        return Operation(name, operands, type.results, {"callee": callee, **attributes})

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        callee = op.attributes["callee"]
        assert isinstance(callee, SymbolRef)
        operands = ", ".join(map(pr.name, op.operands))
        inputs = ", ".join(pr.type(v.type) for v in op.operands)
        outputs = ", ".join(pr.type(v.type) for v in op.results)
        if len(op.results) != 1:
            outputs = f"({outputs})"
        extra = pr.dictionary(op.attributes, ["callee"])
        return f"{lead} {symbol_text(callee.name)}({operands}){extra} : ({inputs}) -> {outputs}"


_WORD = re.compile(r"\w+|[^\s\w]")


@dataclass(frozen=True)
class MixedLists:
    """``%m[%o, 0] [4, %n] [1, 1] : T to R``: lists of numbers and values, each with the words before it."""

    before: tuple[str, str, str]

    def parse(self, p: Parser, name: str) -> Operation:
        operands = [p.operand()]
        attributes: dict[str, Attr] = {}
        for key, words in zip(("offsets", "sizes", "strides"), self.before, strict=True):
            for word in _WORD.findall(words):
                p.expect(word)
            attributes[key] = self._parse_list(p, operands)
        attributes |= p.optional_dictionary()
        p.expect(":")
        p.typed(operands[0])
        p.expect("to")
        return Operation(name, operands, [p.type()], attributes)

    def _parse_list(self, p: Parser, operands: list[Value]) -> tuple[int | None, ...]:
        p.expect("[")
        found: list[int | None] = []
        while not p.accept("]"):
            if found:
                p.expect(",")
            if p.token.kind == "value":
                operands.append(p.operand())
                found.append(None)
            else:
                found.append(p.integer("a number or a value"))
        return tuple(found)

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        values = iter(op.operands[1:])
        text = f"{lead} {pr.name(op.operands[0])}"
        for key, words in zip(("offsets", "sizes", "strides"), self.before, strict=True):
            entries = op.attributes[key]
            assert isinstance(entries, tuple)
            items = [pr.name(next(values)) if entry is None else str(entry) for entry in entries]
            text += f"{words}[{', '.join(items)}]"
        extra = pr.dictionary(op.attributes, ["offsets", "sizes", "strides"])
        return f"{text}{extra} : {pr.type(op.operands[0].type)} to {pr.type(op.result.type)}"


class For:
    """``scf.for %i = %lo to %hi step %s iter_args(%a = %x) -> (T) { .. }``."""

    def parse(self, p: Parser, name: str) -> Operation:
        index = p.take("value", "the loop's variable")
        p.expect("=")
        bounds = [p.operand()]
        for word in ("to", "step"):
            p.expect(word)
            bounds.append(p.operand())
        carried: list[Token] = []
        initial: list[Value] = []
        if p.accept("iter_args"):
            p.expect("(")
            while not p.accept(")"):
                if carried:
                    p.expect(",")
                carried.append(p.take("value", "a carried value"))
                p.expect("=")
                initial.append(p.operand())
            p.expect("->")
        start = p.token
        types = p.types_in_parentheses() if carried else ()
        if types != tuple(v.type for v in initial):
            p.fail("the types of carried values are those of their initial values", start)
        type = p.type() if p.accept(":") else INDEX
        if any(v.type != type for v in bounds):
            p.fail(f"the bounds and the step must have type {type}", start)
        args = [(index, type), *zip(carried, types, strict=True)]
        region = p.region(args, "scf.yield")
        return Operation(name, [*bounds, *initial], types, p.optional_dictionary(), [region])

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        lower, upper, step, *initial = map(pr.name, op.operands)
        index, *carried = op.regions[0].block.args
        text = f"{lead} {pr.name(index)} = {lower} to {upper} step {step}"
        if carried:
            pairs = ", ".join(f"{pr.name(a)} = {b}" for a, b in zip(carried, initial, strict=True))
            text += f" iter_args({pairs}) -> ({', '.join(pr.type(a.type) for a in carried)})"
        if index.type != INDEX:
            text += f" : {pr.type(index.type)}"
        pr.line(text + " {", op)
        pr.region(op.regions[0])
        return "}" + pr.dictionary(op.attributes)


class If:
    """``scf.if %c -> (T) { .. } else { .. }``."""

    def parse(self, p: Parser, name: str) -> Operation:
        condition = p.operand()
        types = p.types_in_parentheses() if p.accept("->") else ()
        regions = [p.region([], "scf.yield")]
        if p.accept("else"):
            regions.append(p.region([], "scf.yield"))
        return Operation(name, [condition], types, p.optional_dictionary(), regions)

    def print(self, pr: TextOf, op: Operation, lead: str) -> str:
        text = f"{lead} {pr.name(op.operands[0])}"
        if op.results:
            text += f" -> ({', '.join(pr.type(r.type) for r in op.results)})"
        pr.line(text + " {", op)
        pr.region(op.regions[0])
        if len(op.regions) > 1:
            pr.line("} else {")
            pr.region(op.regions[1])
        return "}" + pr.dictionary(op.attributes)


def _starts_operation(p: Parser) -> bool:
    # `%a, %b = ..` and `%a:2 = ..` after a terminator without operands.
    k = 1
    while p.peek(k).text == "," and p.peek(k + 1).kind == "value":
        k += 2
    return p.peek(k).text == "=" or (p.peek(k).text == ":" and p.peek(k + 1).kind == "int")


_BINARY_FLOAT = Format("$0, $1fastmath{} : T0", _same(0))
_BINARY = Format("$0, $1{} : T0", _same(0))
_UNARY_FLOAT = Format("$0fastmath{} : T0", _same(0))
_CAST = Format("$0{} : T0 to R")


def _named(dialect: str, names: str, syntax: Syntax) -> dict[str, Syntax]:
    return {f"{dialect}.{name}": syntax for name in names.split()}


SYNTAX: dict[str, Syntax] = {
    "arith.constant": Constant(),
    **_named("arith", "addf subf mulf divf maximumf minimumf maxnumf minnumf", _BINARY_FLOAT),
    "arith.remf": _BINARY,
    "arith.negf": _UNARY_FLOAT,
    **_named("arith", "addi subi muli divui divsi floordivsi ceildivsi remui remsi andi ori xori", _BINARY),
    **_named("arith", "shli shrui shrsi maxsi minsi maxui minui", _BINARY),
    "arith.mului_extended": Format("$0, $1{} : T0", _same(0, 2)),
    "arith.cmpf": Format(".predicate, $0, $1fastmath{} : T0", lambda _: [I1], FLOAT_PREDICATES),
    "arith.cmpi": Format(".predicate, $0, $1{} : T0", lambda _: [I1], INTEGER_PREDICATES),
    "arith.select": Format("$0, $1, $2{} : T1", _same(1)),
    **_named("arith", "index_cast index_castui sitofp uitofp fptosi fptoui extui extsi trunci bitcast", _CAST),
    **_named("arith", "extf truncf", Format("$0fastmath{} : T0 to R")),
    **_named("math", "exp exp2 expm1 log log1p log2 sqrt rsqrt tanh erf absf floor ceil trunc", _UNARY_FLOAT),
    **_named("math", "round roundeven sin cos tan sinh cosh atan", _UNARY_FLOAT),
    **_named("math", "powf copysign atan2", _BINARY_FLOAT),
    "math.fma": Format("$0, $1, $2fastmath{} : T0", _same(0)),
    "memref.load": Format("$0[$*]{} : T0", _element),
    "memref.store": Format("$0, $1[$*]{} : T1", lambda _: []),
    "memref.view": Format("$0[$1][$*]{} : T0 to R"),
    "memref.cast": _CAST,
    "memref.dim": Format("$0, $1{} : T0", lambda _: [INDEX]),
    **_named("memref", "alloc alloca", Format("($*){} : R")),
    "memref.dealloc": Format("$0{} : T0", lambda _: []),
    "memref.copy": Format("$0, $1{} : T0 to T1", lambda _: []),
    "memref.reinterpret_cast": MixedLists((" to offset: ", ", sizes: ", ", strides: ")),
    "memref.subview": MixedLists(("", " ", " ")),
    "scf.for": For(),
    "scf.if": If(),
    "scf.yield": Terminator(),
    "func.return": Terminator(),
    "func.call": Call(),
}

# Read in the syntax above as well, but printed in generic form: xDSL has no other for them.
GENERIC = ("arith.remf", "arith.index_castui", "memref.cast", "memref.copy")
