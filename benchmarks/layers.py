"""GFLOP/s of single layers, forward and both gradients, beside PyTorch (NCHW and channels-last), on one thread.

    python -m benchmarks.layers [--only resnet,unet] [--direction forward,data,weight] [--rounds 7] [--json layers.json]

Each layer is one kernel that holds one op, with nothing around it: no bias, no activation, nothing copied.  A round of
each system in turn, in time of the thread (others may use the core in between); of each the best round counts.  Taps
that meet padding are no work.  `%` is the share of the machine's peak (`concatc/targets/cpu/peaks.py`); `lost` is the
time of the layer above what it would take at that peak, by which the table is sorted, largest first.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.functions import concatc
from concatc.op import Op
from concatc.ops.conv import Conv
from concatc.ops.conv_input_grad import ConvInputGrad
from concatc.ops.conv_transpose import ConvTranspose
from concatc.ops.conv_weight_grad import ConvWeightGrad
from concatc.ops.linear import Linear, LinearWeightGrad
from concatc.ops.matmul import Matmul
from concatc.targets.cpu.peaks import machine_peaks

ROUND_S = 0.02
DIRECTIONS = ("forward", "data", "weight")
Shape = tuple[int, ...]
Run = Callable[[], object]


@dataclass(frozen=True)
class Layer:
    """A convolution of ``image`` (channels, height, width), or a linear layer of ``image`` (features)."""

    net: str
    batch: int
    image: Shape
    channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    transposed: bool = False
    pad: int | None = None

    @property
    def padding(self) -> int:
        """Half of the kernel, unless given."""
        return (0 if self.transposed else self.kernel // 2) if self.pad is None else self.pad

    @property
    def name(self) -> str:
        """The shape in a word."""
        what = f"{self.net} b{self.batch} {'x'.join(map(str, self.image))}->{self.channels}"
        if len(self.image) == 1:
            return what
        extras = [f"/{self.stride}" if self.stride > 1 else "", f" g{self.groups}" if self.groups > 1 else ""]
        return f"{what} {self.kernel}x{self.kernel}{''.join(extras)}{' T' if self.transposed else ''}"

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Random input, weight and gradient of the output."""
        rng = np.random.default_rng(0)
        x: Shape = (self.batch, *self.image)
        w: Shape = (self.channels, self.image[0])
        y: Shape = (self.batch, self.channels)
        if len(self.image) == 3:
            c, (h, v) = self.image[0], self.image[1:]
            window = (self.kernel, self.kernel)
            w = (c, self.channels, *window) if self.transposed else (self.channels, c // self.groups, *window)
            y = (self.batch, self.channels, *(self._out(n) for n in (h, v)))
        made = [rng.normal(size=s).astype(np.float32) for s in (x, w, y)]
        return made[0], made[1], made[2]

    def _out(self, n: int) -> int:
        if self.transposed:
            return (n - 1) * self.stride - 2 * self.padding + self.kernel
        return (n + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        """Multiplications and additions of one direction; taps outside of the image are none."""
        if len(self.image) == 1:
            return 2 * self.batch * self.image[0] * self.channels
        taps = math.prod(self._taps(n) for n in self.image[1:])
        return 2 * self.batch * self.channels * self.image[0] // self.groups * taps

    def _taps(self, n: int) -> int:
        small, large = (n, self._out(n)) if self.transposed else (self._out(n), n)
        places = (i * self.stride + k - self.padding for i in range(small) for k in range(self.kernel))
        return sum(0 <= place < large for place in places)

    def op(self, direction: str) -> tuple[Op, list[np.ndarray]]:
        """The op of a direction, and what it reads."""
        x, w, dy = self.inputs()
        if len(self.image) == 1:
            ops: dict[str, tuple[Op, list[np.ndarray]]] = {
                "forward": (Linear(), [x, w]),
                "data": (Matmul(), [dy, w]),
                "weight": (LinearWeightGrad(), [dy, x]),
            }
            return ops[direction]
        pairs: dict[str, Any] = {"stride": (self.stride,) * 2, "pad": (self.padding,) * 2}
        window, (_, *image) = (self.kernel, self.kernel), self.image
        if self.transposed:
            return {
                "forward": (ConvTranspose(**pairs), [x, w]),
                "data": (Conv(**pairs), [dy, w]),
                "weight": (ConvWeightGrad(kernel=window, **pairs), [x, dy]),
            }[direction]
        return {
            "forward": (Conv(groups=self.groups, **pairs), [x, w]),
            "data": (ConvInputGrad(image=(image[0], image[1]), groups=self.groups, **pairs), [dy, w]),
            "weight": (ConvWeightGrad(kernel=window, groups=self.groups, **pairs), [dy, x]),
        }[direction]

    def peer(self, direction: str, channels_last: bool) -> Run:
        """What PyTorch calls."""
        x, w, dy = (torch.from_numpy(a) for a in self.inputs())
        if len(self.image) == 1:
            runs: dict[str, Run] = {
                "forward": lambda: torch.nn.functional.linear(x, w),
                "data": lambda: dy @ w,
                "weight": lambda: dy.T @ x,
            }
            return runs[direction]
        if channels_last:
            x, w, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, w, dy))
        stride, pad = [self.stride] * 2, [self.padding] * 2
        if direction == "forward":
            f = torch.nn.functional
            if self.transposed:
                return lambda: f.conv_transpose2d(x, w, None, stride, pad)
            return lambda: f.conv2d(x, w, None, stride, pad, 1, self.groups)
        mask = [direction == "data", direction == "weight", False]
        back = torch.ops.aten.convolution_backward
        return lambda: back(dy, x, w, None, stride, pad, [1, 1], self.transposed, [0, 0], self.groups, mask)


def _layers() -> list[Layer]:
    thread = [Layer("thread", n, (784,), 256) for n in (32, 64)] + [Layer("thread", 64, (512,), 256)]
    dlrm = [Layer("dlrm", 2048, (c,), o) for c, o in ((512, 256), (256, 64), (64, 16))]
    gemm = [Layer("gemm", n, (n,), n) for n in (256, 512, 1024)]
    goog = [Layer("googlenet", 4, (3, 224, 224), 64, 7, 2)]
    goog += [Layer("googlenet", 4, (c, n, n), o) for c, n, o in ((64, 56, 64), (192, 28, 64), (192, 28, 96))]
    goog += [Layer("googlenet", 4, (192, 28, 28), 16), Layer("googlenet", 4, (480, 14, 14), 192)]
    goog += [Layer("googlenet", 4, (512, 14, 14), 128), Layer("googlenet", 4, (832, 7, 7), 384)]
    goog += [Layer("googlenet", 4, (832, 7, 7), 48), Layer("googlenet", 4, (16, 28, 28), 32, 5)]
    goog += [Layer("googlenet", 4, (32, 14, 14), 64, 5), Layer("googlenet", 4, (48, 7, 7), 128, 5)]
    goog += [Layer("googlenet", 4, (64, 56, 56), 192, 3), Layer("googlenet", 4, (96, 28, 28), 128, 3)]
    goog += [Layer("googlenet", 4, (112, 14, 14), 224, 3), Layer("googlenet", 4, (192, 7, 7), 384, 3)]
    squeeze = [Layer("squeezenet", 4, (3, 224, 224), 64, 3, 2, pad=0), Layer("squeezenet", 4, (64, 55, 55), 16)]
    squeeze += [Layer("squeezenet", 4, (16, 55, 55), 64), Layer("squeezenet", 4, (32, 27, 27), 128)]
    squeeze += [Layer("squeezenet", 4, (256, 27, 27), 32), Layer("squeezenet", 4, (512, 13, 13), 64)]
    squeeze += [Layer("squeezenet", 4, (64, 13, 13), 256), Layer("squeezenet", 4, (512, 13, 13), 1000)]
    resnet = [Layer("resnet", 32, (3, 32, 32), 16, 3), Layer("resnet", 32, (16, 32, 32), 16, 3)]
    resnet += [Layer("resnet", 32, (16, 32, 32), 32, 3, 2), Layer("resnet", 32, (16, 32, 32), 32, 1, 2, pad=0)]
    resnet += [Layer("resnet", 32, (32, 16, 16), 32, 3), Layer("resnet", 32, (32, 16, 16), 64, 3, 2)]
    resnet += [Layer("resnet", 32, (32, 16, 16), 64, 1, 2, pad=0), Layer("resnet", 32, (64, 8, 8), 64, 3)]
    unet = [Layer("unet", 2, (1, 128, 128), 16, 3), Layer("unet", 2, (16, 128, 128), 16, 3)]
    unet += [Layer("unet", 2, (32, 128, 128), 16, 3), Layer("unet", 2, (32, 64, 64), 32, 3)]
    unet += [Layer("unet", 2, (128, 16, 16), 128, 3), Layer("unet", 2, (16, 128, 128), 2)]
    unet += [Layer("unet", 2, (c, n, n), c // 2, 2, 2, transposed=True) for c, n in ((128, 16), (64, 32), (32, 64))]
    dense = [Layer("densenet", 8, (24, 32, 32), 48), Layer("densenet", 8, (240, 32, 32), 48)]
    dense += [Layer("densenet", 8, (48, 32, 32), 12, 3), Layer("densenet", 8, (160, 32, 32), 12, 3)]
    dense += [Layer("densenet", 8, (300, 16, 16), 48), Layer("densenet", 8, (340, 8, 8), 48)]
    mobile = [Layer("mobile", 4, (64, 56, 56), 64, 3, stride, groups=64) for stride in (1, 2)]
    mobile += [Layer("mobile", 4, (256, 14, 14), 256, 3, groups=256)]
    mobile += [Layer("mobile", 4, (128, 28, 28), 128, 3, groups=8)]
    return [*thread, *dlrm, *gemm, *goog, *squeeze, *resnet, *unet, *dense, *mobile]


def _seconds(run: Run) -> float:
    """Seconds of this thread's time, of one run in a short row of them."""
    start, times = time.thread_time(), 0
    while not times or time.thread_time() - start < ROUND_S:
        run()
        times += 1
    return (time.thread_time() - start) / times


def measure(layer: Layer, direction: str, rounds: int) -> dict[str, float]:
    """GFLOP/s of each system, the best of the rounds."""
    op, inputs = layer.op(direction)
    runs = {"concatc": concatc(op, inputs), "nchw": layer.peer(direction, False), "nhwc": layer.peer(direction, True)}
    if len(layer.image) == 1:
        del runs["nhwc"]
    for run in runs.values():
        run()
    seconds = [{who: _seconds(run) for who, run in runs.items()} for _ in range(rounds)]
    return {who: layer.flops / min(s[who] for s in seconds) / 1e9 for who in runs}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words of names, of which one must be there: resnet,1x1")
    parser.add_argument("--direction", default=",".join(DIRECTIONS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options: Any = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    peak = machine_peaks().gflops["f32"]
    words = options.only.split(",")
    rows: list[dict[str, Any]] = []
    for layer in _layers():
        for direction in options.direction.split(","):
            if not any(word in layer.name for word in words):
                continue
            found = measure(layer, direction, options.rounds)
            lost_us = layer.flops / 1e3 * (1 / found["concatc"] - 1 / peak)
            rows.append({"layer": layer.name, "direction": direction, "lost_us": lost_us, "gflops": found})
    print(f"peak {peak:.0f} GFLOP/s")
    print(f"{'layer':44}{'direction':10}{'lost, us':>10}{'concatc':>9}{'%':>5}{'nchw':>7}{'nhwc':>7}{'c./torch':>9}")
    for row in sorted(rows, key=lambda row: -row["lost_us"]):
        found = row["gflops"]
        best = max(rate for who, rate in found.items() if who != "concatc")
        line = f"{row['layer']:44}{row['direction']:10}{row['lost_us']:10.0f}{found['concatc']:9.1f}"
        line += f"{100 * found['concatc'] / peak:5.0f}{found['nchw']:7.0f}{found.get('nhwc', math.nan):7.0f}"
        print(line + f"{found['concatc'] / best:9.2f}")
    ratios = [row["gflops"]["concatc"] / max(v for k, v in row["gflops"].items() if k != "concatc") for row in rows]
    if ratios:
        print(f"geometric mean over the better torch {math.prod(r ** (1 / len(ratios)) for r in ratios):.2f}")
    if options.json:
        options.json.write_text(json.dumps({"peak_gflops": peak, "layers": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
