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

# Kernels of so many elements that accesses are of 16 bytes and sums run in parts.
MANY = """
net many(n = 256, size = 32) {
    input image: f32[n, 3, size, size]
    input label: i32[n]
    h = conv(image, 24, kernel=3, pad=1) |> batch_norm |> relu |> conv(12, kernel=1) @narrow
    top = h |> relu |> global_avg_pool |> flatten
    loss softmax_loss(linear(top, 10), label)
}
"""
