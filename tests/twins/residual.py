"""He et al. 2015: two convolutions beside an identity, added."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def basic(p: Twin, x: Tensor, path: str, stride: int) -> Tensor:
    y = torch.relu(p.batch_norm(p.conv(x, f"{path}.conv1", stride=stride, padding=1), f"{path}.norm1"))
    y = p.batch_norm(p.conv(y, f"{path}.conv2", padding=1), f"{path}.norm2")
    if stride > 1:
        x = p.batch_norm(p.conv(x, f"{path}.project", stride=stride), f"{path}.project_norm")
    return torch.relu(y + x)


def net(p: Twin, image: Tensor, label: Tensor) -> Results:
    h = torch.relu(p.batch_norm(p.conv(image, "stem", padding=1), "stem_norm"))
    for stage in range(3):
        for unit in range(p.count(f"stage{stage}.unit")):
            h = basic(p, h, f"stage{stage}.unit{unit}.basic", 2 if stage > 0 and unit == 0 else 1)
    logits = p.linear(h.mean((2, 3)), "logits")
    return lambda: {"softmax_loss": F.cross_entropy(logits, label)}, {"logits": logits}
