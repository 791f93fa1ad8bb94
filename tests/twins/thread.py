"""Two branches of different batch sizes, joined along the batch: the thread's first question."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def net(p: Twin, a: Tensor, b: Tensor, label: Tensor) -> Results:
    h = torch.cat([torch.relu(p.linear(a, "ha")), torch.relu(p.linear(b, "hb"))], 0)
    logits = p.linear(h, "logits")
    return lambda: {"softmax_loss": F.cross_entropy(logits, label)}, {"logits": logits}
