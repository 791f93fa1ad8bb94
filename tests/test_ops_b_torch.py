"""Convolution, pooling, normalisation, embedding and masks: values and gradients against PyTorch in float64.

The tolerance is 1e-12 of the largest value: both sides sum a few hundred products in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.calls import Call, against, close

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")
F = torch.nn.functional
pytestmark = pytest.mark.peers


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("image", "channels", "kernel", "options"),
    [
        ((2, 3, 8, 7), 4, 3, {}),
        ((2, 3, 8, 7), 4, [1, 3], {"pad": [0, 2]}),
        ((2, 4, 9, 8), 6, 3, {"stride": 2, "pad": 1, "groups": 2}),
        ((1, 2, 11, 10), 3, 3, {"dilation": [2, 3], "stride": [1, 2], "pad": [2, 1]}),
        ((1, 6, 5, 5), 6, 2, {"groups": 6, "pad": 1}),
        ((2, 2, 4, 4), 3, 7, {"pad": 3}),
        ((1, 1, 5, 5), 2, 2, {"stride": 3}),
        ((2, 3, 6, 6), 5, 1, {"stride": 2}),
        ((0, 3, 6, 6), 5, 3, {}),
    ],
)
@pytest.mark.parametrize("without", [(), ("bias",)])
def test_conv(
    image: tuple[int, ...], channels: int, kernel: Any, options: dict[str, Any], without: tuple[str, ...]
) -> None:
    renamed = {"padding" if k == "pad" else k: v for k, v in options.items()}
    call = Call("conv", normal(*image), channels=channels, kernel=kernel, without=without, **options)
    against(call, lambda *v: F.conv2d(*v, **renamed), ["x0", *call.params])


@pytest.mark.parametrize(
    ("image", "channels", "kernel", "options"),
    [
        ((2, 3, 4, 5), 2, 3, {}),
        ((2, 4, 4, 3), 6, 2, {"stride": 2, "groups": 2}),
        ((1, 2, 4, 4), 3, 3, {"stride": [2, 3], "pad": 1, "output_pad": [1, 2]}),
        ((1, 2, 3, 4), 2, 3, {"dilation": 2, "pad": [2, 0]}),
        ((1, 2, 5, 4), 2, 2, {"stride": 3}),
    ],
)
def test_conv_transpose(image: tuple[int, ...], channels: int, kernel: Any, options: dict[str, Any]) -> None:
    names = {"pad": "padding", "output_pad": "output_padding"}
    renamed = {names.get(k, k): v for k, v in options.items()}
    call = Call("conv_transpose", normal(*image), channels=channels, kernel=kernel, **options)
    against(call, lambda *v: F.conv_transpose2d(*v, **renamed), ["x0", "weight", "bias"])


POOLS: list[tuple[tuple[int, ...], Any, dict[str, Any]]] = [
    ((2, 3, 8, 8), 2, {}),
    ((2, 3, 9, 8), 3, {"stride": 2, "pad": 1}),
    ((1, 2, 9, 8), 3, {"stride": 2, "ceil": True}),
    ((1, 2, 7, 10), [2, 4], {"stride": [3, 2], "pad": [1, 2], "ceil": True}),
    ((1, 2, 6, 6), 3, {"stride": 1, "pad": 1}),
    ((1, 2, 5, 7), 2, {"stride": 3, "ceil": True}),
    ((1, 2, 6, 5), [6, 5], {}),
    ((0, 2, 6, 6), 2, {}),
]


def torch_pool(options: dict[str, Any]) -> dict[str, Any]:
    names = {"pad": "padding", "ceil": "ceil_mode"}
    return {names.get(k, k): v for k, v in options.items()}


@pytest.mark.parametrize(("image", "kernel", "options"), POOLS)
def test_max_pool(image: tuple[int, ...], kernel: Any, options: dict[str, Any]) -> None:
    call = Call("max_pool", normal(*image), kernel=kernel, **options)
    against(call, lambda x: F.max_pool2d(x, kernel, **torch_pool(options)), ["x0"])


@pytest.mark.parametrize(("image", "kernel", "options"), POOLS)
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool(image: tuple[int, ...], kernel: Any, options: dict[str, Any], count_include_pad: bool) -> None:
    call = Call("avg_pool", normal(*image), kernel=kernel, count_include_pad=count_include_pad, **options)
    against(
        call,
        lambda x: F.avg_pool2d(x, kernel, count_include_pad=count_include_pad, **torch_pool(options)),
        ["x0"],
    )


def test_global_pools() -> None:
    against(Call("global_avg_pool", normal(2, 3, 5, 4)), lambda x: F.adaptive_avg_pool2d(x, 1), ["x0"])
    against(Call("global_avg_pool", normal(2, 3, 5)), lambda x: F.adaptive_avg_pool1d(x, 1), ["x0"])
    against(Call("global_max_pool", normal(2, 3, 5, 4)), lambda x: F.adaptive_max_pool2d(x, 1), ["x0"])


def test_max_pool_takes_the_first_of_equals_and_nan_before_everything() -> None:
    x = normal(1, 1, 4, 6).round()  # many ties
    against(Call("max_pool", x, kernel=2), lambda v: F.max_pool2d(v, 2), ["x0"])
    x[0, 0, 1, 2] = x[0, 0, 2, 5] = x[0, 0, 3, 4] = np.nan
    call = Call("max_pool", x, kernel=2)
    dx = call.gradients(np.ones((1, 1, 2, 3)))["x0"][0, 0]
    assert np.isnan(call.result[0, 0]).tolist() == [[False, True, False], [False, False, True]]
    assert dx[1, 2] == 1
    assert (dx[2, 5], dx[3, 4]) == (1, 0), "of two NaN the first takes the gradient"
    want = torch.from_numpy(x).requires_grad_()
    F.max_pool2d(want, 2).sum().backward()
    # PyTorch lets the last NaN win; elsewhere the gradients agree.
    assert np.array_equal(np.delete(dx.ravel(), [17, 22]), np.delete(want.grad.numpy().ravel(), [17, 22]))


@pytest.mark.parametrize("factor", [2, [1, 3]])
def test_upsample(factor: Any) -> None:
    scale = (factor, factor) if isinstance(factor, int) else tuple(factor)
    call = Call("upsample", normal(2, 3, 3, 4), factor=factor)
    against(call, lambda x: F.interpolate(x, scale_factor=tuple(map(float, scale)), mode="nearest"), ["x0"])


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize("without", [(), ("bias",), ("weight", "bias")])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm(shape: tuple[int, ...], without: tuple[str, ...], train: bool) -> None:
    statistics = {"running_mean": normal(3, seed=1), "running_var": normal(3, seed=2) ** 2 + 0.5}
    call = Call(
        "batch_norm",
        normal(*shape) * 2 + 3,
        train=train,
        without=without,
        parameters=statistics,
        eps=1e-3,
        momentum=0.3,
    )
    mean, var = (torch.from_numpy(v.copy()) for v in statistics.values())

    def twin(x: Any, *parameters: Any) -> Any:
        named = dict(zip(call.params, parameters, strict=True))
        weight, bias = named.get("weight"), named.get("bias")
        return F.batch_norm(x, mean, var, weight, bias, training=train, momentum=0.3, eps=1e-3)

    against(call, twin, ["x0", *call.params], tolerance=1e-11)  # two passes over the batch
    assert (list(call.updates) == ["running_mean", "running_var"]) if train else not call.updates
    if train:
        close(call.value(call.updates["running_mean"]), mean.numpy(), 1e-12)
        close(call.value(call.updates["running_var"]), var.numpy(), 1e-12)


def test_variance_of_a_channel_far_from_zero() -> None:
    x = normal(4, 2, 8, 8).astype(np.float32) + np.float32(3000)
    call = Call("channel_stats", x)
    mean, var = (call.value(v) for v in call.results)
    close(
        var, x.astype(np.float64).var(axis=(0, 2, 3)), 1e-3
    )  # x has 11 bits below the point; E[x^2] - E[x]^2 has none
    close(mean, x.astype(np.float64).mean(axis=(0, 2, 3)), 1e-6)


def test_statistics_read_directly_have_gradients_too() -> None:
    x = normal(4, 3, 5)
    for k, seeds in enumerate([(normal(3, seed=1), np.zeros(3)), (np.zeros(3), normal(3, seed=2))]):
        grads = Call("channel_stats", x).gradients(*seeds)
        t = torch.from_numpy(x.copy()).requires_grad_()
        stats = (t.mean((0, 2)), t.var((0, 2), unbiased=False))
        stats[k].backward(torch.from_numpy(seeds[k]))
        close(grads["x0"], t.grad.numpy(), 1e-12)


@pytest.mark.parametrize(("shape", "axes"), [((4, 6), 1), ((2, 3, 5), 1), ((2, 3, 5), 2), ((3, 4), 2)])
@pytest.mark.parametrize("without", [(), ("bias",), ("weight", "bias")])
def test_layer_norm(shape: tuple[int, ...], axes: int, without: tuple[str, ...]) -> None:
    call = Call("layer_norm", normal(*shape) * 2 + 1, axes=axes, eps=1e-3, without=without)
    inner = shape[len(shape) - axes :]
    against(call, lambda x, *v: F.layer_norm(x, inner, *v, eps=1e-3), ["x0", *call.params], tolerance=1e-11)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 7, 3, 3), {"window": 5, "alpha": 1e-4}),
        ((2, 3, 4, 2), {"window": 5, "alpha": 1.0, "beta": 0.6, "k": 2.0}),
        ((2, 6, 5), {"window": 3, "alpha": 0.5}),
        ((1, 4, 2, 2), {"window": 1, "alpha": 2.0}),
    ],
)
def test_lrn(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    call = Call("lrn", normal(*shape), **options)
    renamed = {"size" if k == "window" else k: v for k, v in options.items()}
    against(call, lambda x: F.local_response_norm(x, **renamed), ["x0"])


@pytest.mark.parametrize("shape", [(7,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_embedding(shape: tuple[int, ...], dtype: type) -> None:
    index = np.random.default_rng(1).integers(0, 4, shape).astype(dtype)
    against(Call("embedding", index, vocab=4, dim=3), F.embedding, ["x0", "weight"])


def test_causal_mask() -> None:
    def twin(x: Any) -> Any:
        above = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
        return x.masked_fill(above, -torch.inf)

    x, seed = normal(2, 4, 4), normal(2, 4, 4, seed=1)
    call = Call("causal_mask", x)
    t = torch.from_numpy(x.copy()).requires_grad_()
    close(call.result, twin(t).detach().numpy(), 0)
    twin(t).backward(torch.from_numpy(seed))
    close(call.gradients(seed)["x0"], t.grad.numpy(), 0)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 1)])
def test_matmul(lead: tuple[int, ...], transpose_a: bool, transpose_b: bool) -> None:
    a = normal(*lead, *((4, 2) if transpose_a else (2, 4)))
    b = normal(*lead, *((5, 4) if transpose_b else (4, 5)), seed=1)

    def twin(x: Any, y: Any) -> Any:
        return (x.mT if transpose_a else x) @ (y.mT if transpose_b else y)

    against(Call("matmul", a, b, transpose_a=transpose_a, transpose_b=transpose_b), twin, ["x0", "x1"])
