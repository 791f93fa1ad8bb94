"""What all systems compute on: the parameters, states and inputs of a workload, the same arrays for everybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.nets import Workload

Arrays = dict[str, np.ndarray]


def compiled(work: Workload, **options: Any) -> Any:
    """The levels of a workload's net, each made when it is first asked for; ``options`` are those of the compiler."""
    from concatc.compiler import Options, compile_net

    budget = None if work.budget_mib is None else work.budget_mib << 20
    chosen = Options(dims=work.dims, max_memory=budget, **options)
    return compile_net(work.path.read_text(encoding="utf-8"), str(work.path), chosen)


@dataclass(frozen=True)
class Problem:
    """A workload with its arrays.  ``inputs`` are those of training, `read` names those that inference reads."""

    work: Workload
    params: Arrays
    states: Arrays
    inputs: Arrays
    weights: dict[str, float]  # of the losses
    read: tuple[str, ...]

    @classmethod
    def of(cls, work: Workload) -> Problem:
        """The net at its initial values, and a batch for it; nothing is compiled."""
        import concatc

        net = concatc.compile(work.path, dims=work.dims, target="reference")
        net.init(seed=0)
        dtypes = {"f32": "float32", "i32": "int32"}
        inputs = {name: (i.type.shape, dtypes[i.type.dtype]) for name, i in net.signature.inputs.items()}
        params = {name: np.array(value) for name, value in net.params.items()}
        states = {name: np.array(value) for name, value in net.states.items()}
        read = tuple(net._calls.signature("infer").inputs)
        return cls(work, params, states, work.batch(inputs), dict(net.loss_weights), read)

    @property
    def has_images(self) -> bool:
        """Whether layouts of images matter."""
        return any(x.ndim == 4 for x in self.inputs.values())

    def inputs_of(self, phase: str) -> Arrays:
        """What a phase reads."""
        return self.inputs if phase == "train" else {name: self.inputs[name] for name in self.read}

    @cached_property
    def compilation(self) -> Any:
        """The net as concatc reads it."""
        return compiled(self.work)

    def save(self, path: Path) -> None:
        """Write the arrays."""
        parts: dict[str, Mapping[str, Any]] = {
            "param": self.params,
            "state": self.states,
            "input": self.inputs,
            "weight": self.weights,
        }
        arrays = {f"{kind}/{name}": np.asarray(x) for kind, part in parts.items() for name, x in part.items()}
        np.savez(path, read=np.array(self.read), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, work: Workload, path: Path) -> Problem:
        """What `save` wrote; concatc is not imported."""
        parts: dict[str, Arrays] = {"param": {}, "state": {}, "input": {}, "weight": {}}
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, _, name = key.partition("/")
                if name:
                    parts[kind][name] = arrays[key]
            read = tuple(map(str, arrays["read"]))
        weights = {name: float(x) for name, x in parts["weight"].items()}
        return cls(work, parts["param"], parts["state"], parts["input"], weights, read)
