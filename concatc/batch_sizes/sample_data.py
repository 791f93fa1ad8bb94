"""Samples of a phase as plain data: another process makes them, and JSON takes them.

[({"n": 67108859}, sample), ..]   <->   [{"dims": {"n": 67108859}, "graph": {"numbers": ..}, "code": .., ..}, ..]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from concatc.batch_sizes.sampled import PhaseSample, SampleData
from concatc.ir.numbers import Numbered
from concatc.loops.bases import Interface
from concatc.loops.plan import Window
from concatc.loops.scaled_layout import Blocks
from concatc.loops.scaled_plan import PlanNumbers, PlanSample
from concatc.targets.cpu.scaled_step import StepSample

Sizes = Mapping[str, int]


def data_of(samples: Sequence[tuple[Sizes, PhaseSample]]) -> list[dict[str, Any]]:
    """Samples as data that JSON takes."""
    return [{"dims": dict(dims), **_data(sample)} for dims, sample in samples]


def from_data(data: Sequence[Mapping[str, Any]]) -> list[tuple[Sizes, PhaseSample]]:
    """The samples that :func:`data_of` gave."""
    return [(sample["dims"], _sample(sample)) for sample in data]


def _data(sample: PhaseSample) -> dict[str, Any]:
    plan = sample.plan
    return {
        "graph": vars(sample.graph),
        "weights": dict(sample.weights),
        "slots": [[k, w.base, w.offset_bytes, w.shape, w.strides, w.dtype] for k, w in plan.interface.slots.items()],
        "size_bytes": plan.interface.size_bytes,
        "blocks": vars(plan.blocks),
        "numbers": vars(plan.numbers),
        "scratch_blocks": plan.scratch_blocks,
        "ends": plan.ends,
        "code": sample.code,
        "step": vars(sample.step),
    }


def _sample(data: Mapping[str, Any]) -> SampleData:
    slots = {
        key: Window(base, offset_bytes, tuple(shape), tuple(strides), dtype)
        for key, base, offset_bytes, shape, strides, dtype in data["slots"]
    }
    plan = PlanSample(
        Interface(slots, data["size_bytes"]),
        Blocks(**{name: tuple(column) for name, column in data["blocks"].items()}),
        PlanNumbers(**data["numbers"]),
        tuple(data["scratch_blocks"]),
        tuple((block, end) for block, end in data["ends"]),
    )
    weights = {name: (above, below) for name, (above, below) in data["weights"].items()}
    return SampleData(Numbered(**data["graph"]), weights, plan, data["code"], StepSample(**data["step"]))
