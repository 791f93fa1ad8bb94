"""The nets of ``examples/nets`` written in PyTorch, float64: independent witnesses for values and gradients.

A twin is a function of a :class:`Twin`, which holds parameters and states by the paths that the language gives them,
and of the inputs; it returns the losses, which are computed when they are asked for, and the outputs by name.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

Tensor: TypeAlias = torch.Tensor


class Twin:
    """Parameters and states by path, and layers that read them.  ``read`` lists the paths that were read."""

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        states: Mapping[str, np.ndarray],
        train: bool = True,
        dtype: type[np.floating[Any]] = np.float64,
    ) -> None:
        self.params = {k: torch.from_numpy(np.array(v, dtype)).requires_grad_() for k, v in params.items()}
        self.states = {k: torch.from_numpy(np.array(v, dtype)) for k, v in states.items()}
        self.train = train
        self.read: list[str] = []

    @classmethod
    def of(cls, params: Mapping[str, Tensor], states: Mapping[str, Tensor], train: bool = True) -> Twin:
        """A twin on tensors that are there already; in training states are updated in place."""
        twin = cls({}, {}, train)
        twin.params, twin.states = dict(params), dict(states)
        return twin

    def __getitem__(self, path: str) -> Tensor:
        self.read.append(path)
        return self.params[path]

    def get(self, path: str) -> Tensor | None:
        """The parameter, None where the layer goes without."""
        return self[path] if path in self.params else None

    def count(self, prefix: str) -> int:
        """How many iterations ``prefix0.``, ``prefix1.``, .. have parameters."""
        numbers = [k.removeprefix(prefix).split(".")[0] for k in self.params if k.startswith(prefix)]
        return max(int(n) for n in numbers) + 1

    def conv(self, x: Tensor, path: str, **options: Any) -> Tensor:
        return F.conv2d(x, self[f"{path}.weight"], self.get(f"{path}.bias"), **options)

    def conv_transpose(self, x: Tensor, path: str, **options: Any) -> Tensor:
        return F.conv_transpose2d(x, self[f"{path}.weight"], self.get(f"{path}.bias"), **options)

    def linear(self, x: Tensor, path: str) -> Tensor:
        return F.linear(x, self[f"{path}.weight"], self.get(f"{path}.bias"))

    def embedding(self, index: Tensor, path: str) -> Tensor:
        return F.embedding(index, self[f"{path}.weight"])

    def batch_norm(self, x: Tensor, path: str, eps: float = 1e-5, momentum: float = 0.1) -> Tensor:
        return F.batch_norm(
            x,
            self.states[f"{path}.running_mean"],
            self.states[f"{path}.running_var"],
            self.get(f"{path}.weight"),
            self.get(f"{path}.bias"),
            training=self.train,
            momentum=momentum,
            eps=eps,
        )


Results = tuple[Callable[[], dict[str, Tensor]], dict[str, Tensor]]
Net = Callable[..., Results]


def net_named(name: str) -> Net:
    """The twin of the net in the file of that name."""
    net: Net = importlib.import_module(f"tests.twins.{name}").net
    return net


def run(net: Net, twin: Twin, inputs: Mapping[str, np.ndarray]) -> Results:
    """The losses, to be computed, and the outputs."""
    tensors = {
        k: torch.from_numpy(v.astype(np.float64 if v.dtype.kind == "f" else np.int64)) for k, v in inputs.items()
    }
    return net(twin, **tensors)


def step(
    net: Net, twin: Twin, inputs: Mapping[str, np.ndarray], weights: Mapping[str, float]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Losses (their weighted total as ``loss``) and outputs by name, and the gradients of all parameters by path."""
    compute, outputs = run(net, twin, inputs)
    losses = compute()
    total = functools.reduce(operator.add, [weights[name] * value for name, value in losses.items()])
    total.backward()
    unread = sorted(set(twin.params) - set(twin.read))
    assert not unread, f"the twin reads no {unread}"
    values = {name: value.detach().numpy() for name, value in {**losses, "loss": total, **outputs}.items()}
    return values, {k: p.grad.numpy() for k, p in twin.params.items() if p.grad is not None}
