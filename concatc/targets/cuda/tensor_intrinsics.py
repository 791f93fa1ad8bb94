"""The functions of device kernels that run on tensor cores, as PTX; see `intrinsics.py` and `mma_tiles.py`.

A thread's share of a matrix is a tuple: ``(a, b, c, d)``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

_F32, _WORD = ir.FloatType(), ir.IntType(32)
_MMA = (
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, "
    "{$10, $11, $12, $13};"
)


@intrinsic
def mma(typingctx: Any, a: Any, b: Any, total: Any) -> Any:
    """``total + a @ b`` of a warp: 16 x 8 of tf32 by 8 x 8, f32 sums."""
    given = [(part.dtype, part.count) for part in (a, b, total) if isinstance(part, types.UniTuple)]
    if given != [(types.float32, numel) for numel in (4, 2, 4)]:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        factors = [builder.bitcast(v, _WORD) for part in args[:2] for v in _parts(builder, part)]
        sums = _parts(builder, args[2])
        kind = ir.FunctionType(ir.LiteralStructType([_F32] * 4), [_WORD] * len(factors) + [_F32] * len(sums))
        # All threads of a warp run it together: it must not move into a branch.
        asm = ir.InlineAsm(kind, _MMA, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", side_effect=True)
        made = builder.call(asm, [*factors, *sums])
        return context.make_tuple(builder, signature.return_type, _parts(builder, made))

    return total(a, b, total), codegen


@intrinsic
def tf32(typingctx: Any, a: Any) -> Any:
    """Each number rounded to tf32."""
    return _each(a, _rounded)


@intrinsic
def tf32_rest(typingctx: Any, a: Any) -> Any:
    """What :func:`tf32` leaves of each number, rounded to tf32."""
    return _each(a, lambda builder, x: _rounded(builder, builder.fsub(x, _rounded(builder, x))))


@intrinsic
def vector_sum(typingctx: Any, a: Any, b: Any) -> Any:
    """The sum of each number and its counterpart."""
    if a != b:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = zip(*(_parts(builder, v) for v in args), strict=True)
        return context.make_tuple(builder, signature.return_type, [builder.fadd(x, y) for x, y in pairs])

    return a(a, b), codegen


def _parts(builder: Any, value: Any) -> list[Any]:
    """The numbers of a tuple."""
    count = value.type.count if isinstance(value.type, ir.ArrayType) else len(value.type.elements)
    return [builder.extract_value(value, k) for k in range(count)]


def _rounded(builder: Any, x: Any) -> Any:
    asm = ir.InlineAsm(ir.FunctionType(_WORD, [_F32]), "cvt.rna.tf32.f32 $0, $1;", "=r,f")
    return builder.bitcast(builder.call(asm, [x]), _F32)


def _each(a: Any, function: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(
            builder, signature.return_type, [function(builder, x) for x in _parts(builder, args[0])]
        )

    return a(a), codegen
