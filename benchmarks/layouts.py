"""What channels-last images would gain: single convolutions whose image and result lie one way or the other.

python -m benchmarks.layouts [480x14x14->192 1x1 ..] [--batch 4]

A layer is written ``channels x rows x columns -> channels kernel``, with ``/2`` behind the kernel for a stride.  A net
of the convolution, and of pools that read its image and its result, is planned; then the strides of both in the plan
are edited, and the plan is run by ``concatc bench``.  GFLOP/s of the convolution's kernel on one thread, by processor
time, best of all rounds; the choice of the algorithm (``--precision``) is the same for all layouts.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.nets import ROOT
from benchmarks.report import markdown

NET = """net alone(n = 1, c = 1, rows = 2, columns = 2, o = 1, k = 1, stride = 1) {
    input x: f32[n, c, rows, columns]
    image = x |> relu
    made = image |> conv(o, kernel=k, pad=k // 2, stride=stride, bias=false)
    result = made |> max_pool(2)
    small = image |> max_pool(2)
    output result
    output small
}
"""
LAYERS = (
    *("480x14x14->192 1x1", "64x56x56->64 1x1", "64x8x8->64 3x3", "96x28x28->128 3x3", "192x7x7->384 3x3"),
    *("16x32x32->16 3x3", "32x14x14->64 5x5", "32x16x16->64 3x3/2", "3x224x224->64 7x7/2"),
)
LAYOUTS = {"planar": (), "image": ("image",), "result": ("made",), "both": ("image", "made")}
LAYER = re.compile(r"(\d+)x(\d+)x(\d+)->(\d+) (\d+)x\5(?:/(\d+))?")


@dataclass(frozen=True)
class Layer:
    """A convolution of ``c`` channels to ``o``."""

    n: int
    c: int
    rows: int
    columns: int
    o: int
    k: int
    stride: int

    @staticmethod
    def of(text: str, n: int) -> Layer:
        """A layer as it is written on the command line."""
        found = LAYER.fullmatch(text)
        if found is None:
            raise SystemExit(f"expected a layer such as `480x14x14->192 1x1`, found `{text}`")
        c, rows, columns, o, k, stride = (int(number or 1) for number in found.groups())
        return Layer(n, c, rows, columns, o, k, stride)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the image and of the result."""
        made = [(extent + 2 * (self.k // 2) - self.k) // self.stride + 1 for extent in (self.rows, self.columns)]
        return {"image": (self.n, self.c, self.rows, self.columns), "made": (self.n, self.o, *made)}

    @property
    def dims(self) -> list[str]:
        """Options of the command line."""
        return [text for name, extent in vars(self).items() for text in ("--dim", f"{name}={extent}")]


def memref(shape: Sequence[int], channels_last: bool) -> str:
    """The type of a window."""
    n, c, rows, columns = shape
    inner = (1, columns * c, c) if channels_last else (rows * columns, columns, 1)
    strides = ", ".join(map(str, (c * rows * columns, *inner)))
    return f"memref<{n}x{c}x{rows}x{columns}xf32, strided<[{strides}]>>"


def edited(plan: str, name: str, shape: Sequence[int]) -> str:
    """The plan with a value channels last, where its window is made and where launches read it."""
    old, new = memref(shape, False), memref(shape, True)
    lines = []
    for line in plan.splitlines():
        if line.lstrip().startswith(f"%{name} = "):
            assert line.endswith(old), line
            line = line.removesuffix(old) + new
        if '"cnet.launch"(' in line and " : (" in line:
            head, types = line.split(" : (", 1)
            operands = head.split("(", 1)[1].split(")", 1)[0].split(", ")
            kinds = re.split(r", (?=memref)", types.removesuffix(") -> ()"))
            kinds = [new if operand == f"%{name}" else kind for operand, kind in zip(operands, kinds, strict=True)]
            line = f"{head} : ({', '.join(kinds)}) -> ()"
        lines.append(line)
    return "\n".join(lines)


def concatc(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "concatc", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def measure(layer: Layer, rounds: int, folder: Path) -> dict[str, float]:
    """GFLOP/s of the convolution by layout."""
    net = folder / "layer.cnet"
    net.write_text(NET, encoding="utf-8")
    plan = concatc("compile", str(net), *layer.dims, "--phase", "infer", "--emit", "plan", "--plain")
    best = dict.fromkeys(LAYOUTS, 0.0)
    for _ in range(rounds):
        for layout, names in LAYOUTS.items():
            text = plan
            for name in names:
                text = edited(text, name, layer.shapes[name])
            dump = folder / f"{layout}.mlir"
            dump.write_text(text, encoding="utf-8")
            made = json.loads(concatc("bench", str(dump), "--eval", "--cpu-time", "--json", "--rounds", "40"))
            (kernel,) = (kernel for kernel in made["kernels"] if "conv" in kernel["ops"])
            best[layout] = max(best[layout], kernel["flops"] / kernel["elapsed_ns"])
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", default=LAYERS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for text in args.layers:
            found = measure(Layer.of(text, args.batch), args.rounds, Path(folder))
            rows.append([text, *(f"{rate:.0f}" for rate in found.values())])
    print(markdown(["layer", *LAYOUTS], rows))


if __name__ == "__main__":
    main()
