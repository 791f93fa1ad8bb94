"""Nanoseconds an element of kernels that are mostly transcendental functions, beside PyTorch and NumPy, on one thread.

    python -m benchmarks.functions [--elements 1048576] [--rounds 15] [--only tanh,gelu]

Each kernel runs alone, in place of nothing else: no plan around it, nothing copied.  PyTorch and NumPy write to arrays
that are there before (`out=`) where they can.  A round of each in turn, in time of the thread (others may use the
core in between); the table shows medians, and the medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from concatc.ir.types import TensorType
from concatc.loops.memory import view
from concatc.loops.plan import Launch
from concatc.op import Op, f32, i32
from concatc.ops.elu import Elu
from concatc.ops.exp import Exp
from concatc.ops.gelu import Gelu, GeluGrad
from concatc.ops.log import Log
from concatc.ops.sigmoid import Sigmoid
from concatc.ops.softmax import Softmax
from concatc.ops.softmax_loss import SoftmaxLoss, SoftmaxLossGrad
from concatc.ops.tanh import Tanh
from concatc.passes.lower_to_loops import lower_to_loops
from concatc.targets.cache import Cache
from concatc.targets.cpu.target import CpuTarget
from tests.kernel_plans import Bump, fresh_arena, op_kernel, plan_of

ROUND_S = 0.03
CLASSES = 1024
Run = Callable[[], object]
Arrays = list[np.ndarray]
T = torch.nn.functional


def concatc(op: Op, inputs: Arrays) -> Run:
    """One kernel that holds the op, on windows of its own."""
    names = {np.dtype(np.float32): f32, np.dtype(np.int32): i32}
    types: list[TensorType] = [names[x.dtype](*x.shape) for x in inputs]
    bump = Bump()
    kernel = op_kernel("k", op, types)
    windows = [bump.window(t) for t in (*types, *(v.tensor for v in kernel.ret.operands))]
    launch = Launch("k", tuple(windows[: len(types)]), tuple(windows[len(types) :]), (False,))
    plan = plan_of([launch], [kernel], bump.used)
    arena = fresh_arena(plan)
    for window, x in zip(launch.reads, inputs, strict=True):
        view(arena, window)[...] = x
    with tempfile.TemporaryDirectory() as directory:
        executable = CpuTarget(Cache(Path(directory))).build_loops(lower_to_loops(plan))
    bases = {"arena": arena}
    return lambda: executable.run(bases, "step")


def _numpy_softmax_loss(x: np.ndarray, label: np.ndarray) -> object:
    top = x.max(axis=1)
    return np.mean(np.log(np.exp(x - top[:, None]).sum(axis=1)) + top - x[np.arange(len(x)), label])


def _numpy_softmax(x: np.ndarray) -> object:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _torch_softmax_loss_grad(x: torch.Tensor, label: torch.Tensor) -> object:
    p = torch.softmax(x, 1)
    p[torch.arange(len(x)), label] -= 1.0
    return p.div_(len(x))


# What is measured: the op, what PyTorch calls, what NumPy does (None: it has no such function).
Peer = Callable[..., object]
KERNELS: dict[str, tuple[Op, Peer, Peer | None]] = {
    "exp": (Exp(), lambda x, y: torch.exp(x, out=y), lambda x, y: np.exp(x, out=y)),
    "log": (Log(), lambda x, y: torch.log(x.abs_(), out=y), lambda x, y: np.log(np.abs(x, out=x), out=y)),
    "sigmoid": (Sigmoid(), lambda x, y: torch.sigmoid(x, out=y), lambda x, y: 1 / (1 + np.exp(-x, out=y))),
    "tanh": (Tanh(), lambda x, y: torch.tanh(x, out=y), lambda x, y: np.tanh(x, out=y)),
    "elu": (Elu(), lambda x, y: T.elu(x), lambda x, y: np.where(x > 0, x, np.expm1(x, out=y))),
    "gelu": (Gelu(), lambda x, y: T.gelu(x), None),
    "gelu_tanh": (Gelu(approximate="tanh"), lambda x, y: T.gelu(x, approximate="tanh"), None),
    "gelu_grad": (GeluGrad(), lambda x, d, y: torch.ops.aten.gelu_backward(d, x), None),
    "softmax": (Softmax(), lambda x, y: torch.softmax(x, 1), lambda x, y: _numpy_softmax(x)),
    "softmax_loss": (SoftmaxLoss(), T.cross_entropy, _numpy_softmax_loss),
    "softmax_loss_grad": (SoftmaxLossGrad(), lambda x, label, d: _torch_softmax_loss_grad(x, label), None),
}


def inputs_of(name: str, elements: int) -> Arrays:
    """Scores of a few units, as activations are; labels for losses."""
    rng = np.random.default_rng(0)
    rows = max(elements // CLASSES, 1)
    x = rng.normal(0, 3, (rows, CLASSES)).astype(np.float32)
    if name == "log":
        return [np.abs(x)]
    if name.startswith("softmax_loss"):
        label = rng.integers(0, CLASSES, rows).astype(np.int32)
        return [x, label, np.array(1.0, np.float32)] if name.endswith("grad") else [x, label]
    return [x, np.ones_like(x)] if name == "gelu_grad" else [x]


def peers(name: str, inputs: Arrays) -> dict[str, Run]:
    """What runs in turn."""
    op, in_torch, in_numpy = KERNELS[name]
    arrays = [np.array(x) for x in inputs]
    if not name.startswith("softmax_loss"):
        arrays.append(np.zeros_like(inputs[0]))
    tensors = [torch.from_numpy(np.array(a, np.int64 if a.dtype == np.int32 else a.dtype)) for a in arrays]
    runs: dict[str, Run] = {"concatc": concatc(op, inputs), "torch": lambda: in_torch(*tensors)}
    if in_numpy is not None:
        runs["numpy"] = lambda: in_numpy(*arrays)
    return runs


def round_ns(run: Run, elements: int) -> float:
    """Nanoseconds of this thread's time an element, over one round."""
    start, times = time.thread_time(), 0
    while not times or time.thread_time() - start < ROUND_S:
        run()
        times += 1
    return (time.thread_time() - start) / times / elements * 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 20)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default=",".join(KERNELS))
    options: Any = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"{'ns an element':20}{'concatc':>10}{'torch':>10}{'numpy':>10}{'torch/c.':>10}{'numpy/c.':>10}")
    for name in KERNELS:
        if name not in options.only.split(","):
            continue
        inputs = inputs_of(name, options.elements)
        runs = peers(name, inputs)
        with np.errstate(all="ignore"):
            rounds = [{who: round_ns(run, inputs[0].size) for who, run in runs.items()} for _ in range(options.rounds)]
        line = f"{name:20}"
        for who in ("concatc", "torch", "numpy"):
            line += f"{statistics.median(r[who] for r in rounds):10.3f}" if who in runs else f"{'-':>10}"
        for who in ("torch", "numpy"):
            line += f"{statistics.median(r[who] / r['concatc'] for r in rounds):10.2f}" if who in runs else f"{'-':>10}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
