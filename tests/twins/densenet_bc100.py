"""Huang et al. 2017: dense blocks whose layers read through a bottleneck."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin
from tests.twins.densenet40 import bn_relu


def dense_layer(p: Twin, x: Tensor, path: str) -> Tensor:
    y = p.conv(bn_relu(p, x, f"{path}.norm1"), f"{path}.conv1")
    y = p.conv(bn_relu(p, y, f"{path}.norm2"), f"{path}.conv2", padding=1)
    return torch.cat([x, y], 1)


def blocks(p: Twin, h: Tensor, stages: int) -> Tensor:
    """Dense blocks with a transition between any two; then means of the last maps."""
    for stage in range(stages):
        for dense in range(p.count(f"stage{stage}.dense")):
            h = dense_layer(p, h, f"stage{stage}.dense{dense}.layer")
        if stage < stages - 1:
            h = p.conv(bn_relu(p, h, f"stage{stage}.transition.batch_norm"), f"stage{stage}.transition.conv")
            h = F.avg_pool2d(h, 2)
    return bn_relu(p, h, "norm").mean((2, 3))


def net(p: Twin, image: Tensor, label: Tensor) -> Results:
    logits = p.linear(blocks(p, p.conv(image, "stem", padding=1), 3), "classifier")
    return lambda: {"softmax_loss": F.cross_entropy(logits, label)}, {"logits": logits}
