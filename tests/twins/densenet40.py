"""Huang et al. 2017: every layer of a block reads all layers before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def bn_relu(p: Twin, x: Tensor, path: str) -> Tensor:
    return torch.relu(p.batch_norm(x, path))


def dense_layer(p: Twin, x: Tensor, path: str) -> Tensor:
    y = p.conv(bn_relu(p, x, f"{path}.y.batch_norm"), f"{path}.y.conv", padding=1)
    return torch.cat([x, y], 1)


def net(p: Twin, image: Tensor, label: Tensor) -> Results:
    h = p.conv(image, "stem", padding=1)
    for stage in range(3):
        for dense in range(p.count(f"stage{stage}.dense")):
            h = dense_layer(p, h, f"stage{stage}.dense{dense}.layer")
        if stage < 2:
            h = p.conv(bn_relu(p, h, f"stage{stage}.transition.batch_norm"), f"stage{stage}.transition.conv")
            h = F.avg_pool2d(h, 2)
    logits = p.linear(bn_relu(p, h, "norm").mean((2, 3)), "classifier")
    return lambda: {"softmax_loss": F.cross_entropy(logits, label)}, {"logits": logits}
