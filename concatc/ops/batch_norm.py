"""``batch_norm``: made of statistics, normalisation, scale and bias."""

from __future__ import annotations

from concatc.initial_values import constant
from concatc.ir.core import Value
from concatc.op import CallSite, Composite, ShapeError
from concatc.ops._checks import check_float
from concatc.ops.channel_stats import per_channel


class BatchNorm(Composite):
    """``y[n, c, ..] = (x[n, c, ..] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c]`` (Ioffe & Szegedy 2015).

    Shapes: ``[n, c, ..]`` -> the same; 2 to 5 axes, channels on axis 1.  ``weight`` (one) and ``bias`` (zero) are
    ``[c]`` and are left out with ``weight=false``, ``bias=false``.

    In training ``mean`` and ``var`` are those of the batch (``channel_stats``, the biased variance), and the states
    are updated: ``running_mean = (1 - momentum) running_mean + momentum mean``, ``running_var`` likewise with the
    unbiased variance, as PyTorch does it.  Outside training ``mean`` and ``var`` are the states; they start at 0 and 1.

    It becomes ``channel_stats``, ``normalize``, ``scale`` and ``bias``: the gradient comes from those, and statistics
    of a channel that several layers normalise are computed once.  Training needs at least two elements a channel.
    """

    example = "h = image |> conv(16, kernel=3, pad=1, bias=false) |> batch_norm |> relu"
    params = ("weight", "bias")

    @classmethod
    def build(cls, site: CallSite, *xs: Value, eps: float = 1e-5, momentum: float = 0.1) -> Value:
        (x,) = xs
        check_float("batch_norm", x.tensor)
        if not 2 <= x.tensor.rank <= 5:
            raise ShapeError(f"batch_norm reads [n, channels, ..], 2 to 5 axes; {{0}} is {x.tensor}")
        if eps <= 0:
            raise ShapeError(f"batch_norm: `eps` must be greater than 0, not {eps}")
        if not 0 <= momentum <= 1:
            raise ShapeError(f"batch_norm: `momentum` must lie between 0 and 1, not {momentum}")
        b, channels = site.b, (x.shape[1],)
        mean = site.state("running_mean", channels, constant(0.0), x.dtype)
        var = site.state("running_var", channels, constant(1.0), x.dtype)
        if site.train:
            mean, var = cls._batch_statistics(site, x, mean, var, momentum)
        y: Value = b.normalize(x, mean, var, eps=eps)
        if site.has_param("weight"):
            y = b.scale(y, site.param("weight", channels, constant(1.0), x.dtype), axis=1)
        if site.has_param("bias"):
            y = b.bias(y, site.param("bias", channels, constant(0.0), x.dtype), axis=1)
        return y

    @classmethod
    def _batch_statistics(
        cls, site: CallSite, x: Value, running_mean: Value, running_var: Value, momentum: float
    ) -> tuple[Value, Value]:
        m = per_channel(x.shape)
        if m < 2:
            raise ShapeError(
                f"batch_norm in training needs at least 2 elements a channel; {{0}}, {x.tensor}, has {m}",
                help="a larger batch",
            )
        mean, var = site.b.channel_stats(x)
        site.update(running_mean, site.b.running_average(running_mean, mean, momentum=momentum))
        site.update(running_var, site.b.running_average(running_var, var, momentum=momentum, count=m))
        return mean, var
