"""Long sums of few elements on the cuda target: in parts, over many blocks, and the same result each time."""

from __future__ import annotations

import re

import numpy as np
import pytest

from concatc.loops.memory import view
from concatc.loops.plan import Plan
from concatc.op import Sample, f32, load_all_ops
from concatc.targets.cuda.emulator.run import emulate
from concatc.targets.cuda.kernels import gpu_module
from concatc.targets.cuda.launches import SCRATCH, GpuModule, Pointer
from concatc.targets.cuda.split_sums import WANTED_BLOCKS
from tests.cuda_nets import MANY
from tests.emulated import with_scratch
from tests.sample_plans import Samples
from tests.test_cuda_kernels import functions_in, modules_of
from tests.test_every_op import data_of

OPS = load_all_ops()


def computed(sample: Sample) -> tuple[GpuModule, list[np.ndarray]]:
    """The launches of a sample, and its results in f32."""
    modules: list[GpuModule] = []

    def run(plan: Plan, arena: np.ndarray) -> None:
        modules.append(gpu_module(plan))
        emulate(modules[0], with_scratch(modules[0], {"arena": arena}))

    made = Samples("f32", [("f32", "dense", "sample", sample)], run)
    (launch,) = made.plan.launches
    return modules[0], [view(made.arena, window).copy() for window in launch.writes]


SPLIT = {
    "tiles": (Sample(OPS["linear_weight_grad"](), (f32(1000, 20), f32(1000, 70))), 5, 1000),
    "terms side by side": (Sample(OPS["linear"](), (f32(9, 1024), f32(9, 1024))), 8, 1024),
    "rows": (Sample(OPS["channel_stats"](), (f32(64, 2, 32, 32),)), 16, 64 * 32 * 32),
}


@pytest.mark.parametrize("kind", SPLIT)
def test_a_long_sum_runs_in_parts(kind: str) -> None:
    """Each part in blocks of its own; errors are those of sums of f32, at most."""
    sample, parts, terms = SPLIT[kind]
    module, results = computed(sample)
    pointers = [a for launch in module.launches for a in launch.arguments if isinstance(a, Pointer)]
    assert SCRATCH in {pointer.base for pointer in pointers}
    assert parts in module.launches[0].arguments
    copies = (module.source.count("copy_four("), module.source.count("copy_async("))
    assert copies == {"tiles": (2, 2), "terms side by side": (4, 0), "rows": (0, 0)}[kind]
    data = data_of(sample, "f32")
    wanted = sample.op.reference(*(x.astype(np.float64) for x in data))
    scales = sample.op.reference(*(np.abs(x).astype(np.float64) for x in data))
    for got, want, scale in zip(results, wanted, scales, strict=True):
        assert (np.abs(got - want) <= 1e-7 * terms**0.5 * scale.max()).all()
    assert all((a == b).all() for a, b in zip(results, computed(sample)[1], strict=True))


def test_sums_that_are_short_or_many_or_of_a_prime_number_are_left_whole() -> None:
    for sample in (
        Sample(OPS["linear_weight_grad"](), (f32(256, 20), f32(256, 70))),
        Sample(OPS["linear_weight_grad"](), (f32(521, 20), f32(521, 70))),
        Sample(OPS["linear_weight_grad"](), (f32(512, 64 * 17), f32(512, 64 * 16))),
        Sample(OPS["channel_stats"](), (f32(4, 2, 32, 32),)),
    ):
        made = Samples("f32", [("f32", "dense", "sample", sample)], lambda plan, arena: None)
        assert "_parts" not in gpu_module(made.plan).source


def test_a_layer_of_many_images_keeps_a_device_busy() -> None:
    """The sums over all pixels have blocks for all multiprocessors, and no atomic operation."""
    module = modules_of(MANY, "many.cnet", {})
    functions = functions_in(module.source)
    stores = re.compile(r"^ *\w+_parts_scratch\[.*\] = ", re.MULTILINE)
    parts = [launch for launch in module.launches if stores.search(functions[launch.kernel])]
    assert {launch.phase for launch in parts} == {"forward", "backward"}
    assert all(132 <= launch.grid <= WANTED_BLOCKS for launch in parts), parts
    assert "atomic" not in module.source
