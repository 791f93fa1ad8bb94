"""The workloads: a net of ``examples``, the dims it is measured at, and batches for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Workload:
    """One row of the table.  ``labels[name]`` is the number of classes (or rows) that an integer input indexes.

    ``budget_mib`` is what concatc may plan; ``peers`` is the row of the same net without it.
    """

    name: str
    source: str
    dims: dict[str, int | float] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    binary: tuple[str, ...] = ()  # float inputs that are 0 or 1
    budget_mib: int | None = None
    peers: str = ""

    @property
    def path(self) -> Path:
        """The net's file."""
        return ROOT / "examples" / self.source

    def batch(self, shapes: dict[str, tuple[tuple[int, ...], str]], seed: int = 0) -> Batch:
        """Random data for inputs of the given shapes and dtypes; the same for the same seed."""
        rng = np.random.default_rng(seed)
        made: Batch = {}
        for name, (shape, dtype) in shapes.items():
            if name in self.labels:
                made[name] = rng.integers(0, self.labels[name], shape).astype(dtype)
            elif name in self.binary:
                made[name] = rng.integers(0, 2, shape).astype(dtype)
            else:
                made[name] = rng.normal(size=shape).astype(dtype)
        return made


WORKLOADS = [
    Workload("thread", "thread.cnet", {"x": 64, "y": 32}, {"label": 10}),
    Workload("densenet40", "nets/densenet40.cnet", {"n": 16}, {"label": 10}),
    Workload("inception", "nets/inception.cnet", {"n": 16}, {"label": 10}),
    Workload("residual", "nets/residual.cnet", {"n": 32}, {"label": 10}),
    Workload("unet", "nets/unet.cnet", {"n": 2}, {"mask": 2}),
    Workload("siamese", "nets/siamese.cnet", {"n": 64}, {}, ("same",)),
    Workload("two_tower", "nets/two_tower.cnet", {"n": 512}, {"user": 1000, "item": 1000, "genre": 10}),
    Workload("two_task", "nets/two_task.cnet", {"n": 64}, {"cls": 5}),
]

NO_DROPOUT = {"drop": 0, "head_drop": 0}  # whose random masks no two systems share
GOOGLENET = ("nets/googlenet.cnet", {"n": 16, **NO_DROPOUT}, {"label": 1000})
UNET = ("nets/unet.cnet", {"n": 8, "size": 128}, {"mask": 2})
MEMORY_WORKLOADS = [
    Workload("densenet40", "nets/densenet40.cnet", {"n": 64}, {"label": 10}),
    Workload("densenet_bc100", "nets/densenet_bc100.cnet", {"n": 64}, {"label": 10}),
    Workload("googlenet", *GOOGLENET),
    Workload("googlenet within 200 MiB", *GOOGLENET, budget_mib=200, peers="googlenet"),
    Workload("unet", *UNET),
    Workload("resnet20", "nets/residual.cnet", {"n": 128, "depth": 3}, {"label": 10}),
    *(Workload(f"growing{k}", "nets/growing.cnet", {"layers": k}) for k in (8, 16, 32, 64)),
]
