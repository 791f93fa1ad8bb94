"""Runs a module of loops, one operation at a time: the meaning of level 06, slow and plain.

    run_loops(loops, {"arena": arena, ..}, "forward")

Memrefs are NumPy views of the bases, so an index outside of a window is an IndexError, never a wrong read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from concatc.ir.core import Block, FuncOp, Module, Operation, SymbolRef, Value
from concatc.ir.types import NUMPY_DTYPES, MemRefType

Array = np.ndarray[Any, Any]

_FLOAT: dict[str, Callable[..., Any]] = {
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
    "arith.negf": np.negative,
    "math.absf": np.abs,
    "math.exp": np.exp,
    "math.expm1": np.expm1,
    "math.log": np.log,
    "math.log1p": np.log1p,
    "math.sqrt": np.sqrt,
    "math.tanh": np.tanh,
    "math.floor": np.floor,
    "math.erf": lambda x: type(x)(math.erf(float(x))),
}
_INTEGER: dict[str, Callable[[int, int], int]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "arith.remsi": lambda a, b: math.fmod(a, b).__int__(),
    "arith.maxsi": max,
    "arith.minsi": min,
    "arith.andi": lambda a, b: a & b,
    "arith.ori": lambda a, b: a | b,
    "arith.xori": lambda a, b: a ^ b,
    "arith.shli": lambda a, b: a << b,
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}
_WIDTH = {"i1": 1, "i8": 8, "i32": 32, "i64": 64, "index": 64}


def run_loops(module: Module, bases: Mapping[str, Array], phase: str = "step") -> None:
    """Run the calls of a phase, or all of them (``step``), on ``uint8`` arrays by base name."""
    step = module.main
    env: dict[Value, Any] = {arg: bases[arg.name] for arg in step.args}
    functions = {f.sym_name: f for f in module.functions}
    with np.errstate(all="ignore"):
        for op in step.ops:
            if op.name == "func.call":
                callee = op.attributes["callee"]
                assert isinstance(callee, SymbolRef)
                if phase in ("step", op.attributes.get("cnet.phase")):
                    call(functions[callee.name], [env[v] for v in op.operands])
            else:
                _run_block([op], env)


def call(function: FuncOp, arguments: Sequence[Any]) -> None:
    """Run a function of loops on arrays, integers and booleans."""
    _run_block(function.ops, dict(zip(function.args, arguments, strict=True)))


def _run_block(ops: Sequence[Operation], env: dict[Value, Any]) -> list[Any]:
    """Run operations; returns what the terminator yields."""
    for op in ops:
        if op.name in ("scf.yield", "func.return"):
            return [env[v] for v in op.operands]
        values = _run(op, [env[v] for v in op.operands], env)
        env.update(zip(op.results, values, strict=True))
    return []


def _run(op: Operation, args: list[Any], env: dict[Value, Any]) -> list[Any]:
    name = op.name
    if name == "scf.for":
        return _for(op.regions[0].block, args, env)
    if name == "scf.if":
        taken = 0 if args[0] else 1
        return _run_block(op.regions[taken].block.ops, env) if taken < len(op.regions) else []
    if name == "memref.store":
        value, memory, *at = args
        memory[_inside(memory, at)] = value
        return []
    if name == "memref.load":
        memory, *at = args
        return [_typed(memory[_inside(memory, at)], str(op.result.type))]
    if name.startswith("memref."):
        return [_window(op, args)]
    return [_scalar(op, args)]


def _for(body: Block, args: list[Any], env: dict[Value, Any]) -> list[Any]:
    lower, upper, step, *carried = args
    index, *names = body.args
    for i in range(lower, upper, step):
        env[index] = i
        env.update(zip(names, carried, strict=True))
        carried = _run_block(body.ops, env)
    return carried


def _inside(memory: Array, at: Sequence[int]) -> tuple[int, ...]:
    if any(not 0 <= i < n for i, n in zip(at, memory.shape, strict=True)):
        raise IndexError(f"{tuple(at)} is outside of a window of shape {memory.shape}")
    return tuple(at)


def _window(op: Operation, args: list[Any]) -> Array:
    source: Array = args[0]
    type = op.result.type
    assert isinstance(type, MemRefType)
    if op.name == "memref.cast":
        return source
    dtype = NUMPY_DTYPES[type.dtype]
    shape = tuple(n for n in type.shape if n is not None)
    if op.name == "memref.view":
        numel = math.prod(shape)
        return source[args[1] : args[1] + numel * dtype.itemsize].view(dtype).reshape(shape)
    assert op.name == "memref.reinterpret_cast", op.name
    assert type.strides is not None
    strides = tuple(s * dtype.itemsize for s in type.strides if s is not None)
    last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    assert 0 in shape or last < source.nbytes, "a window reaches beyond what it is cast from"
    return np.lib.stride_tricks.as_strided(source, shape, strides)


def _scalar(op: Operation, args: list[Any]) -> Any:
    name, type = op.name, str(op.result.type)
    if name == "arith.constant":
        return _typed(op.attributes["value"], type)
    if name in ("arith.cmpf", "arith.cmpi"):
        predicate = str(op.attributes["predicate"])
        assert predicate[0] in "osu" or predicate in ("eq", "ne"), predicate
        return bool(_COMPARISONS[predicate[-2:]](*args))
    if name == "arith.select":
        return args[1] if args[0] else args[2]
    if name in _FLOAT:
        return _typed(_FLOAT[name](*args), type)
    if name in _INTEGER:
        return _typed(_INTEGER[name](*map(int, args)), type)
    if name == "arith.shrui":
        width = _WIDTH[type]
        return _typed((int(args[0]) & ((1 << width) - 1)) >> int(args[1]), type)
    if name in ("arith.extui", "arith.index_castui"):
        return _typed(int(args[0]) & ((1 << _WIDTH[str(op.operands[0].type)]) - 1), type)
    assert name.removeprefix("arith.") in (
        *("index_cast", "sitofp", "uitofp", "fptosi", "extf", "truncf", "extsi", "trunci"),
    ), f"loops hold no {name}"
    return _typed(args[0], type)


def _typed(value: Any, type: str) -> Any:
    """The value as a scalar of the type; integers wrap."""
    if type == "i1":
        return bool(value)
    if type in ("f32", "f64"):
        return NUMPY_DTYPES[type].type(value)
    width = _WIDTH[type]
    number = int(value) & ((1 << width) - 1)
    return number - (1 << width) if number >> (width - 1) else number
