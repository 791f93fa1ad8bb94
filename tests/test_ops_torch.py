"""Elementwise ops, reductions, views and losses: values and gradients against PyTorch in float64.

The tolerance is 1e-12 of the largest value: both sides sum a few dozen terms in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.calls import Call, against, close

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")
F = torch.nn.functional
pytestmark = pytest.mark.peers

Twin = Callable[..., Any]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape))


def positive(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.2, 3.0, size=shape)


def labels(classes: int, *shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(2).integers(0, classes, size=shape), np.int32)


UNARY: dict[str, tuple[Twin, dict[str, Any]]] = {
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), {"negative_slope": 0.2}),
    "sigmoid": (torch.sigmoid, {}),
    "tanh": (torch.tanh, {}),
    "elu": (lambda x: F.elu(x, 0.7), {"alpha": 0.7}),
    "gelu": (F.gelu, {}),
    "relu": (F.relu, {}),
    "neg": (torch.neg, {}),
    "exp": (torch.exp, {}),
    "square": (torch.square, {}),
    "add_scalar": (lambda x: x + 0.3, {"value": 0.3}),
    "mul_scalar": (lambda x: x * 0.3, {"value": 0.3}),
    "rsub_scalar": (lambda x: 0.3 - x, {"value": 0.3}),
    "rdiv_scalar": (lambda x: 0.3 / x, {"value": 0.3}),
    "pow_scalar": (lambda x: x**3, {"value": 3.0}),
}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 2, 2), (), (0, 4)], ids=str)
def test_unary(name: str, shape: tuple[int, ...]) -> None:
    twin, attributes = UNARY[name]
    against(Call(name, np.asarray(2 * normal(*shape)), **attributes), twin, ["x0"])


def test_gelu_by_tanh() -> None:
    against(Call("gelu", 3 * normal(40), approximate="tanh"), lambda x: F.gelu(x, approximate="tanh"), ["x0"])


@pytest.mark.parametrize("name", ["log", "sqrt"])
def test_of_positive_numbers(name: str) -> None:
    against(Call(name, positive(3, 5)), getattr(torch, name), ["x0"])


@pytest.mark.parametrize("value", [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.7, 2.0, 5.0, 64.0])
def test_powers(value: float) -> None:
    against(Call("pow_scalar", positive(6), value=value), lambda x: torch.pow(x, value), ["x0"])


@pytest.mark.parametrize("name", ["add", "sub", "mul", pytest.param("div", id="div"), pytest.param("max", id="max")])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (3, 4)),
        ((3, 1), (1, 4)),
        ((2, 3, 4), (1, 3, 1)),
        ((), (2, 3)),
        ((2, 3), ()),
        ((), ()),
        ((0, 3), (1, 3)),
    ],
    ids=str,
)
def test_broadcasting(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    twin = {"div": torch.div, "max": torch.maximum}.get(name) or getattr(torch, name)
    x1 = positive(*b) if name == "div" else normal(*b, seed=9)
    against(Call(name, normal(*a), np.asarray(x1)), twin, ["x0", "x1"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    x = 10 * normal(2, 3, 4)
    against(Call("softmax", x, axis=axis), lambda v: F.softmax(v, axis), ["x0"])
    against(Call("log_softmax", x, axis=axis), lambda v: F.log_softmax(v, axis), ["x0"])


@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize("axes", [None, [0], [1, 2], [2, 0], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(name: str, axes: list[int] | None, keepdims: bool) -> None:
    dims = [0, 1, 2] if axes is None else axes
    given = {} if axes is None else {"axes": axes}
    call = Call(name, normal(2, 3, 4), keepdims=keepdims, **given)
    against(call, lambda x: getattr(torch, name)(x, dims, keepdim=keepdims), ["x0"])


@pytest.mark.parametrize("without", [(), ("bias",)])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_scale(without: tuple[str, ...], axis: int) -> None:
    def along(v: Any) -> Any:
        return v.reshape([-1 if d == axis else 1 for d in range(4)])

    call = Call("scale", normal(2, 3, 4, 5), axis=axis, without=without)
    against(call, lambda x, w, *b: x * along(w) + sum(along(v) for v in b), ["x0", *call.params])


def test_bias() -> None:
    call = Call("bias", normal(2, 3, 4), axis=1)
    against(call, lambda x, b: x + b[:, None], ["x0", "bias"])


def test_linear() -> None:
    against(Call("linear", normal(2, 3, 4), size=5), F.linear, ["x0", "weight", "bias"])


@pytest.mark.parametrize("shape", [[6, 4], [4, 3, 2], [2, 2, 6], [24], [2, -1], [1, 3, -1, 1]], ids=str)
def test_reshape(shape: list[int]) -> None:
    against(Call("reshape", normal(2, 3, 4), shape=shape), lambda x: x.reshape(shape), ["x0"])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flatten(axis: int) -> None:
    against(Call("flatten", normal(2, 3, 4), axis=axis), lambda x: torch.flatten(x, axis), ["x0"])


@pytest.mark.parametrize("perm", [[0, 2, 1], [2, 0, 1], [1, 2, 0], [0, 1, 2]], ids=str)
def test_transpose(perm: list[int]) -> None:
    against(Call("transpose", normal(2, 3, 4), perm=perm), lambda x: x.permute(perm), ["x0"])


@pytest.mark.parametrize("axis", [0, 1])
def test_slice(axis: int) -> None:
    call = Call("slice", normal(6, 6), axis=axis, sizes=[1, 3, 2])
    x = torch.from_numpy(normal(6, 6)).requires_grad_()
    parts = torch.split(x, [1, 3, 2], axis)
    seeds = [normal(*part.shape, seed=k) for k, part in enumerate(parts)]
    sum((part * torch.from_numpy(s)).sum() for part, s in zip(parts, seeds, strict=True)).backward()
    for result, part in zip(call.results, parts, strict=True):
        close(call.value(result), part.detach().numpy(), 0.0)
    close(call.gradients(*seeds)["x0"], x.grad.numpy(), 0.0)


def test_l2_normalize() -> None:
    call = Call("l2_normalize", normal(4, 3), axis=1, eps=0.0)
    against(call, lambda x: F.normalize(x, dim=1, eps=0.0), ["x0"])


# -- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("shape", "axis"), [((6, 4), 1), ((4, 6), 0), ((2, 3, 4, 5), 1), ((2, 3, 4), 2)], ids=str)
def test_softmax_loss(reduction: str, shape: tuple[int, ...], axis: int) -> None:
    label = labels(shape[axis], *shape[:axis], *shape[axis + 1 :])

    def twin(x: Any, y: Any) -> Any:
        return F.cross_entropy(x.movedim(axis, 1) if axis else x.T, y.long(), reduction=reduction)

    against(Call("softmax_loss", 5 * normal(*shape), label, axis=axis, reduction=reduction), twin, ["x0", "x1"])


@pytest.mark.parametrize("ignore", [-1, 0, 255])
def test_softmax_loss_over_valid_labels(ignore: int) -> None:
    label = labels(5, 3, 4)
    label[1, :3] = ignore
    call = Call("softmax_loss", normal(3, 5, 4), label, reduction="valid", ignore=ignore)
    against(call, lambda x, y: F.cross_entropy(x, y.long(), ignore_index=ignore), ["x0", "x1"])


@pytest.mark.parametrize(("reduction", "count"), [("mean", 12), ("sum", 1), ("batch", 3)])
def test_sigmoid_loss(reduction: str, count: int) -> None:
    call = Call("sigmoid_loss", 4 * normal(3, 4), positive(3, 4) / 3, reduction=reduction)

    def twin(x: Any, t: Any) -> Any:
        return F.binary_cross_entropy_with_logits(x, t, reduction="sum") / count

    against(call, twin, ["x0", "x1"])


@pytest.mark.parametrize(("reduction", "count"), [("mean", 12), ("sum", 1), ("euclidean", 6)])
def test_mse_loss(reduction: str, count: int) -> None:
    call = Call("mse_loss", normal(3, 4), normal(3, 4, seed=4), reduction=reduction)
    against(call, lambda x, t: F.mse_loss(x, t, reduction="sum") / count, ["x0", "x1"])


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_contrastive_loss(dtype: type) -> None:
    same = np.asarray([1, 0, 1, 0, 0, 1], dtype)
    call = Call("contrastive_loss", normal(6, 3), 0.6 * normal(6, 3, seed=3), same, margin=2.0)

    def twin(a: Any, b: Any, y: Any) -> Any:
        d = (a - b).square().sum(1).sqrt()
        y = y.to(a.dtype).detach()
        return (y * d**2 + (1 - y) * F.relu(2.0 - d) ** 2).sum() / 12

    arrays = (normal(6, 3), 0.6 * normal(6, 3, seed=3))
    a, b = (torch.from_numpy(v).requires_grad_() for v in arrays)
    want = twin(a, b, torch.from_numpy(same))
    want.backward()
    close(call.result, want.detach().numpy(), 1e-12)
    grads = call.gradients(np.array(1.0))
    close(grads["x0"], a.grad.numpy(), 1e-12)
    close(grads["x1"], b.grad.numpy(), 1e-12)
    assert "x2" not in grads


@pytest.mark.parametrize("top", [1, 3])
def test_accuracy(top: int) -> None:
    x, label = normal(50, 7), labels(7, 50)
    best = torch.from_numpy(x).topk(top, dim=1).indices.numpy()
    want = np.mean([label[k] in best[k] for k in range(50)])
    close(Call("accuracy", x, label, top=top).result, np.asarray(want), 1e-15)
