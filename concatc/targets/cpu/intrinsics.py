"""The functions that generated Numba kernels call: scalar operations that Python has no word for.

Each is one LLVM instruction or intrinsic, or a function of :mod:`concatc.targets.cpu.functions`, without a branch, so
that loops over them become vector code.  Generated source imports this module; it is imported only where something is
compiled, since it imports Numba.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from concatc.targets.cpu.functions import symbol_of


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger; NaN if either is NaN."""
    return _binary(a, b, "llvm.maximum")


@intrinsic
def minimum(typingctx: Any, a: Any, b: Any) -> Any:
    """The smaller; NaN if either is NaN."""
    return _binary(a, b, "llvm.minimum")


@intrinsic
def select(typingctx: Any, condition: Any, yes: Any, no: Any) -> Any:
    """``yes if condition else no``, both computed."""
    if yes != no:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    return yes(types.boolean, yes, no), codegen


@intrinsic
def plus(typingctx: Any, total: Any, term: Any) -> Any:
    """``total + term`` of a sum whose terms may be added in any order, so that the loop over it may use vectors."""
    if total != term:
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1], flags=("reassoc",))

    return total(total, term), codegen


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """Natural exponential."""
    return _own(x, "exp")


@intrinsic
def log(typingctx: Any, x: Any) -> Any:
    """Natural logarithm."""
    return _own(x, "log")


@intrinsic
def sqrt(typingctx: Any, x: Any) -> Any:
    """Square root."""
    return _unary(x, "llvm.sqrt")


@intrinsic
def floor(typingctx: Any, x: Any) -> Any:
    """The largest integral number not above, as a float."""
    return _unary(x, "llvm.floor")


@intrinsic
def absolute(typingctx: Any, x: Any) -> Any:
    """Absolute value."""
    return _unary(x, "llvm.fabs")


@intrinsic
def tanh(typingctx: Any, x: Any) -> Any:
    """Hyperbolic tangent."""
    return _own(x, "tanh")


@intrinsic
def expm1(typingctx: Any, x: Any) -> Any:
    """``exp(x) - 1``."""
    return _own(x, "expm1")


@intrinsic
def log1p(typingctx: Any, x: Any) -> Any:
    """``log(1 + x)``."""
    return _own(x, "log1p")


@intrinsic
def erf(typingctx: Any, x: Any) -> Any:
    """Error function."""
    return _own(x, "erf")


def _call(name: str, arity: int) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        module = builder.module
        function = module.globals.get(name)
        if function is None:
            type = args[0].type
            function = ir.Function(module, ir.FunctionType(type, [type] * arity), name)
        return builder.call(function, args)

    return codegen


def _suffix(type: Any) -> str:
    return {"float32": "f32", "float64": "f64"}[type.name]


def _unary(x: Any, name: str) -> Any:
    return x(x), _call(f"{name}.{_suffix(x)}", 1)


def _binary(a: Any, b: Any, name: str) -> Any:
    if a != b:
        return None
    return a(a, b), _call(f"{name}.{_suffix(a)}", 2)


def _own(x: Any, name: str) -> Any:
    return x(x), _call(symbol_of(name, _suffix(x)), 1)  # `units.py` links the code
