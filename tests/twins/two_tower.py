"""Covington et al. 2016 in the form with in-batch negatives: users and items as vectors of one space."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.twins import Results, Tensor, Twin


def mlp(p: Twin, x: Tensor, path: str, layers: int = 2) -> Tensor:
    for k in range(layers):
        x = p.linear(x, f"{path}.l{k}.linear")
        if k < layers - 1:
            x = torch.relu(x)
    return x


def net(p: Twin, user: Tensor, item: Tensor, genre: Tensor, dense: Tensor) -> Results:
    u = torch.cat([p.embedding(user, "user_table"), p.linear(dense, "user_dense")], 1)
    v = torch.cat([p.embedding(item, "item_table"), p.embedding(genre, "genre_table").mean(1)], 1)
    u, v = F.normalize(mlp(p, u, "user_vector"), dim=1), F.normalize(mlp(p, v, "item_vector"), dim=1)

    def losses() -> dict[str, Tensor]:
        score = u @ v.T / 0.07
        return {"in_batch": F.cross_entropy(score, torch.arange(len(score)))}

    return losses, {"user_vector": u, "item_vector": v}
