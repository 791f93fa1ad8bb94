"""Ronneberger, Fischer & Brox 2015, small: down by pooling, up by transposed convolution, joined at each size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def double_conv(p: Twin, x: Tensor, path: str) -> Tensor:
    for k in range(2):
        x = torch.relu(p.batch_norm(p.conv(x, f"{path}.k{k}.conv", padding=1), f"{path}.k{k}.batch_norm"))
    return x


def net(p: Twin, image: Tensor, mask: Tensor) -> Results:
    h, skips = image, []
    for down in range(p.count("down")):
        h = double_conv(p, h, f"down{down}.double_conv")
        skips.append(h)
        h = F.max_pool2d(h, 2)
    h = double_conv(p, h, "bottom")
    for up, skip in enumerate(reversed(skips)):
        h = p.conv_transpose(h, f"up{up}.conv_transpose", stride=2)
        h = double_conv(p, torch.cat([skip, h], 1), f"up{up}.double_conv")
    logits = p.conv(h, "logits")
    return lambda: {"softmax_loss": F.cross_entropy(logits, mask)}, {"logits": logits}
