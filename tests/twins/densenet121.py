"""Huang et al. 2017, for large images: a strided stem and pooling in front of four dense blocks."""

from __future__ import annotations

import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin
from tests.twins.densenet40 import bn_relu
from tests.twins.densenet_bc100 import blocks


def net(p: Twin, image: Tensor, label: Tensor) -> Results:
    h = bn_relu(p, p.conv(image, "stem", stride=2, padding=3), "stem_norm")
    logits = p.linear(blocks(p, F.max_pool2d(h, 3, stride=2, padding=1), 4), "classifier")
    return lambda: {"softmax_loss": F.cross_entropy(logits, label)}, {"logits": logits}
