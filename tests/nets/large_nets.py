"""Random nets of convolutions and concats whose arenas take some MiB; they are planned and never run."""

from __future__ import annotations

import random


def large_net(seed: int) -> str:
    """The source of a net of 5 to 12 statements."""
    rng = random.Random(seed)
    size = rng.choice([16, 24, 32])
    maps = [("image", size)]
    lines = []
    for k in range(rng.randint(5, 12)):
        x, side = rng.choice(maps[-4:])
        name = f"v{k}"
        peers = [other for other, other_side in maps[1:] if other_side == side]
        choices = [
            f"{x} |> conv({rng.choice([3, 8, 13, 24])}, kernel=1) |> relu",
            f"{x} |> conv({rng.choice([4, 12, 17])}, kernel=3, pad=1)",
            f"{x} |> batch_norm |> relu",
            f"{x} |> {rng.choice(['tanh', 'sigmoid', 'gelu'])}",
            f"concat({x}, {x} |> batch_norm |> relu |> conv(8, kernel=3, pad=1))",
            f"({x} |> conv(8, kernel=1)) + ({rng.choice(peers or [x])} |> conv(8, kernel=3, pad=1))",
        ]
        if len(peers) > 1:
            choices += [f"concat({', '.join(rng.sample(peers, rng.randint(2, min(4, len(peers)))))})"] * 3
        if side % 4 == 0 and side > 8:
            choices.append(f"{x} |> {rng.choice(['max_pool(2)', 'avg_pool(2)'])}")
        made = rng.choice(choices)
        lines.append(f"    {name} = {made}")
        maps.append((name, side // 2 if "_pool(" in made else side))
        if rng.random() < 0.15:
            lines.append(_loss(name))
    return "\n".join(
        [
            f"net large(n = {rng.choice([16, 32, 56])}) {{",
            f"    input image: f32[n, {rng.choice([3, 5])}, {size}, {size}]",
            "    input label: i32[n]",
            *lines,
            _loss(maps[-1][0]),
            "}\n",
        ]
    )


def _loss(x: str) -> str:
    return f"    loss softmax_loss({x} |> global_avg_pool |> flatten |> linear(4), label)"
