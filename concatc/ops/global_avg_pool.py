"""``global_avg_pool``: the mean of each channel of each image."""

from __future__ import annotations

from concatc.ir.core import Value
from concatc.op import CallSite, Composite, ShapeError


class GlobalAvgPool(Composite):
    """``y[n, c, 1, ..] = mean of x[n, c, ..]`` over all axes after the channels (Lin et al. 2013).

    Shapes: ``[n, c, h, w]`` -> ``[n, c, 1, 1]``; 3 to 5 axes.  The axes stay: ``global_avg_pool |> flatten`` gives
    ``[n, c]``.  The same as ``mean`` over these axes with ``keepdims=true``.
    """

    example = "h = image |> global_avg_pool |> flatten"

    @classmethod
    def build(cls, site: CallSite, *xs: Value) -> Value:
        (x,) = xs
        if x.tensor.rank < 3:
            raise ShapeError(f"global_avg_pool reads [n, channels, ..]; {{0}} is {x.tensor}, without further axes")
        y: Value = site.b.mean(x, axes=tuple(range(2, x.tensor.rank)), keepdims=True)
        return y
