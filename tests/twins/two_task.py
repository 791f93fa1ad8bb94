"""Kendall, Gal & Cipolla 2018: one trunk, two tasks, one weighted by a learned variance."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def net(p: Twin, x: Tensor, cls: Tensor, y: Tensor) -> Results:
    trunk = torch.relu(p.linear(torch.relu(p.linear(x, "fc1")), "fc2"))
    logits = p.linear(trunk, "logits")
    value = p.linear(torch.relu(p.linear(trunk, "value1")), "value2")

    def losses() -> dict[str, Tensor]:
        s_class, s_value = p["log_var"].split(1)
        return {
            "class": (F.cross_entropy(logits, cls) * torch.exp(-s_class) + s_class).sum(),
            "regression": (F.mse_loss(value, y) * torch.exp(-s_value) + s_value).sum(),
        }

    return losses, {"logits": logits, "value": value}
