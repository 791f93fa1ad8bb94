"""The signature that all native kernels share, and how it maps to a kernel's own arguments.

    i32 kernel(i8** bases, i64* windows, i64* sizes, i64 add, i64 begin, i64 end, i8* scratch)

``windows`` holds for each memref argument its base's number, its offset in bytes and all its strides in elements;
``sizes`` the index arguments behind ``begin`` and ``end``; bit ``k`` of ``add`` the ``k``-th ``i1`` argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from concatc.ir.core import FuncOp, Value
from concatc.ir.types import I1, INDEX, MemRefType
from concatc.loops.python_source import dynamic_strides
from concatc.targets.cpu.step import kernel_symbol

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
KERNEL_TYPE = ir.FunctionType(I32, [POINTER, POINTER, POINTER, I64, I64, I64, POINTER])


@dataclass(frozen=True)
class Memory:
    """A memref argument inside a kernel: where it starts, and its strides (llvmlite values)."""

    pointer: Any
    strides: tuple[Any, ...]


def numba_symbol(name: str) -> str:
    """The name of the function that Numba makes of a kernel."""
    return f"numba.{name}"


def define_kernel(module: Any, name: str) -> tuple[Any, Any]:
    """A function of the shared signature, and a builder in its first block."""
    function = ir.Function(module, KERNEL_TYPE, kernel_symbol(name))
    function.attributes.add("nounwind")
    names = ("bases", "windows", "sizes", "add", "begin", "end", "scratch")
    for arg, text in zip(function.args, names, strict=True):
        arg.name = text
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def unpack(builder: Any, function: Any, arguments: Sequence[Value]) -> dict[Value, Any]:
    """What each argument of the loops' function is: :class:`Memory`, an i64 or an i1."""
    bases, windows, sizes, add, begin, end, _ = function.args
    found: dict[Value, Any] = {}
    window = size = flag = index = 0

    def read(table: Any, at: int) -> Any:
        return builder.load(builder.gep(table, [I64(at)], source_etype=I64), typ=I64)

    for arg in arguments:
        if isinstance(arg.type, MemRefType):
            base = builder.load(builder.gep(bases, [read(windows, window)], source_etype=POINTER), typ=POINTER)
            pointer = builder.gep(base, [read(windows, window + 1)], source_etype=I8)
            strides = tuple(read(windows, window + 2 + d) for d in range(arg.type.rank))
            found[arg] = Memory(pointer, strides)
            window += 2 + arg.type.rank
        elif arg.type == INDEX:
            found[arg] = (begin, end)[index] if index < 2 else read(sizes, size)
            size += index >= 2
            index += 1
        else:
            assert arg.type == I1, f"a kernel takes no {arg.type}"
            found[arg] = builder.trunc(builder.lshr(add, I64(flag)), ir.IntType(1))
            flag += 1
    return found


def adapters(kernels: Sequence[FuncOp]) -> str:
    """LLVM IR that calls Numba's functions (see ``numba_compile``) under the shared signature."""
    module = ir.Module("adapters")
    for kernel in kernels:
        _adapter(module, kernel)
    return str(module)


def _adapter(module: Any, kernel: FuncOp) -> None:
    function, builder = define_kernel(module, kernel.sym_name)
    values = unpack(builder, function, kernel.args)
    operands: list[Any] = []
    for arg in kernel.args:
        value = values[arg]
        if isinstance(arg.type, MemRefType):
            operands += [value.pointer, *(value.strides[d] for d in dynamic_strides(arg.type))]
        else:
            operands.append(builder.zext(value, I8) if arg.type == I1 else value)
    # Numba's convention: where the result goes, where an exception goes.
    result, error = builder.alloca(POINTER), builder.alloca(POINTER)
    types = [POINTER, POINTER, *(v.type for v in operands)]
    callee = ir.Function(module, ir.FunctionType(I32, types), numba_symbol(kernel.sym_name))
    builder.ret(builder.call(callee, [result, error, *operands]))
