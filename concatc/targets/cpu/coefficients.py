"""Numbers behind the functions of :mod:`concatc.targets.cpu.functions`, for each precision.

All coefficients are minimax polynomials, computed and rounded by ``python -m benchmarks.minimax``; the lowest stands
first.  Beside each stands how far the rounded polynomial leaves its function, relative to the function's value.
"""

from __future__ import annotations

from dataclasses import dataclass

# Where erf changes from one polynomial to the other.
ERF_CUT = 0.875


@dataclass(frozen=True)
class Precision:
    """A floating-point format, and the tables for it.

    ``log2_high + log2_low`` is log 2, ``log2_high`` so short that its product with an exponent is exact.
    """

    bits: int
    mantissa_bits: int
    bias: int
    log2_high: float
    log2_low: float
    # Beyond these exp is 0 or infinite, erf and tanh are 1, expm1 is -1, each after rounding.
    exp_low: float
    exp_high: float
    expm1_low: float
    tanh_high: float
    erf_high: float
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2
    exp2: tuple[float, ...]  # (2^r - 1) / r for |r| <= 1/2
    log: tuple[float, ...]  # (log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2)
    erf_inner: tuple[float, ...]  # erf(x) / x - 1, in x^2, for |x| <= ERF_CUT
    erf_outer: tuple[float, ...]  # log2(1 - erf(x)) for ERF_CUT <= x <= erf_high

    @property
    def sqrt_half_bits(self) -> int:
        """The bits of sqrt(1/2), nearly: where :func:`log` cuts mantissas."""
        fraction = int((2.0**0.5 - 1.0) * 2**self.mantissa_bits)
        return ((self.bias - 1) << self.mantissa_bits) + fraction


SINGLE = Precision(
    bits=32,
    mantissa_bits=23,
    bias=127,
    log2_high=0.693145751953125,
    log2_low=1.4286068e-06,
    exp_low=-104.0,
    exp_high=89.0,
    expm1_low=-18.0,
    tanh_high=9.02,
    erf_high=3.93,
    # 2^-25.8
    exp=(0.49999997, 0.16666543, 0.0416672, 0.0083665205, 0.0013882519),
    # 2^-23.1
    exp2=(0.693147, 0.24022242, 0.05550734, 0.0096715335, 0.001326469),
    # 2^-27.2
    log=(0.3333333, -0.2500082, 0.20001227, -0.16623358, 0.14201756, -0.13160169, 0.12761591, -0.07634551),
    # 2^-25.3
    erf_inner=(0.12837915, -0.3761255, 0.11282455, -0.026791463, 0.0050321817, -0.00062032585),
    # 2^-28.1
    erf_outer=(-0.00019271213, -1.6272678, -0.91861767, -0.15051274, 0.032345515, -0.0044612284, 0.00028997552),
)

DOUBLE = Precision(
    bits=64,
    mantissa_bits=52,
    bias=1023,
    log2_high=0.6931471805598903,
    log2_low=5.497923018708371e-14,
    exp_low=-746.0,
    exp_high=710.0,
    expm1_low=-38.0,
    tanh_high=19.1,
    erf_high=5.93,
    # 2^-59.9
    exp=(
        *(0.5, 0.16666666666666677, 0.04166666666666651, 0.008333333333321691, 0.0013888888888962424),
        *(0.00019841269885965686, 2.4801587172436034e-05, 2.755724437441746e-06, 2.7557402727719944e-07),
        *(2.5108978800672574e-08, 2.0875304203978155e-09),
    ),
    # 2^-55.0
    exp2=(
        *(0.6931471805599453, 0.2402265069591013, 0.05550410866482008, 0.009618129107594067, 0.0013333558146775193),
        *(0.0001540353045718611, 1.525273349273206e-05, 1.321543524221754e-06, 1.0178199673809354e-07),
        *(7.073790621025882e-09, 4.434765036036456e-10),
    ),
    # 2^-56.4
    log=(
        *(0.3333333333333314, -0.24999999999987974, 0.20000000000066553, -0.1666666666982599, 0.14285714280099795),
        *(-0.12499999691443253, 0.11111111147105267, -0.10000015205879477, 0.0909092394256474, -0.08332913558994955),
        *(0.07691529637021899, -0.0714943909857345, 0.06684590848972165, -0.06196683483495147, 0.05668369964864974),
        *(-0.056777516119211245, 0.06503492567716436, -0.059817896838256966, 0.02615167287220875),
    ),
    # 2^-54.9
    erf_inner=(
        *(0.12837916709551256, -0.3761263890318299, 0.11283791670915583, -0.02686617063714299, 0.0052239775424403135),
        *(-0.0008548321977407127, 0.00012055141080888226, -1.4920942061987778e-05, 1.638737522718976e-06),
        *(-1.5619261705794453e-07, 1.0456799540982913e-08),
    ),
    # 2^-55.1
    erf_outer=(
        *(-2.8669095564502946e-07, -1.6279039253752923, -0.9184637453272391, -0.14822166341212648),
        *(0.027495678591744177, 0.0004551939664876083, -0.0026194309028559053, 0.0009936914267783359),
        *(-0.00011928458794256787, -6.732053261305082e-05, 4.805002665148702e-05, -1.720943045219001e-05),
        *(4.213831605185476e-06, -7.451097768296242e-07, 9.452632845895253e-08, -8.20949177630622e-09),
        *(4.3842323299144847e-10, -1.0872167139045186e-11),
    ),
)
