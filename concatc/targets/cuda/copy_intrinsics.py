"""The functions of device kernels that copy from global to shared memory behind a thread's back, as PTX (cp.async)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic
from numba.cuda.np.arrayobj import make_array

_SHARED, _GLOBAL = 3, 1  # PTX's state spaces
_WORD, _ADDRESS = ir.IntType(32), ir.IntType(64)


@intrinsic
def copy_async(typingctx: Any, shared: Any, place: Any, memory: Any, index: Any, there: Any) -> Any:
    """Begin ``shared[place] = memory[index] if there else 0``; ``memory`` is not touched where it is not ``there``."""
    return _copy(shared, memory, 1, "ca")


@intrinsic
def copy_four(typingctx: Any, shared: Any, place: Any, memory: Any, index: Any, there: Any) -> Any:
    """The same of four elements, 16 bytes; both addresses are multiples of as many."""
    return _copy(shared, memory, 4, "cg")


@intrinsic
def commit_copies(typingctx: Any) -> Any:
    """Make a group of the copies that this thread has begun."""
    return types.void(), _alone("cp.async.commit_group;")


@intrinsic
def wait_for_copies(typingctx: Any) -> Any:
    """Wait for all groups of this thread; others see what was copied behind a barrier."""
    return types.void(), _alone("cp.async.wait_group 0;")


def _copy(shared: Any, memory: Any, numel: int, cached: str) -> Any:
    is_pointer = isinstance(memory, types.CPointer)
    if not isinstance(shared, types.Array) or not is_pointer or memory.dtype != shared.dtype:
        return None
    signature = types.void(shared, types.int64, memory, types.int64, types.boolean)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, place, pointer, index, there = args
        data = make_array(signature.args[0])(context, builder, array).data
        size = numel * signature.args[0].dtype.bitwidth // 8
        target = builder.trunc(_address(builder, builder.gep(data, [place]), _SHARED), _WORD)
        source = _address(builder, builder.gep(pointer, [index]), _GLOBAL)
        taken = builder.select(there, _WORD(size), _WORD(0))
        text = f"cp.async.{cached}.shared.global [$0], [$1], {size}, $2;"
        _run(builder, text, "r,l,r", [target, source, taken])
        return context.get_dummy_value()

    return signature, codegen


def _address(builder: Any, pointer: Any, space: int) -> Any:
    cast = builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, space))
    return builder.ptrtoint(cast, _ADDRESS)


def _alone(text: str) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _run(builder, text, "", [])
        return context.get_dummy_value()

    return codegen


def _run(builder: Any, text: str, operands: str, args: list[Any]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    constraints = ",".join(part for part in (operands, "~{memory}") if part)
    builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), args)
