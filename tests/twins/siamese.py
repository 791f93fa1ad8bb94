"""Chopra, Hadsell & LeCun 2005: two images through one tower; distances of pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def tower(p: Twin, x: Tensor) -> Tensor:
    h = F.max_pool2d(p.conv(x, "tower.conv1"), 2)
    h = F.max_pool2d(p.conv(h, "tower.conv2"), 2).flatten(1)
    h = torch.relu(p.linear(h, "tower.ip1"))
    return p.linear(p.linear(h, "tower.ip2"), "tower.feature")


def net(p: Twin, a: Tensor, b: Tensor, same: Tensor) -> Results:
    fa, fb = tower(p, a), tower(p, b)
    squares = (fa - fb).square().sum(1)
    apart = torch.clamp(1.0 - squares.sqrt(), min=0).square()
    return lambda: {"contrastive_loss": (same * squares + (1 - same) * apart).mean() / 2}, {"fa": fa, "fb": fb}
