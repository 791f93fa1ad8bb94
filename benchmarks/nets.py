"""The workloads: a net, the dims it is measured at, and random data for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Workload:
    """One row of a table.  ``labels[name]`` is the number of classes (or rows) that an integer input indexes.

    ``twin`` names the net in `tests/twins` where the file has another name.  ``phases`` is what is measured of it.
    ``dense`` rows are those whose time should be arithmetic: their share of the machine's peak is shown.
    ``budget_mib`` is what concatc may plan; ``peers`` is the row of the same net without it.
    """

    name: str
    source: str
    dims: Mapping[str, int | float] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    binary: tuple[str, ...] = ()  # float inputs that are 0 or 1
    twin: str = ""
    phases: tuple[str, ...] = ("train", "infer")
    dense: bool = False
    budget_mib: int | None = None
    peers: str = ""

    @property
    def path(self) -> Path:
        """The net's file."""
        return ROOT / self.source

    @property
    def twin_name(self) -> str:
        """The module of `tests.twins`."""
        return self.twin or self.path.stem

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


NETS = "examples/nets"
NO_DROPOUT = {"drop": 0, "head_drop": 0}  # whose random masks no two systems share
GOOGLENET = (f"{NETS}/googlenet.cnet", {"n": 16, **NO_DROPOUT}, {"label": 1000})
UNET = (f"{NETS}/unet.cnet", {"n": 8, "size": 128}, {"mask": 2})
RESNET20 = (f"{NETS}/residual.cnet", {"n": 128, "depth": 3}, {"label": 10})
DENSENET40 = (f"{NETS}/densenet40.cnet", {"n": 64}, {"label": 10})
TINY = {"x": 8, "y": 8, "features": 32, "hidden": 32, "classes": 32}
USERS = {"user": 10000, "item": 5000, "genre": 64}

# What `benchmarks.cpu` measures.
ROWS = [
    Workload("thread", "benchmarks/branches.cnet", {}, {"label": 10}, twin="thread"),
    Workload("tiny thread", "examples/thread.cnet", TINY, {"label": 32}),
    Workload("densenet40", *DENSENET40),
    Workload("densenet_bc100", f"{NETS}/densenet_bc100.cnet", {"n": 32}, {"label": 10}),
    Workload("googlenet", *GOOGLENET, dense=True),
    Workload("siamese", f"{NETS}/siamese.cnet", {"n": 64}, {}, ("same",)),
    Workload("unet", *UNET, dense=True),
    Workload("two_tower", f"{NETS}/two_tower.cnet", {"n": 2048}, USERS),
    Workload("resnet20", *RESNET20, dense=True),
    Workload("squeezenet b1", f"{NETS}/squeezenet.cnet", {"n": 1, "drop": 0}, {"label": 1000}, phases=("infer",)),
    Workload("squeezenet b8", f"{NETS}/squeezenet.cnet", {"n": 8, "drop": 0}, {"label": 1000}, dense=True),
]
# What `benchmarks.memory` measures.
MEMORY_WORKLOADS = [
    Workload("densenet40", *DENSENET40),
    Workload("densenet_bc100", f"{NETS}/densenet_bc100.cnet", {"n": 64}, {"label": 10}),
    Workload("googlenet", *GOOGLENET),
    Workload("googlenet within 200 MiB", *GOOGLENET, budget_mib=200, peers="googlenet"),
    Workload("unet", *UNET),
    Workload("resnet20", *RESNET20),
    *(Workload(f"growing{k}", f"{NETS}/growing.cnet", {"layers": k}) for k in (8, 16, 32, 64)),
]
