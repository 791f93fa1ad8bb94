"""The systems that are measured: each builds steps of training or inference for a problem.

A system is a module here with ``prepare(problem, phase, threads, **options)``: it makes what can be made once (code)
and returns `start`; `start()` makes parameters and inputs of its own, and returns a `Step`.  In training a step is
forward and backward, gradients kept until the next one; in inference the outputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.problem import Problem

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """``run`` does one step and returns its loss (0 in inference).  ``values`` is what the last one computed: ``loss``
    and ``norm/PATH``, the norm of a gradient, or ``output/NAME``.
    """

    run: Callable[[], float]
    values: Callable[[], Values]


Start = Callable[[], Step]


@dataclass(frozen=True)
class System:
    """A module of this package with its options; ``package`` is what is installed for it."""

    module: str
    package: str
    options: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[str, ...] = ("train", "infer")
    images: bool = False  # it differs from another system by the layout of images alone
    nets: tuple[str, ...] = ()  # the twins that it has; none: all
    reads_graph: bool = False

    def takes(self, problem: Problem) -> bool:
        """Whether the system is one for this problem."""
        known = not self.nets or problem.work.twin_name in self.nets
        return known and (problem.has_images or not self.images) and any(p in self.phases for p in problem.work.phases)

    def prepare(self, problem: Problem, phase: str, threads: int) -> Start:
        """What is made once; the result starts steps on it.  Imports what it needs."""
        start: Start = importlib.import_module(f"benchmarks.systems.{self.module}").prepare(
            problem, phase, threads, **self.options
        )
        return start


def _torch(**options: bool) -> System:
    last = options.get("channels_last", False)
    return System("torch_twins", "torch", {"channels_last": False, "compiled": False, **options}, images=last)


OURS = {
    "concatc": System("concatc_step", "concatc"),
    "concatc-exact": System("concatc_step", "concatc", {"precision": "exact"}, ("train",)),
    "concatc-fast": System("concatc_step", "concatc", {"precision": "fast"}, ("train",)),
}
PEERS = {
    "torch": _torch(),
    "torch-channels-last": _torch(channels_last=True),
    "jax": System("jax_jit", "jax", {"layout": "NCHW"}, reads_graph=True),
    "jax-nhwc": System("jax_jit", "jax", {"layout": "NHWC"}, images=True, reads_graph=True),
    "onnxruntime": System("onnx_sessions", "onnxruntime", {"engine": "onnxruntime"}, ("infer",)),
    "openvino": System("onnx_sessions", "openvino", {"engine": "openvino"}, ("infer",)),
    "pytensor": System("pytensor_branches", "pytensor", nets=("thread",)),
    "inductor": _torch(compiled=True),
    "inductor-channels-last": _torch(compiled=True, channels_last=True),
}
REFERENCE = {"float64": System("torch_twins", "torch", {"channels_last": False, "compiled": False, "double": True})}
SYSTEMS = {**OURS, **PEERS, **REFERENCE}
