"""Prints functions of loops as Python that Numba compiles: what a user reads of a net's generated code.

    scf.for %i = %begin to %end step %c1 {            for i in range(begin, end):
      %a = memref.load %x[%i] : memref<?xf32>    ->       y[i] = maximum(x[i], f32_0)
      %m = arith.maximumf %a, %zero : f32
      memref.store %m, %y[%i] : memref<?xf32>
    }

A memref becomes a pointer and its strides, in elements (``x``, ``x_s0``); strides that the type knows are numbers.
f32 arithmetic stays f32: literals are typed constants of the module.  i32 arithmetic wraps: ``i32(..)`` does it.
What the functions import is the target's matter.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from concatc.diagnostics import ConcatcError, Diagnostic
from concatc.ir.core import Block, FuncOp, Operation, Value
from concatc.ir.types import FLOATS, MemRefType, dense_strides

# Functions that every target has; each has some more.
FUNCTIONS = ("absolute", "erf", "exp", "expm1", "floor", "log", "log1p", "maximum", "minimum", "select", "sqrt", "tanh")
_TYPES = ("f32", "f64", "i8", "i32", "i64", "u8", "u32", "u64")
_WARPS = ("commit_copies", "copy_async", "copy_four", "mma", "tf32", "tf32_rest", "vector_sum", "wait_for_copies")
RESERVED = (*FUNCTIONS, *_WARPS, "plus", "div", "quotient", "rem", "cuda", "np", *_TYPES, "range", "inf", "nan")
_CONSTANT = re.compile(r"[fi]\d\d?_")  # how the module's constants are named
INLINE_COLUMNS = 72  # a longer expression gets a name of its own

_CALLS = {
    "arith.maximumf": "maximum",
    "arith.minimumf": "minimum",
    "arith.select": "select",
    "math.absf": "absolute",
    "math.exp": "exp",
    "math.expm1": "expm1",
    "math.log": "log",
    "math.log1p": "log1p",
    "math.sqrt": "sqrt",
    "math.floor": "floor",
    "math.tanh": "tanh",
    "math.erf": "erf",
}
# Operator and how tightly it binds.
_SUM, _PRODUCT, _COMPARISON, _UNARY, _ATOM = 3, 4, 1, 5, 6
_OPERATORS = {
    "arith.addf": ("+", _SUM),
    "arith.subf": ("-", _SUM),
    "arith.mulf": ("*", _PRODUCT),
    "arith.divf": ("/", _PRODUCT),
    "arith.addi": ("+", _SUM),
    "arith.subi": ("-", _SUM),
    "arith.muli": ("*", _PRODUCT),
}
_PREDICATES = {"olt": "<", "ole": "<=", "ogt": ">", "oge": ">=", "oeq": "==", "une": "!="}
_PREDICATES |= {"slt": "<", "sle": "<=", "sgt": ">", "sge": ">=", "eq": "==", "ne": "!="}
_UNSIGNED_PREDICATES = {"ult": "<", "ule": "<=", "ugt": ">", "uge": ">="}


def module_header(doc: str, imports: Sequence[str], intrinsics: str, functions: Sequence[str]) -> str:
    """The head of a generated module: its docstring, further imports, and the functions it has of ``intrinsics``."""
    names = "".join(f"    {name},\n" for name in sorted((*FUNCTIONS, *functions)))
    lines = "\n".join(["import numpy as np", *imports])
    return f'''"""{doc}"""

{lines}

from {intrinsics} import (
{names})

f32, f64, i8, i32, i64 = np.float32, np.float64, np.int8, np.int32, np.int64
u8, u32, u64 = np.uint8, np.uint32, np.uint64
'''


def python_module(header: str, kernels: Sequence[FuncOp], printer: type[FunctionPrinter]) -> tuple[str, dict[str, str]]:
    """The source of a Python module with one function a kernel, and the functions' names by the kernels'."""
    constants: dict[str, str] = {}
    names: dict[str, str] = {}
    functions: list[str] = []
    for kernel in kernels:
        base = name = identifier(kernel.sym_name)
        count = 1
        while name in names.values():
            count += 1
            name = f"{base}__{count}"
        names[kernel.sym_name] = name
        functions.append(printer(kernel, name, constants).text())
    lines = [f"{name} = {text}" for name, text in sorted(constants.items())]
    return "\n\n".join([header + "".join(f"{line}\n" for line in lines), *functions]), names


def identifier(name: str) -> str:
    """A name as a Python identifier."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII) or "v"
    if text[0].isdigit() or text[0] == "_":
        text = "v" + text
    if keyword.iskeyword(text) or text in RESERVED or _CONSTANT.match(text):
        return text + "_"
    return text


@dataclass
class Text:
    """An expression: its text, how tightly its outermost operator binds, whether it reads memory."""

    text: str
    binding: int = _ATOM


class FunctionPrinter:
    """Prints one function; targets whose functions hold more operations extend it."""

    def __init__(self, kernel: FuncOp, name: str, constants: dict[str, str]) -> None:
        self.kernel = kernel
        self.name = name
        self.constants = constants
        self.lines: list[str] = []
        self.indent = 1
        self.texts: dict[Value, Text] = {}
        # A name stands for values of one type only, since Numba gives a variable one type.
        self.types: dict[str, str] = {}
        self.in_scope: list[set[str]] = [set()]
        self.pending: list[list[Operation]] = []

    def text(self) -> str:
        """The function's source."""
        parameters: list[str] = []
        for arg in self.kernel.args:
            strides = dynamic_strides(arg.type) if isinstance(arg.type, MemRefType) else []
            name = self._bind(arg, arg.name, [f"_s{d}" for d in strides])
            parameters += [name, *(f"{name}_s{d}" for d in strides)]
            if "cnet.same" in arg.attrs:
                # One pointer for one place: vector code may store where it has just loaded.
                place = self.kernel.args[int(str(arg.attrs["cnet.same"]))]
                self._line(f"# {name} is {self._use(place)}")
                self.texts[arg] = self.texts[place]
        self._block(self.kernel.body)
        head = f"def {self.name}({', '.join(parameters)}):"
        if all(line.lstrip().startswith("#") for line in self.lines):
            self._line("pass")
        return "\n".join([*_wrapped(head), *self.lines]) + "\n"

    # -- names and lines -------------------------------------------------------------------------------------------
    def _line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def _bind(self, value: Value, hint: str, suffixes: Sequence[str] = ()) -> str:
        """A free name for the value; with each of the suffixes it is free, too."""
        base = identifier(hint or "v")
        type = str(value.type)
        taken = set().union(*self.in_scope)
        name, count = base, 1
        while self.types.get(name, type) != type or any(name + s in taken for s in ("", *suffixes)):
            count += 1
            name = f"{base}_{count}" if not base[-1].isdigit() else f"{base}__{count}"
        self.types[name] = type
        self.in_scope[-1].update(name + s for s in ("", *suffixes))
        self.types.update((name + s, "index") for s in suffixes)
        self.texts[value] = Text(name)
        return name

    def _use(self, value: Value, binding: int = 0) -> str:
        text = self.texts[value]
        return text.text if text.binding >= binding else f"({text.text})"

    def _name_pending(self) -> None:
        """Give names to the loads that are not read yet: what follows may change memory, or be a loop."""
        waiting, self.pending[-1] = self.pending[-1], []
        for op in waiting:
            self._assign(op.result, self.texts[op.result].text)

    def _assign(self, value: Value, text: str) -> None:
        name = self._bind(value, value.name)
        self._line(f"{name} = {text}")

    # -- ops -------------------------------------------------------------------------------------------------------
    def _block(self, block: Block) -> None:
        self.in_scope.append(set())
        self.pending.append([])
        for op in block.ops:
            self._operation(op, block)
        self.pending.pop()
        self.in_scope.pop()

    def _operation(self, op: Operation, block: Block) -> None:
        match op.name:
            case "func.return":
                return
            case "scf.yield":
                return
            case "scf.for":
                self._name_pending()
                self._for(op)
            case "scf.if":
                self._name_pending()
                self._if(op)
            case "memref.store":
                value, memory, *at = op.operands
                text = f"{self._element(memory, at)} = {self._use(value)}"
                self._forget_read(op)
                self._name_pending()
                self._line(text)
            case "arith.constant":
                self.texts[op.result] = self._constant(op.attributes["value"], op.result)
            case _:
                self._value(op, block)

    def _value(self, op: Operation, block: Block) -> None:
        text = self._expression(op)
        self._forget_read(op)
        uses = op.result.uses
        inline = len(uses) == 1 and uses[0].op.block is block and len(text.text) <= INLINE_COLUMNS
        if not inline:
            self._assign(op.result, text.text)
            return
        self.texts[op.result] = text
        # Its text may hold loads: it is printed where it is read, unless memory changes before.
        self.pending[-1].append(op)

    def _forget_read(self, op: Operation) -> None:
        operands = set(op.operands)
        self.pending[-1] = [p for p in self.pending[-1] if p.result not in operands]

    def _for(self, op: Operation) -> None:
        lower, upper, step, *initial = op.operands
        body = op.regions[0].block
        index, *carried = body.args
        bounds = self._bounds(lower, upper, step)
        names = []
        for arg, value, result in zip(carried, initial, op.results, strict=True):
            name = self._bind(result, result.name or arg.name)
            self._line(f"{name} = {self._use(value)}")
            self.texts[arg] = self.texts[result]
            names.append(name)
        self.in_scope.append(set())
        self._line(f"for {self._bind(index, index.name or 'i')} in range({bounds}):")
        self.indent += 1
        start = len(self.lines)
        self._block(body)
        self._carry(names, body.ops[-1].operands)
        if len(self.lines) == start:
            self._line("pass")
        self.indent -= 1
        self.in_scope.pop()

    def _bounds(self, lower: Value, upper: Value, step: Value) -> str:
        first, end, stride = map(self._use, (lower, upper, step))
        if stride != "1":
            return f"{first}, {end}, {stride}"
        return end if first == "0" else f"{first}, {end}"

    def _carry(self, names: Sequence[str], values: Sequence[Value]) -> None:
        texts = [self._use(v) for v in values]
        moves = [(n, t) for n, t in zip(names, texts, strict=True) if n != t]
        read_later = any(_mentions(t, n) for k, (n, _) in enumerate(moves) for _, t in moves[k + 1 :])
        if read_later:
            self._line(f"{', '.join(n for n, _ in moves)} = {', '.join(t for _, t in moves)}")
            return
        for name, text in moves:
            self._line(f"{name} = {text}")

    def _if(self, op: Operation) -> None:
        names = [self._bind(r, r.name) for r in op.results]
        for k, region in enumerate(op.regions):
            self._line(f"if {self._use(op.operands[0])}:" if k == 0 else "else:")
            self.indent += 1
            start = len(self.lines)
            self._block(region.block)
            self._carry(names, region.block.ops[-1].operands)
            if len(self.lines) == start:
                self._line("pass")
            self.indent -= 1

    # -- expressions -----------------------------------------------------------------------------------------------
    def _element(self, memory: Value, at: Sequence[Value]) -> str:
        return f"{self._use(memory)}[{self._offset(memory, at)}]"

    def _offset(self, memory: Value, at: Sequence[Value]) -> str:
        """The place of an element behind a pointer."""
        assert isinstance(memory.type, MemRefType)
        name = self._use(memory)
        known = known_strides(memory.type)
        terms = []
        for d, index in enumerate(at):
            text = self._use(index, _SUM)
            if text == "0":
                continue
            stride = known[d]
            if stride == 1:
                terms.append(text)
                continue
            factor = f"{name}_s{d}" if stride is None else str(stride)
            terms.append(f"{self._use(index, _PRODUCT)} * {factor}")
        return " + ".join(terms) or "0"

    def _constant(self, value: object, result: Value) -> Text:
        type = str(result.type)
        if type == "i1":
            return Text(str(bool(value)))
        if type == "index":
            return Text(str(value), _ATOM if int(str(value)) >= 0 else _UNARY)
        if type not in FLOATS:
            name = f"{type}_{value}".replace("-", "minus_")
            self.constants[name] = f"{type}({value})"
            return Text(name)
        assert isinstance(value, int | float)
        text = (
            repr(float(value))
            if math.isfinite(value)
            else {math.inf: "np.inf", -math.inf: "-np.inf"}.get(value, "np.nan")
        )
        short = text.removesuffix(".0").replace("np.", "").replace("e-", "em").replace("-", "minus_")
        name = f"{type}_" + re.sub(r"\W", "_", short)
        self.constants[name] = f"{type}({text})"
        return Text(name)

    def _expression(self, op: Operation) -> Text:
        name, operands = op.name, op.operands
        if name == "memref.load":
            return Text(self._element(operands[0], operands[1:]))
        if op.attributes.get("fastmath") is not None and name == "arith.addf":
            return Text(f"plus({self._use(operands[0])}, {self._use(operands[1])})")
        if name in _OPERATORS:
            return self._wrapping(op, *_OPERATORS[name])
        if name in _CALLS:
            return Text(f"{_CALLS[name]}({', '.join(self._use(v) for v in operands)})")
        if name == "arith.negf":
            return Text(f"-{self._use(operands[0], _UNARY)}", _UNARY)
        if name in ("arith.cmpf", "arith.cmpi"):
            return self._comparison(op)
        return self._integer(op)

    def _wrapping(self, op: Operation, sign: str, binding: int) -> Text:
        left, right = op.operands
        tight = binding + 1 if sign in "-/" else binding
        if str(op.result.type) in FLOATS:
            tight = binding + 1  # float sums and products keep their order
        text = f"{self._use(left, binding)} {sign} {self._use(right, tight)}"
        type = str(op.result.type)
        return Text(text, binding) if type in ("index", *FLOATS) else Text(f"{type}({text})")

    def _comparison(self, op: Operation) -> Text:
        predicate = str(op.attributes["predicate"])
        left, right = (self._use(v, _COMPARISON + 1) for v in op.operands)
        if op.name == "arith.cmpi" and predicate in _UNSIGNED_PREDICATES:
            width = _unsigned(str(op.operands[0].type))
            return Text(f"{width}({left}) {_UNSIGNED_PREDICATES[predicate]} {width}({right})", _COMPARISON)
        if predicate not in _PREDICATES:
            raise unsupported(op, f"the comparison `{predicate}`")
        return Text(f"{left} {_PREDICATES[predicate]} {right}", _COMPARISON)

    def _integer(self, op: Operation) -> Text:
        type = str(op.result.type)
        source = str(op.operands[0].type)
        x = self._use(op.operands[0])
        y = self._use(op.operands[1]) if len(op.operands) > 1 else ""
        unsigned = _unsigned(type)
        match op.name:
            case "arith.andi" | "arith.ori" | "arith.xori":
                sign = {"andi": "&", "ori": "|", "xori": "^"}[op.name.removeprefix("arith.")]
                text = f"{self._use(op.operands[0], _ATOM)} {sign} {self._use(op.operands[1], _ATOM)}"
                return Text(text, _COMPARISON + 1) if type in ("i1", "index") else Text(f"{type}({text})")
            case "arith.shli":
                return Text(f"{type}({unsigned}({x}) << {unsigned}({y}))")
            case "arith.shrui":
                return Text(f"{type}({unsigned}({x}) >> {unsigned}({y}))")
            case "arith.divsi" | "arith.floordivsi" | "arith.divui":
                text = f"{self._use(op.operands[0], _PRODUCT)} // {self._use(op.operands[1], _UNARY)}"
                return Text(text, _PRODUCT) if type == "index" else Text(f"{type}({text})")
            case "arith.remsi" | "arith.remui":
                text = f"{self._use(op.operands[0], _PRODUCT)} % {self._use(op.operands[1], _UNARY)}"
                return Text(text, _PRODUCT) if type == "index" else Text(f"{type}({text})")
            case "arith.maxsi" | "arith.minsi":
                sign = ">" if op.name == "arith.maxsi" else "<"
                left, right = (self._use(v, _COMPARISON + 1) for v in op.operands)
                return Text(f"select({left} {sign} {right}, {x}, {y})")
            case "arith.index_cast" | "arith.index_castui" | "arith.extsi" | "arith.extui" | "arith.trunci":
                if (source, type) in (("i64", "index"), ("index", "i64")):
                    return self.texts[op.operands[0]]
                if op.name.endswith("ui") and source != "i1":
                    x = f"{_unsigned(source)}({x})"
                return Text(f"{'i64' if type == 'index' else type}({x})")
            case "arith.sitofp" | "arith.uitofp" | "arith.extf" | "arith.truncf" | "arith.fptosi":
                return Text(f"{type}({x})")
        raise unsupported(op, f"`{op.name}`")


def _unsigned(type: str) -> str:
    """How the unsigned integers of a type's width are called."""
    return {"i8": "u8", "i32": "u32"}.get(type, "u64")


def unsupported(op: Operation, what: str) -> ConcatcError:
    """The error for an op that the target cannot translate."""
    return ConcatcError(Diagnostic(f"the cpu target does not know {what}", op.loc))


def known_strides(type: MemRefType) -> tuple[int | None, ...]:
    """The strides of a memref, None where they are known at run time."""
    if type.strides is not None:
        return type.strides
    if None in type.shape[1:]:
        return (*(None for _ in type.shape[1:]), 1)
    return dense_strides((1, *(n for n in type.shape[1:] if n is not None))) if type.shape else ()


def dynamic_strides(type: MemRefType) -> list[int]:
    """The axes whose strides are known at run time."""
    return [d for d, stride in enumerate(known_strides(type)) if stride is None]


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _wrapped(head: str) -> list[str]:
    if len(head) <= 110:
        return [head]
    name, _, rest = head.partition("(")
    lines = [f"{name}("]
    row = "   "
    for parameter in rest.removesuffix("):").split(", "):
        if len(row) + len(parameter) > 106:
            lines.append(row)
            row = "   "
        row += f" {parameter},"
    return [*lines, row, "):"]
