"""A net at the graph level, run by PyTorch: its autograd is an independent witness for every gradient.

`torch_step(module, args)` runs the forward function with torch operations (none of them ours), calls `backward()` on
the total and returns the results by (kind, name), gradients as ("grad", path).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from concatc.ir.core import FuncOp, Operation
from concatc.op import op_of

T = torch.Tensor
Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def simple(**functions: Callable[..., Any]) -> None:
    for name, function in functions.items():
        RULES[name] = lambda op, *xs, function=function: function(*xs)


simple(
    relu=torch.relu,
    sigmoid=torch.sigmoid,
    tanh=torch.tanh,
    add=lambda a, b: a + b,
    sub=lambda a, b: a - b,
    mul=lambda a, b: a * b,
    div=lambda a, b: a / b,
    neg=lambda x: -x,
    exp=torch.exp,
    log=torch.log,
    sqrt=torch.sqrt,
    square=torch.square,
    causal_mask=lambda x: x + torch.full(x.shape[-2:], -torch.inf, dtype=x.dtype).triu(1),
    global_avg_pool=lambda x: x.mean(dim=(2, 3), keepdim=True),
    global_max_pool=lambda x: _first_max(x.flatten(2))[..., None, None],
    accumulate=lambda *xs: sum(xs[1:], xs[0]),
)
# torch.maximum shares a tie's gradient; here the first operand takes it.
RULES["max"] = lambda op, a, b: torch.where((a >= b) | a.isnan(), a, b)
RULES["leaky_relu"] = lambda op, x: F.leaky_relu(x, op.negative_slope)
RULES["elu"] = lambda op, x: F.elu(x, op.alpha)
RULES["gelu"] = lambda op, x: F.gelu(x, approximate=op.approximate)
RULES["add_scalar"] = lambda op, x: x + op.value
RULES["mul_scalar"] = lambda op, x: x * op.value
RULES["share"] = lambda op, x: x / op.count
RULES["rsub_scalar"] = lambda op, x: op.value - x
RULES["rdiv_scalar"] = lambda op, x: op.value / x
RULES["pow_scalar"] = lambda op, x: x**op.value
RULES["concat"] = lambda op, *xs: torch.cat(xs, op.axis)
RULES["slice"] = lambda op, x: list(torch.split(x, op.sizes, op.axis))
RULES["split"] = lambda op, x: [x] * op.ways
RULES["reshape"] = lambda op, x: x.reshape(op.shape)
RULES["flatten"] = lambda op, x: x.flatten(op.axis)
RULES["transpose"] = lambda op, x: x.permute(op.perm)
RULES["softmax"] = lambda op, x: torch.softmax(x, op.axis)
RULES["log_softmax"] = lambda op, x: torch.log_softmax(x, op.axis)
RULES["linear"] = lambda op, x, w: x @ (w if op.transpose else w.T)
RULES["constant"] = lambda op: torch.full(op.shape, op.value, dtype=torch.float64)
RULES["embedding"] = lambda op, index, table: table[index.long()]
RULES["upsample"] = lambda op, x: x.repeat_interleave(op.factor[0], 2).repeat_interleave(op.factor[1], 3)
RULES["layer_norm"] = lambda op, x: F.layer_norm(x, x.shape[-1:], eps=op.eps)
RULES["total_loss"] = lambda op, *xs: sum(loss * w for loss, w in zip(xs[:-1], xs[-1], strict=True))
RULES["running_average"] = lambda op, s, v: (
    (1 - op.momentum) * s + op.momentum * (op.count / (op.count - 1) if op.count else 1) * v
)


def along(x: T, rank: int, axis: int) -> T:
    return x.reshape([-1 if d == axis else 1 for d in range(rank)])


RULES["bias"] = lambda op, x, b: x + along(b, x.dim(), op.axis)
RULES["scale"] = lambda op, x, w: x * along(w, x.dim(), op.axis)


@rule("sum")
def _sum(op: Any, x: T) -> T:
    return x.sum(dim=op.axes, keepdim=op.keepdims) if op.axes else x


@rule("mean")
def _mean(op: Any, x: T) -> T:
    return x.mean(dim=op.axes, keepdim=op.keepdims) if op.axes else x


@rule("expand")
def _expand(op: Any, x: T) -> T:
    if x.dim() != len(op.shape):
        for axis in sorted(op.axes):
            x = x.unsqueeze(axis)
    return x.expand(op.shape)


@rule("matmul")
def _matmul(op: Any, a: T, b: T) -> T:
    return (a.mT if op.transpose_a else a) @ (b.mT if op.transpose_b else b)


@rule("conv")
def _conv(op: Any, x: T, w: T) -> T:
    return F.conv2d(x, w, None, op.stride, op.pad, op.dilation, op.groups)


@rule("conv_transpose")
def _conv_transpose(op: Any, x: T, w: T) -> T:
    return F.conv_transpose2d(x, w, None, op.stride, op.pad, op.output_pad, op.groups, op.dilation)


@rule("max_pool")
def _max_pool(op: Any, x: T) -> list[T | None]:
    return [_first_max(_windows(op, x, -torch.inf)), None]


def _first_max(x: T) -> T:
    # amax shares the gradient of a tie; here the first of equal elements takes it
    index = torch.from_numpy(np.argmax(x.detach().numpy(), axis=-1))
    return x.gather(-1, index[..., None]).squeeze(-1)


@rule("avg_pool")
def _avg_pool(op: Any, x: T) -> T:
    total = _windows(op, x, 0.0).sum(-1)
    image = torch.ones(x.shape[2:], dtype=x.dtype)[None, None]
    if op.count_include_pad:
        # the padding counts, what a last window of ceil has beyond it does not
        image = F.pad(image, (op.pad[1], op.pad[1], op.pad[0], op.pad[0]), value=1.0)
        return total / _unfold(op, image, total.shape[2:]).sum(-1)
    return total / _windows(op, image, 0.0).sum(-1)


def _windows(op: Any, x: T, fill: float) -> T:
    """[n, c, h', w', elements of the window]."""
    counts = []
    for size, k, s, p in zip(x.shape[2:], op.kernel, op.stride, op.pad, strict=True):
        free = size + 2 * p - k
        count = (-(-free // s) if op.ceil else free // s) + 1
        if op.ceil and (count - 1) * s >= size + p:
            count -= 1
        counts.append(count)
    padded = F.pad(x, (op.pad[1], op.pad[1], op.pad[0], op.pad[0]), value=fill)
    return _unfold(op, padded, counts, fill)


def _unfold(op: Any, padded: T, counts: Any, fill: float = 0.0) -> T:
    more = [
        max((c - 1) * s + k - n, 0) for c, s, k, n in zip(counts, op.stride, op.kernel, padded.shape[2:], strict=True)
    ]
    padded = F.pad(padded, (0, more[1], 0, more[0]), value=fill)
    windows = padded.unfold(2, op.kernel[0], op.stride[0]).unfold(3, op.kernel[1], op.stride[1])
    return windows[:, :, : counts[0], : counts[1]].flatten(4)


@rule("channel_stats")
def _channel_stats(op: Any, x: T) -> list[T]:
    others = [0, *range(2, x.dim())]
    return [x.mean(dim=others), x.var(dim=others, unbiased=False)]


@rule("normalize")
def _normalize(op: Any, x: T, mean: T, var: T) -> T:
    return (x - along(mean, x.dim(), 1)) / torch.sqrt(along(var, x.dim(), 1) + op.eps)


@rule("lrn")
def _lrn(op: Any, x: T) -> T:
    # torch wants an axis behind the channels.
    y = F.local_response_norm(x[..., None] if x.ndim == 2 else x, op.window, op.alpha, op.beta, op.k)
    return y.reshape(x.shape)


@rule("softmax_loss")
def _softmax_loss(op: Any, x: T, label: T) -> T:
    ignore = -100 if op.ignore is None else op.ignore
    total = F.cross_entropy(x.movedim(op.axis, 1), label.long(), ignore_index=ignore, reduction="sum")
    if op.reduction == "sum":
        return total
    count = label.numel() if op.reduction == "mean" else int((label != ignore).sum())
    return total / max(count, 1)


def torch_step(
    func: FuncOp, args: Mapping[str, np.ndarray], *, float64: bool = True, kept: tuple[str, ...] = ()
) -> dict[tuple[str, str], np.ndarray]:
    """Run the graph-level ``func`` on arguments by name; returns results by (kind, name) and gradients.

    ``("grad", path)`` for every parameter, ``("input_grad", name)`` for every float input, zeros where nothing flows.
    """
    env: dict[Any, Any] = {}
    leaves: dict[tuple[str, str], T] = {}
    for arg in func.args:
        name, kind = str(arg.attrs["cnet.name"]), str(arg.attrs["cnet.kind"])
        array = np.asarray(args[name])
        tensor = torch.from_numpy(array.astype(np.float64) if float64 and array.dtype.kind == "f" else array.copy())
        if tensor.is_floating_point() and kind in ("param", "input"):
            tensor.requires_grad_(True)
            leaves["grad" if kind == "param" else "input_grad", name] = tensor
        env[arg] = tensor
    for operation in func.ops:
        if operation.name == "func.return":
            break
        results = _run(operation, [env[v] for v in operation.operands])
        env.update(zip(operation.results, results, strict=True))
    out: dict[tuple[str, str], Any] = {}
    total = None
    for attrs, value in zip(func.result_attrs, func.ret.operands, strict=True):
        key = str(attrs["cnet.kind"]), str(attrs["cnet.name"])
        out[key] = env[value]
        if key[0] == "total":
            total = env[value]
        if key[0] == "kept" and env[value].requires_grad:
            env[value].retain_grad()
    assert total is not None
    if total.requires_grad:
        total.backward()
    for key, leaf in leaves.items():
        out[key] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    for attrs, value in zip(func.result_attrs, func.ret.operands, strict=True):
        if attrs["cnet.kind"] == "kept" and env[value].requires_grad:
            grad = env[value].grad
            out["kept_grad", str(attrs["cnet.name"])] = torch.zeros_like(env[value]) if grad is None else grad
    return {key: value.detach().numpy() for key, value in out.items()}


def _run(operation: Operation, xs: list[Any]) -> list[Any]:
    op = op_of(operation)
    if op.name in RULES:
        made = RULES[op.name](op, *xs)
        results = made if isinstance(made, list) else [made]
        # flatten and the like may return what they are given; a kept blob needs a gradient of its own
        return [y.view_as(y) if any(y is x for x in xs) else y for y in results]
    raise AssertionError(f"torch_graph has no rule for {op.name}")


@rule("dropout")
def _dropout(op: Any, x: T, random: T) -> T:
    # the mask is ours (it is defined by our counter-based generator); the rest is a product
    (mask,) = op.reference(np.ones(x.shape), random.numpy())
    return x * torch.from_numpy(mask)


@rule("accuracy")
def _accuracy(op: Any, x: T, label: T) -> T:
    (value,) = op.reference(x.detach().numpy(), label.numpy())
    return torch.as_tensor(value)


@rule("iota")
def _iota(op: Any) -> T:
    (value,) = op.reference()
    return torch.from_numpy(value)


@rule("mse_loss")
def _mse_loss(op: Any, x: T, y: T) -> T:
    total = F.mse_loss(x, y, reduction="sum")
    return total / {"sum": 1, "mean": x.numel(), "euclidean": 2 * x.shape[0]}[op.reduction]


@rule("sigmoid_loss")
def _sigmoid_loss(op: Any, x: T, y: T) -> T:
    total = F.binary_cross_entropy_with_logits(x, y.to(x.dtype), reduction="sum")
    return total / {"sum": 1, "mean": x.numel(), "batch": x.shape[0]}[op.reduction]


@rule("contrastive_loss")
def _contrastive_loss(op: Any, a: T, b: T, same: T) -> T:
    square = torch.square(a - b).flatten(1).sum(1)
    same = same.to(a.dtype)
    apart = torch.clamp(op.margin - torch.sqrt(square), min=0) ** 2
    return (same * square + (1 - same) * apart).sum() / (2 * a.shape[0])
