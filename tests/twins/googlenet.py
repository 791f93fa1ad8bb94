"""Szegedy et al. 2014: nine inception blocks, two auxiliary losses; without dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin
from tests.twins.inception import inception


def unit(p: Twin, x: Tensor, path: str, **options: int) -> Tensor:
    return torch.relu(p.conv(x, path, **options))


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)


def head(p: Twin, x: Tensor, path: str) -> Tensor:
    h = unit(p, F.avg_pool2d(x, 5, stride=3), f"{path}.conv.conv").flatten(1)
    return p.linear(torch.relu(p.linear(h, f"{path}.fc1")), f"{path}.fc2")


def net(p: Twin, image: Tensor, label: Tensor) -> Results:
    h = pool(unit(p, image, "conv1.conv", stride=2, padding=3))
    h = pool(unit(p, unit(p, h, "conv2_reduce.conv"), "conv2.conv", padding=1))
    taps = []
    for stage, blocks in ((3, "ab"), (4, "abcde"), (5, "ab")):
        for block in blocks:
            h = inception(p, h, f"inception_{stage}{block}")
            if (stage, block) in ((4, "a"), (4, "d")):
                taps.append(h)
        if stage < 5:
            h = pool(h)
    logits = p.linear(h.mean((2, 3)), "classifier")

    def losses() -> dict[str, Tensor]:
        scores = {"main": logits, **{f"aux{k}": head(p, tap, f"aux{k}") for k, tap in enumerate(taps, 1)}}
        return {name: F.cross_entropy(score, label) for name, score in scores.items()}

    return losses, {"logits": logits}
