"""``global_max_pool``: the maximum of each channel of each image."""

from __future__ import annotations

from concatc.ir.core import Value
from concatc.op import CallSite, Composite, ShapeError


class GlobalMaxPool(Composite):
    """``y[n, c, 0, 0] = max of x[n, c, ..]``: ``max_pool`` with the image as its only window.

    Shapes: ``[n, c, h, w]`` -> ``[n, c, 1, 1]``.  The axes stay: ``global_max_pool |> flatten`` gives ``[n, c]``.
    """

    example = "h = image |> global_max_pool |> flatten"

    @classmethod
    def build(cls, site: CallSite, *xs: Value) -> Value:
        (x,) = xs
        if x.tensor.rank != 4:
            raise ShapeError(f"global_max_pool reads [n, channels, height, width]; {{0}} is {x.tensor}")
        image = x.shape[2:]
        y: Value = site.b.max_pool(x, kernel=image, stride=image)[0]
        return y
