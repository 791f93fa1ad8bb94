"""Products on the cuda target at each precision: what ``exact``, ``high`` and ``fast`` admit, on the emulator."""

from __future__ import annotations

import math

import numpy as np
import pytest

from concatc.compiler import Compilation, Options, target_of
from concatc.diagnostics import UsageError
from concatc.loops.memory import view
from concatc.loops.plan import Plan
from concatc.op import Sample, f32, load_all_ops
from concatc.options import PRECISIONS, Precision
from concatc.targets.cuda import kernels
from concatc.targets.cuda.arch import Arch
from concatc.targets.cuda.emulator.run import emulate
from concatc.targets.cuda.ptx import ptx_of
from tests.emulated import tiles_for_all, with_scratch
from tests.sample_plans import Samples
from tests.test_every_op import CASES, IDS, data_of

OPS = load_all_ops()
NET = """
net scores(n = 40, c = 100) {
    input x: f32[n, c]
    y = linear(x, 30)
    output y
}
"""


def computed(sample: Sample, precision: Precision) -> tuple[list[np.ndarray], str]:
    """The results of a sample, in products by tiles, and the source of the kernels."""
    sources: list[str] = []

    def run(plan: Plan, arena: np.ndarray) -> None:
        with tiles_for_all():
            module = kernels.gpu_module(plan, precision)
        sources.append(module.source)
        emulate(module, with_scratch(module, {"arena": arena}))

    made = Samples("f32", [("f32", "dense", "sample", sample)], run)
    (launch,) = made.plan.launches
    return [view(made.arena, window).copy() for window in launch.writes], sources[0]


def of_magnitudes(sample: Sample) -> tuple[np.ndarray, ...]:
    """The sums of the products' magnitudes: what errors are measured by."""
    return sample.op.reference(*(np.abs(x).astype(np.float64) for x in data_of(sample, "f32")))


def in_f64(sample: Sample) -> tuple[np.ndarray, ...]:
    return sample.op.reference(*(x.astype(np.float64) for x in data_of(sample, "f32")))


OF_PRODUCTS = (
    "linear",
    "linear_weight_grad",
    "matmul",
    "conv",
    "conv_input_grad",
    "conv_weight_grad",
    "conv_transpose",
)
PRODUCTS = [(name, sample) for name, sample in zip(IDS, CASES, strict=True) if name.rpartition("-")[0] in OF_PRODUCTS]


@pytest.mark.parametrize(("name", "sample"), PRODUCTS, ids=[name for name, _ in PRODUCTS])
def test_products_of_f32_and_of_tf32(name: str, sample: Sample) -> None:
    """``exact`` within f32's error of sums; ``fast`` within that of factors of 11 bits, and not within f32's."""
    for precision, error in (("exact", 2.0**-23), ("fast", 2.0**-10)):
        results, source = computed(sample, precision)
        assert ("mma(" in source) == (precision == "fast")
        for got, want, scale in zip(results, in_f64(sample), of_magnitudes(sample), strict=True):
            assert (np.abs(got - want) <= error * math.sqrt(sample.types[0].numel) * scale + 1e-30).all(), precision


def test_high_errs_as_f32_does() -> None:
    """Sums of 256 products: no larger error than f32's own, a thousandth of what tf32 errs by."""
    sample = Sample(OPS["linear"](), (f32(64, 256), f32(64, 256)))
    (want,), (scale,) = in_f64(sample), of_magnitudes(sample)
    errors = {}
    for precision in PRECISIONS:
        (got,), _ = computed(sample, precision)
        errors[precision] = float(np.abs((got - want) / scale).max())
    assert errors["high"] <= errors["exact"]
    assert 300 * errors["high"] <= errors["fast"] <= 2.0**-11


def test_a_net_is_compiled_at_a_precision() -> None:
    counts = {}
    for precision in PRECISIONS:
        options = Options(target="cuda", precision=precision)
        built = target_of(options).build(Compilation(NET, "scores.cnet", options).phase("infer"))
        counts[precision] = built.text("kernels").count("mma(")
    assert counts["exact"] == 0 and counts["high"] == 3 * counts["fast"] > 0


def test_architectures_without_tensor_cores_are_refused() -> None:
    """Whether or not NVIDIA's compiler is there."""
    sample = Sample(OPS["linear"](), (f32(64, 20), f32(64, 20)))
    modules = []

    def run(plan: Plan, arena: np.ndarray) -> None:
        modules.append(kernels.gpu_module(plan))

    Samples("f32", [("f32", "dense", "sample", sample)], run)
    with pytest.raises(UsageError, match="sm_75 has no tensor cores for tf32"):
        ptx_of(modules[0], Arch(7, 5))
