"""What MLIR's own operations demand of their operands: number, types, attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from concatc.ir.core import Operation, SymbolRef
from concatc.ir.std_syntax import FLOAT_PREDICATES, INTEGER_PREDICATES, SYNTAX
from concatc.ir.types import I1, INDEX, MemRefType, ScalarType, Type

_FLOATS = ("f32", "f64")
_INTEGERS = ("i1", "i8", "i32", "i64", "index")

_FLOAT_OPS = (
    *("arith.addf", "arith.subf", "arith.mulf", "arith.divf", "arith.remf", "arith.negf", "arith.cmpf"),
    *("arith.maximumf", "arith.minimumf", "arith.maxnumf", "arith.minnumf"),
)
_TWO_OPERANDS = ("math.powf", "math.copysign", "math.atan2")


def is_std(name: str) -> bool:
    """Whether the operation belongs to a dialect of MLIR that concatc knows."""
    return name.partition(".")[0] in ("func", "arith", "math", "scf", "memref")


def check_std(op: Operation) -> Iterator[str]:
    """What is wrong with the operation."""
    if op.name == "func.func":
        return
    if op.name not in SYNTAX:
        yield f"unknown operation {op.name}"
        return
    dialect = op.name.partition(".")[0]
    check = _CHECKS.get(op.name) or _DIALECT_CHECKS.get(dialect)
    if check is not None:
        yield from check(op)


def _scalar(type: Type, names: tuple[str, ...]) -> bool:
    return isinstance(type, ScalarType) and type.name in names


def _count(op: Operation, operands: int, results: int = 1) -> str | None:
    if len(op.operands) == operands and len(op.results) == results:
        return None
    return (
        f"{op.name} takes {operands} operands and has {results} results, not {len(op.operands)} and {len(op.results)}"
    )


def _elementwise(op: Operation) -> Iterator[str]:
    """Operands and result of one type: arithmetic and math."""
    one = op.name == "arith.negf" or (op.name.startswith("math.") and op.name not in _TWO_OPERANDS)
    arity = 3 if op.name == "math.fma" else 1 if one else 2
    wrong = _count(op, arity, 2 if op.name == "arith.mului_extended" else 1)
    if wrong:
        yield wrong
        return
    allowed = _FLOATS if op.name in _FLOAT_OPS or op.name.startswith("math.") else _INTEGERS
    first = op.operands[0].type
    if not _scalar(first, allowed):
        yield f"{op.name} does not work on {first}"
    if any(v.type != first for v in (*op.operands, *op.results)):
        yield f"{op.name} needs operands and results of one type, {first}"


def _compare(op: Operation) -> Iterator[str]:
    predicates = FLOAT_PREDICATES if op.name == "arith.cmpf" else INTEGER_PREDICATES
    if op.attributes.get("predicate") not in predicates:
        yield f"{op.name}: unknown predicate {op.attributes.get('predicate')}"
    wrong = _count(op, 2)
    if wrong:
        yield wrong
        return
    if not _scalar(op.operands[0].type, _FLOATS if op.name == "arith.cmpf" else _INTEGERS):
        yield f"{op.name} does not work on {op.operands[0].type}"
    if op.operands[0].type != op.operands[1].type:
        yield f"{op.name} compares {op.operands[0].type} with {op.operands[1].type}"
    if op.result.type != I1:
        yield f"the result of {op.name} has type i1, not {op.result.type}"


def _select(op: Operation) -> Iterator[str]:
    wrong = _count(op, 3)
    if wrong:
        yield wrong
        return
    condition, yes, no = (v.type for v in op.operands)
    if condition != I1:
        yield f"the condition of arith.select has type i1, not {condition}"
    if not yes == no == op.result.type:
        yield f"arith.select chooses between {yes} and {no} for {op.result.type}"


_CASTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "arith.sitofp": (_INTEGERS, _FLOATS),
    "arith.uitofp": (_INTEGERS, _FLOATS),
    "arith.fptosi": (_FLOATS, _INTEGERS),
    "arith.fptoui": (_FLOATS, _INTEGERS),
    "arith.extf": (("f32",), ("f64",)),
    "arith.truncf": (("f64",), ("f32",)),
    "arith.extui": (_INTEGERS[:-1], _INTEGERS[:-1]),
    "arith.extsi": (_INTEGERS[:-1], _INTEGERS[:-1]),
    "arith.trunci": (_INTEGERS[:-1], _INTEGERS[:-1]),
    "arith.bitcast": (_FLOATS + _INTEGERS[:-1], _FLOATS + _INTEGERS[:-1]),
    "arith.index_cast": (_INTEGERS, _INTEGERS),
    "arith.index_castui": (_INTEGERS, _INTEGERS),
}


def _cast(op: Operation) -> Iterator[str]:
    wrong = _count(op, 1)
    if wrong:
        yield wrong
        return
    sources, results = _CASTS[op.name]
    source, result = op.operands[0].type, op.result.type
    if not _scalar(source, sources) or not _scalar(result, results):
        yield f"{op.name} does not turn {source} into {result}"
    elif op.name.startswith("arith.index_cast") and (source == INDEX) == (result == INDEX):
        yield f"{op.name} casts between index and another integer, not {source} to {result}"


def _constant(op: Operation) -> Iterator[str]:
    wrong = _count(op, 0)
    if wrong:
        yield wrong
        return
    value, result = op.attributes.get("value"), op.result.type
    wanted = bool if result == I1 else float if _scalar(result, _FLOATS) else int
    if type(value) is not wanted or not _scalar(result, _FLOATS + _INTEGERS):
        yield f"arith.constant of type {result} cannot be {value!r}"


def _access(op: Operation) -> Iterator[str]:
    """``memref.load`` and ``memref.store``."""
    load = op.name == "memref.load"
    first = 0 if load else 1
    if len(op.operands) <= first or len(op.results) != load:
        yield f"{op.name} lacks operands or results"
        return
    memref, indices = op.operands[first].type, op.operands[first + 1 :]
    if not isinstance(memref, MemRefType):
        yield f"{op.name} works on a memref, not on {memref}"
        return
    if len(indices) != memref.rank:
        yield f"{op.name} has {len(indices)} indices for {memref}"
    if any(i.type != INDEX for i in indices):
        yield f"the indices of {op.name} have type index"
    element = (op.result if load else op.operands[0]).type
    if element != ScalarType(memref.dtype):
        yield f"{op.name} moves {element} in {memref}"


def _memref(op: Operation) -> Iterator[str]:
    """The other operations on memory: their source is a memref, what they make is one, counts of indices agree."""
    needs_source = op.name not in ("memref.alloc", "memref.alloca")
    if needs_source and (not op.operands or not isinstance(op.operands[0].type, MemRefType)):
        yield f"{op.name} works on a memref"
        return
    if op.name == "memref.dim":
        return
    rest = op.operands[1 if needs_source else 0 :]
    if op.name != "memref.copy" and any(v.type != INDEX for v in rest):
        yield f"{op.name} takes extents and offsets of type index"
    if op.name in ("memref.copy", "memref.dealloc"):
        return
    if len(op.results) != 1 or not isinstance(op.result.type, MemRefType):
        yield f"{op.name} makes one memref"
        return
    dynamic = sum(n is None for n in op.result.type.shape)
    if op.name in ("memref.alloc", "memref.alloca") and len(rest) != dynamic:
        yield f"{op.name} of {op.result.type} takes {dynamic} extents, not {len(rest)}"
    if op.name == "memref.view" and len(rest) != dynamic + 1:
        yield f"memref.view of {op.result.type} takes an offset and {dynamic} extents, not {len(rest)} values"
    if op.name in ("memref.reinterpret_cast", "memref.subview"):
        yield from _mixed_lists(op, op.result.type)


def _mixed_lists(op: Operation, result: MemRefType) -> Iterator[str]:
    lists = [op.attributes.get(key) for key in ("offsets", "sizes", "strides")]
    if not all(isinstance(entries, tuple) for entries in lists):
        yield f"{op.name} needs offsets, sizes and strides"
        return
    entries = [entry for part in lists if isinstance(part, tuple) for entry in part]
    if sum(entry is None for entry in entries) != len(op.operands) - 1:
        yield f"{op.name} has {len(op.operands) - 1} values for {sum(e is None for e in entries)} places"
    sizes = lists[1]
    assert isinstance(sizes, tuple)
    if len(sizes) != result.rank:
        yield f"{op.name} gives {len(sizes)} sizes for {result}"


def _loop(op: Operation) -> Iterator[str]:
    if len(op.operands) < 3 or len(op.regions) != 1 or not op.regions[0].blocks or not op.regions[0].block.args:
        yield "scf.for needs bounds, a step and a region with an index"
        return
    index = op.regions[0].block.args[0].type
    if any(v.type != index for v in op.operands[:3]):
        yield f"the bounds and the step of scf.for have the type of its index, {index}"


def _branch(op: Operation) -> Iterator[str]:
    if len(op.operands) != 1 or op.operands[0].type != I1:
        yield "scf.if reads one condition of type i1"
    if len(op.regions) not in (1, 2):
        yield "scf.if has one region or two"


def _call(op: Operation) -> Iterator[str]:
    if not isinstance(op.attributes.get("callee"), SymbolRef):
        yield "func.call names no function"


_CHECKS: dict[str, Callable[[Operation], Iterator[str]]] = {
    "arith.constant": _constant,
    "arith.cmpf": _compare,
    "arith.cmpi": _compare,
    "arith.select": _select,
    **dict.fromkeys(_CASTS, _cast),
    "memref.load": _access,
    "memref.store": _access,
    "scf.for": _loop,
    "scf.if": _branch,
    "func.call": _call,
}
_DIALECT_CHECKS: dict[str, Callable[[Operation], Iterator[str]]] = {
    "arith": _elementwise,
    "math": _elementwise,
    "memref": _memref,
}
