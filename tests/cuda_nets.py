"""Nets that several tests of the cuda target run."""

from __future__ import annotations

JOINED = """
net joined(n = 6) {
    input x: f32[n, 9]
    input label: i32[n]
    h = linear(x, 12) |> relu
    logits = linear(concat(x, h, axis=1), 5)
    loss softmax_loss(logits, label)
    output logits
}
"""
