"""Iandola et al. 2016, version 1.1: squeeze by 1x1, expand by 1x1 and 3x3, joined; without dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def unit(p: Twin, x: Tensor, path: str, **options: int) -> Tensor:
    return torch.relu(p.conv(x, f"{path}.conv", **options))


def fire(p: Twin, x: Tensor, path: str) -> Tensor:
    s = unit(p, x, f"{path}.squeeze")
    return torch.cat([unit(p, s, f"{path}.expand1"), unit(p, s, f"{path}.expand3", padding=1)], 1)


def net(p: Twin, image: Tensor, label: Tensor) -> Results:
    h = unit(p, image, "stem", stride=2)
    for stage, count in enumerate((2, 2, 4)):
        h = F.max_pool2d(h, 3, stride=2, ceil_mode=True)
        for k in range(count):
            h = fire(p, h, f"stage{stage}.k{k}.fire")
    logits = unit(p, h, "classifier").mean((2, 3))
    return lambda: {"softmax_loss": F.cross_entropy(logits, label)}, {"logits": logits}
