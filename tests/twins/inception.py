"""Szegedy et al. 2014: four branches of one blob, joined along channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def unit(p: Twin, x: Tensor, path: str) -> Tensor:
    return torch.relu(p.conv(x, f"{path}.conv", padding="same"))


def inception(p: Twin, x: Tensor, path: str) -> Tensor:
    branches = (
        unit(p, x, f"{path}.1x1"),
        unit(p, unit(p, x, f"{path}.3x3_reduce"), f"{path}.3x3"),
        unit(p, unit(p, x, f"{path}.5x5_reduce"), f"{path}.5x5"),
        unit(p, F.max_pool2d(x, 3, stride=1, padding=1), f"{path}.pool_proj"),
    )
    return torch.cat(branches, 1)


def net(p: Twin, image: Tensor, label: Tensor) -> Results:
    h = inception(p, unit(p, image, "stem"), "inception_a")
    h = inception(p, F.max_pool2d(h, 2), "inception_b")
    logits = p.linear(h.mean((2, 3)), "logits")
    return lambda: {"softmax_loss": F.cross_entropy(logits, label)}, {"logits": logits}
