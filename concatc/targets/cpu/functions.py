"""``exp``, ``expm1``, ``log``, ``log1p``, ``tanh`` and ``erf`` as straight code, for one element or a vector of them.

    math.exp %x : f32   ->   call <16 x float> @concatc.exp.v16f32(<16 x float> %x)     always inlined

Every step is an addition, a multiplication, a fused multiply-add, a selection, or integer arithmetic on the bits: each
lane does what a scalar does, exactly rounded.  So the result for an element depends on its value and on whether the
host has fused multiply-add, never on the width of vectors, the lane, or whether it stood in the rest of a loop; and
loops that call these functions become vector code.

Errors in units in the last place of the result, at most, f32 and f64 alike (``tests/test_functions.py``):

    ==========  =====  ====================================================================
    function    error  scheme
    ==========  =====  ====================================================================
    exp         1.1    x = n log 2 + r, |r| <= log(2) / 2; 2^n times a polynomial in r
    expm1       1.5    the same, and 2^n - 1 added first
    log         1.0    x = 2^e (1 + f), 1 + f near 1; a polynomial in f, plus e log 2
    log1p       1.6    log of 1 + x, with what rounding 1 + x lost
    tanh        2.7    t / (t + 2) with t = expm1(2 |x|)
    erf         1.8    |x| < 7/8: odd polynomial; else 1 - 2^(polynomial in |x|)
    ==========  =====  ====================================================================

n log 2 is taken off in two parts (W. J. Cody, W. Waite: Software Manual for the Elementary Functions, 1980); the
polynomials are minimax (:mod:`concatc.targets.cpu.coefficients`).  NaN stays NaN, zeros keep their sign, denormal
numbers are exact or rounded like others; exp(-inf) = 0, log(0) = -inf, log of a negative number is NaN.  exp, log
and log1p of f32 never fall from one number to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from concatc.targets.cpu.coefficients import DOUBLE, ERF_CUT, SINGLE, Precision


def call_function(module: Any, builder: Any, name: str, x: Any, fma: bool) -> Any:
    """Call ``name`` (of :data:`FUNCTIONS`) on a float or a vector of floats; the module gets its code once."""
    symbol = symbol_of(name, suffix_of(x.type))
    function = module.globals.get(symbol)
    if function is None:
        function = _define(module, name, x.type, fma)
        function.linkage = "internal"
    return builder.call(function, [x])


def definitions(text: str, fma: bool) -> str:
    """LLVM IR of the functions on scalars that ``text`` declares (see ``intrinsics.py``)."""
    module = ir.Module("functions")
    for name in FUNCTIONS:
        for type in (ir.FloatType(), ir.DoubleType()):
            if symbol_of(name, suffix_of(type)) in text:
                _define(module, name, type, fma).linkage = "linkonce_odr"
    return str(module)


def symbol_of(name: str, suffix: str) -> str:
    """The name of a function in LLVM IR."""
    return f"concatc.{name}.{suffix}"


def suffix_of(type: Any) -> str:
    """``f32``, ``v16f32``: how LLVM's intrinsics name a type."""
    if isinstance(type, ir.VectorType):
        return f"v{type.count}{suffix_of(type.element)}"
    return {ir.FloatType(): "f32", ir.DoubleType(): "f64"}.get(type) or f"i{type.width}"


def _define(module: Any, name: str, type: Any, fma: bool) -> Any:
    function = ir.Function(module, ir.FunctionType(type, [type]), symbol_of(name, suffix_of(type)))
    function.attributes.add("alwaysinline")
    function.attributes.add("nounwind")
    (x,) = function.args
    x.name = "x"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    builder.ret(FUNCTIONS[name](_Floats(module, builder, type, fma), x))
    return function


class _Floats:
    """Arithmetic on values of one type; Python numbers are constants, the same in all lanes."""

    def __init__(self, module: Any, builder: Any, type: Any, fma: bool) -> None:
        self.module, self.b, self.type, self.fused = module, builder, type, fma
        element = type.element if isinstance(type, ir.VectorType) else type
        self.at: Precision = SINGLE if element == ir.FloatType() else DOUBLE
        self.integer = ir.IntType(self.at.bits)
        if isinstance(type, ir.VectorType):
            self.integer = ir.VectorType(self.integer, type.count)
        # Added to a small number it leaves no bits behind the point: the number is rounded, and is in the last bits.
        self.magic = 1.5 * 2.0**self.at.mantissa_bits
        self.one_bits = self.at.bias << self.at.mantissa_bits

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, int | float):
            return value
        return self._constant(self.type, float(value))

    def _constant(self, type: Any, value: float) -> Any:
        return ir.Constant(type, [value] * type.count if isinstance(type, ir.VectorType) else value)

    def add(self, a: Any, b: Any) -> Any:
        return self.b.fadd(self(a), self(b))

    def sub(self, a: Any, b: Any) -> Any:
        return self.b.fsub(self(a), self(b))

    def mul(self, a: Any, b: Any) -> Any:
        return self.b.fmul(self(a), self(b))

    def div(self, a: Any, b: Any) -> Any:
        return self.b.fdiv(self(a), self(b))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c``, rounded once where the host can, else twice."""
        return self._intrinsic("llvm.fma", a, b, c) if self.fused else self.add(self.mul(a, b), c)

    def horner(self, coefficients: Sequence[float], x: Any) -> Any:
        """``c[0] + c[1] x + ..``"""
        *rest, value = coefficients
        for c in reversed(rest):
            value = self.fma(value, x, c)
        return value

    def abs(self, x: Any) -> Any:
        return self._intrinsic("llvm.fabs", x)

    def with_sign_of(self, value: Any, x: Any) -> Any:
        return self._intrinsic("llvm.copysign", value, x)

    def where(self, a: Any, sign: str, b: Any, yes: Any, no: Any) -> Any:
        """``yes if a sign b else no``; a comparison with NaN is false."""
        return self.b.select(self.b.fcmp_ordered(sign, self(a), self(b)), self(yes), self(no))

    def bits(self, x: Any) -> Any:
        return self.b.bitcast(self(x), self.integer)

    def of_bits(self, bits: Any) -> Any:
        return self.b.bitcast(bits, self.type)

    def int(self, value: int) -> Any:
        """An integer constant as wide as the floats."""
        return self._constant(self.integer, value)

    def power_of_two(self, bits: Any) -> Any:
        """2^n from bits whose last ones are n: those of ``n + magic``, or of half of it."""
        exponent = self.b.shl(bits, self.int(self.at.mantissa_bits))
        return self.of_bits(self.b.add(exponent, self.int(self.one_bits)))

    def _intrinsic(self, name: str, *arguments: Any) -> Any:
        symbol = f"{name}.{suffix_of(self.type)}"
        function = self.module.globals.get(symbol)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(self.type, [self.type] * len(arguments)), symbol)
        return self.b.call(function, [self(a) for a in arguments])


def _reduced(m: _Floats, x: Any) -> tuple[Any, Any, Any]:
    """``n + magic`` and ``r`` with x = n log 2 + r, and ``exp(r) - 1 - r``."""
    shifted = m.fma(x, 1.0 / math.log(2.0), m.magic)
    n = m.sub(shifted, m.magic)
    r = m.fma(n, -m.at.log2_low, m.fma(n, -m.at.log2_high, x))
    return shifted, r, m.mul(m.mul(r, r), m.horner(m.at.exp, r))


def _halves(m: _Floats, shifted: Any) -> tuple[Any, Any]:
    """2^i and 2^j with i + j = n: 2^n itself may be too large, or denormal."""
    bits = m.bits(shifted)
    half = m.b.lshr(bits, m.int(1))  # the bits of magic are even, so this is half of them, plus n // 2
    return m.power_of_two(half), m.power_of_two(m.b.sub(bits, half))


def _exp(m: _Floats, x: Any) -> Any:
    x = m.where(x, "<", m.at.exp_low, m.at.exp_low, x)
    x = m.where(x, ">", m.at.exp_high, m.at.exp_high, x)
    shifted, r, rest = _reduced(m, x)
    first, second = _halves(m, shifted)
    return m.mul(m.mul(m.add(m.add(r, rest), 1.0), first), second)


def _expm1(m: _Floats, x: Any) -> Any:
    bounded = m.where(x, "<", m.at.expm1_low, m.at.expm1_low, x)
    bounded = m.where(bounded, ">", m.at.exp_high, m.at.exp_high, bounded)
    shifted, r, rest = _reduced(m, bounded)
    first, second = _halves(m, shifted)
    # first * (second * (1 + r + rest) - 1 / first), the difference of powers of two first: it is exact, or all but 1.
    inverse = m.of_bits(m.b.sub(m.int(2 * m.one_bits), m.bits(first)))
    value = m.fma(second, rest, m.fma(second, r, m.sub(second, inverse)))
    return m.with_sign_of(m.mul(first, value), x)


def _log(m: _Floats, x: Any) -> Any:
    p = m.at.mantissa_bits
    smallest = 2.0 ** (1 - m.at.bias)
    normal = m.where(x, "<", smallest, m.mul(x, 2.0**p), x)
    e, f = _split(m, normal)
    e = m.sub(e, m.where(x, "<", smallest, float(p), 0.0))
    value = m.where(x, "<", math.inf, _log_of_split(m, e, f), x)
    value = m.where(x, "==", 0.0, -math.inf, value)
    return m.where(x, "<", 0.0, math.nan, value)


def _log1p(m: _Floats, x: Any) -> Any:
    u = m.add(x, 1.0)
    # What rounding lost; beyond 2^(p + 1) it is nothing beside x, and 2^-e may be denormal.
    lost = m.where(x, "<", 1.0, m.sub(x, m.sub(u, 1.0)), m.sub(1.0, m.sub(u, x)))
    lost = m.where(x, "<", 2.0 ** (m.at.mantissa_bits + 1), lost, 0.0)
    e, f = _split(m, u)
    scale = m.power_of_two(m.bits(m.sub(m.magic, m.where(x, "<", 2.0 ** (m.at.mantissa_bits + 1), e, 0.0))))
    value = _log_of_split(m, e, m.fma(lost, scale, f))
    value = m.with_sign_of(m.where(x, "<", math.inf, value, x), x)
    value = m.where(x, "==", -1.0, -math.inf, value)
    return m.where(x, "<", -1.0, math.nan, value)


def _split(m: _Floats, x: Any) -> tuple[Any, Any]:
    """``e`` and ``f``, floats, with x = 2^e (1 + f) and sqrt(1/2) <= 1 + f < sqrt(2); x is positive and normal."""
    p, cut = m.at.mantissa_bits, m.at.sqrt_half_bits
    raised = m.b.add(m.bits(x), m.int(m.one_bits - cut))
    exponent = m.b.add(m.b.lshr(raised, m.int(p)), m.bits(m.magic))
    mantissa = m.b.add(m.b.and_(raised, m.int((1 << p) - 1)), m.int(cut))
    return m.sub(m.of_bits(exponent), m.magic + m.at.bias), m.sub(m.of_bits(mantissa), 1.0)


def _log_of_split(m: _Floats, e: Any, f: Any) -> Any:
    square = m.mul(f, f)
    rest = m.mul(square, m.fma(f, m.horner(m.at.log, f), -0.5))
    whole = m.mul(e, m.at.log2_high)
    high = m.add(whole, f)
    low = m.add(m.sub(whole, high), f)  # what that sum lost, exactly
    return m.add(high, m.add(low, m.fma(e, m.at.log2_low, rest)))


def _tanh(m: _Floats, x: Any) -> Any:
    a = m.abs(x)
    a = m.where(a, ">", m.at.tanh_high, m.at.tanh_high, a)
    shifted, r, rest = _reduced(m, m.add(a, a))
    power = m.power_of_two(m.bits(shifted))
    t = m.fma(power, rest, m.fma(power, r, m.sub(power, 1.0)))
    return m.with_sign_of(m.div(t, m.add(t, 2.0)), x)


def _erf(m: _Floats, x: Any) -> Any:
    a = m.abs(x)
    a = m.where(a, ">", m.at.erf_high, m.at.erf_high, a)
    inner = m.fma(a, m.horner(m.at.erf_inner, m.mul(a, a)), a)
    exponent = m.horner(m.at.erf_outer, a)  # 1 - erf is 2^exponent
    shifted = m.add(exponent, m.magic)
    r = m.sub(exponent, m.sub(shifted, m.magic))
    outer = m.sub(1.0, m.mul(m.power_of_two(m.bits(shifted)), m.fma(r, m.horner(m.at.exp2, r), 1.0)))
    return m.with_sign_of(m.where(a, "<", ERF_CUT, inner, outer), x)


FUNCTIONS: dict[str, Callable[[_Floats, Any], Any]] = {
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "tanh": _tanh,
    "erf": _erf,
}
