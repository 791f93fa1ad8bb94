"""``l2_normalize``: vectors of length 1."""

from __future__ import annotations

from concatc.ir.core import Value
from concatc.op import CallSite, Composite, ShapeError
from concatc.ops._checks import check_axis


class L2Normalize(Composite):
    """``y = x / sqrt(sum_k x[k]^2 + eps)`` along ``axis``; ``eps`` keeps the zero vector and its gradient finite.

    Shapes: any -> the same.  Made of ``square``, ``sum``, ``add_scalar``, ``sqrt`` and ``div``.
    """

    example = "h = x |> linear(64) |> l2_normalize"

    @classmethod
    def build(cls, site: CallSite, *xs: Value, axis: int = 1, eps: float = 1e-12) -> Value:
        (x,) = xs
        check_axis("l2_normalize", axis, x.tensor)
        if eps < 0:
            raise ShapeError(f"l2_normalize: `eps` must be at least 0, not {eps:g}")
        b = site.b
        squared = b.sum(b.square(x), axes=(axis,), keepdims=True)
        y: Value = b.div(x, b.sqrt(b.add_scalar(squared, value=eps)))
        return y
