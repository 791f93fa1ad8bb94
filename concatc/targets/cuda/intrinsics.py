"""The functions that generated device kernels call: scalar operations that Python has no word for.

Each is one instruction, or a function of CUDA's libdevice.  Generated source imports this module; it is imported only
where something is compiled, since it imports Numba's CUDA compiler.  Their meaning in NumPy is the emulator's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

# Functions of libdevice, by element type.
_SUFFIX = {"float32": "f", "float64": ""}


@intrinsic
def div(typingctx: Any, a: Any, b: Any) -> Any:
    """``a // b`` of two numbers of at most 32 bits, unsigned."""
    return types.int32(a, b), _division("udiv")


@intrinsic
def rem(typingctx: Any, a: Any, b: Any) -> Any:
    """``a % b`` of two numbers of at most 32 bits, unsigned."""
    return types.int32(a, b), _division("urem")


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger; NaN if either is NaN."""
    return _extreme(a, b, ">")


@intrinsic
def minimum(typingctx: Any, a: Any, b: Any) -> Any:
    """The smaller; NaN if either is NaN."""
    return _extreme(a, b, "<")


@intrinsic
def quotient(typingctx: Any, a: Any, b: Any) -> Any:
    """``a / b`` in f32 to two units in the last place, for all operands.

    The exact one is a function call that most operands do not need, and it costs registers wherever it stands.
    """
    if a != b or a.name != "float32":
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
        return builder.call(ir.InlineAsm(kind, "div.full.f32 $0, $1, $2;", "=f,f,f"), args)

    return a(a, b), codegen


@intrinsic
def select(typingctx: Any, condition: Any, yes: Any, no: Any) -> Any:
    """``yes if condition else no``, both computed."""
    if yes != no:
        if not (isinstance(yes, types.Integer) and isinstance(no, types.Integer)):
            return None
        yes = no = types.int64

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    return yes(types.boolean, yes, no), codegen


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """Natural exponential."""
    return _libdevice(x, "exp")


@intrinsic
def expm1(typingctx: Any, x: Any) -> Any:
    """``exp(x) - 1``."""
    return _libdevice(x, "expm1")


@intrinsic
def log(typingctx: Any, x: Any) -> Any:
    """Natural logarithm."""
    return _libdevice(x, "log")


@intrinsic
def log1p(typingctx: Any, x: Any) -> Any:
    """``log(1 + x)``."""
    return _libdevice(x, "log1p")


@intrinsic
def sqrt(typingctx: Any, x: Any) -> Any:
    """Square root."""
    return _libdevice(x, "sqrt")


@intrinsic
def floor(typingctx: Any, x: Any) -> Any:
    """The largest integral number not above, as a float."""
    return _libdevice(x, "floor")


@intrinsic
def absolute(typingctx: Any, x: Any) -> Any:
    """Absolute value."""
    return _libdevice(x, "fabs")


@intrinsic
def tanh(typingctx: Any, x: Any) -> Any:
    """Hyperbolic tangent."""
    return _libdevice(x, "tanh")


@intrinsic
def erf(typingctx: Any, x: Any) -> Any:
    """Error function."""
    return _libdevice(x, "erf")


def _division(operation: str) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        a, b = (x if x.type == word else builder.trunc(x, word) for x in args)
        return getattr(builder, operation)(a, b)

    return codegen


def _extreme(a: Any, b: Any, sign: str) -> Any:
    if a != b or a.name not in _SUFFIX:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y = args
        # Not `y above x`: the first if it is NaN, or if nothing is above it; else the second, NaN or not.
        taken = builder.or_(builder.fcmp_ordered(f"{sign}=", x, y), builder.fcmp_unordered("uno", x, x))
        return builder.select(taken, x, y)

    return a(a, b), codegen


def _libdevice(x: Any, name: str) -> Any:
    if x.name not in _SUFFIX:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        symbol = f"__nv_{name}{_SUFFIX[x.name]}"
        function = builder.module.globals.get(symbol)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(args[0].type, [args[0].type]), symbol)
        return builder.call(function, args)

    return x(x), codegen
