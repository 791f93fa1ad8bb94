"""Random nets whose inputs have batch sizes, ``n`` and sometimes ``m``: whatever an op may do with the rows of a batch.

    net batch(n = 3, m = 2) { input x0: f32[n, 4]; input x1: f32[m, 4]; v2 = concat(x0, x1, axis=0); .. }

Net ``k`` is the same for the same seed.  Extents along axis 0 are sums of multiples of the dims, as text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

ROWS = ("n", "m", "n + m", "2 * n", "n + 1")


@dataclass(frozen=True)
class Blob:
    """A name, its rows and its other extents."""

    name: str
    rows: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        product = 1
        for extent in self.shape:
            product *= extent
        return product


class _Net:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.dims = ["n", "m"] if self.rng.random() < 0.35 else ["n"]
        self.inputs: list[str] = []
        self.lines: list[str] = []
        self.blobs: list[Blob] = []
        self.used: set[str] = set()
        self.count = 0

    def name(self, letter: str = "v") -> str:
        self.count += 1
        return f"{letter}{self.count - 1}"

    def input(self, rows: str, shape: tuple[int, ...], dtype: str = "f32") -> Blob:
        made = Blob(self.name("x"), rows, shape)
        extents = ", ".join([rows, *map(str, shape)])
        self.inputs.append(f"input {made.name}: {dtype}[{extents}]")
        if dtype == "f32":
            self.blobs.append(made)
        return made

    def make(self, text: str, rows: str, *shape: int) -> Blob:
        made = Blob(self.name(), rows, shape)
        self.lines.append(f"{made.name} = {text}")
        self.blobs.append(made)
        return made

    def pick(self, rank: int | None = None) -> Blob | None:
        """A blob; those that are made last, and those that nothing reads, more often."""
        fitting = [b for b in self.blobs if rank is None or len(b.shape) == rank - 1]
        if not fitting:
            return None
        return self.rng.choice(fitting[-4:] if self.rng.random() < 0.6 else fitting)

    def like(self, blob: Blob) -> Blob:
        fitting = [b for b in self.blobs if (b.rows, b.shape) == (blob.rows, blob.shape)]
        return self.rng.choice(fitting)

    def statement(self) -> None:
        rng = self.rng
        x = self.pick()
        assert x is not None
        choose = rng.choice(
            [
                *(self.map, self.row, self.image, self.sum, self.product, self.table),
                *(self.join, self.rows_joined, self.rows_cut, self.columns_cut, self.over_batch, self.turned),
            ]
        )
        choose(x)

    def map(self, x: Blob) -> None:
        ops = ["relu({})", "tanh({})", "gelu({})", "dropout({}, 0.25)", "0.5 * {}", "{} * sigmoid({})", "elu({}, 1)"]
        self.make(self.rng.choice(ops).replace("{}", x.name), x.rows, *x.shape)

    def sum(self, x: Blob) -> None:
        op = self.rng.choice(["+", "-", "*"])
        self.make(f"{x.name} {op} {self.like(x).name}", x.rows, *x.shape)

    def row(self, x: Blob) -> None:
        if len(x.shape) == 1:
            c = self.rng.randint(1, 5)
            bias = self.rng.choice(["", ", bias=false"])
            self.make(f"linear({x.name}, {c}{bias})", x.rows, c)
        elif x.shape:
            self.make(f"flatten({x.name})", x.rows, x.numel)
        op = self.rng.choice(["softmax({})", "layer_norm({})", "batch_norm({})", "l2_normalize({})", "log_softmax({})"])
        y = self.blobs[-1]
        if y.shape and self.rng.random() < 0.6:
            self.make(op.format(y.name), y.rows, *y.shape)

    def image(self, x: Blob) -> None:
        found = self.pick(4) or self.input(self.rng.choice(self.dims), (2, 5, 4))
        c, h, w = found.shape
        rng = self.rng
        match rng.randrange(7):
            case 0:
                made = rng.randint(1, 4)
                self.make(f"conv({found.name}, {made}, kernel=3, pad=1)", found.rows, made, h, w)
            case 1:
                made = rng.randint(1, 4)
                down = ((h - 1) // 2 + 1, (w - 1) // 2 + 1)
                self.make(f"conv({found.name}, {made}, kernel=3, pad=1, stride=2)", found.rows, made, *down)
            case 2:
                kind = rng.choice(["max_pool", "avg_pool"])
                if min(h, w) > 1:
                    up = (-(-(h - 2) // 2) + 1, -(-(w - 2) // 2) + 1)
                    self.make(f"{kind}({found.name}, 2, ceil=true)", found.rows, c, *up)
            case 3:
                self.make(f"batch_norm({found.name})", found.rows, c, h, w)
            case 4:
                self.make(f"global_avg_pool({found.name}) |> flatten", found.rows, c)
            case 5:
                self.make(f"lrn({found.name}, 3)", found.rows, c, h, w)
            case _:
                if h * w <= 20:
                    self.make(f"upsample({found.name}, 2)", found.rows, c, 2 * h, 2 * w)

    def join(self, x: Blob) -> None:
        if x.shape:
            fitting = [b for b in self.blobs if b.rows == x.rows and b.shape[1:] == x.shape[1:] and b.shape]
            parts = [x, *(self.rng.choice(fitting) for _ in range(self.rng.randint(1, 2)))]
            names = ", ".join(p.name for p in parts)
            self.make(f"concat({names}, axis=1)", x.rows, sum(p.shape[0] for p in parts), *x.shape[1:])

    def rows_joined(self, x: Blob) -> None:
        fitting = [b for b in self.blobs if b.shape == x.shape and b.rows in self.dims]
        if x.rows in self.dims and fitting:
            y = self.rng.choice(fitting)
            rows = f"2 * {x.rows}" if x.rows == y.rows else "n + m"
            self.make(f"concat({x.name}, {y.name}, axis=0)", rows, *x.shape)

    def rows_cut(self, x: Blob) -> None:
        cuts = {"n + m": ("n", "m"), "2 * n": ("n", "n"), "2 * m": ("m", "m")}
        if x.rows in cuts:
            names = [self.name(), self.name()]
            sizes = cuts[x.rows]
            self.lines.append(f"{', '.join(names)} = slice({x.name}, axis=0, sizes=[{', '.join(sizes)}])")
            self.blobs += [Blob(name, rows, x.shape) for name, rows in zip(names, sizes, strict=True)]

    def columns_cut(self, x: Blob) -> None:
        if x.shape and x.shape[0] > 1:
            at = self.rng.randint(1, x.shape[0] - 1)
            names, sizes = [self.name(), self.name()], (at, x.shape[0] - at)
            self.lines.append(f"{', '.join(names)} = slice({x.name}, axis=1, sizes=[{at}, {x.shape[0] - at}])")
            self.blobs += [Blob(name, x.rows, (c, *x.shape[1:])) for name, c in zip(names, sizes, strict=True)]

    def over_batch(self, x: Blob) -> None:
        """Sums over the batch that go back to every row."""
        kind = self.rng.choice(["mean", "sum"])
        axes = self.rng.choice(["0", "0, 1"]) if x.shape else "0"
        op = self.rng.choice(["-", "+"])
        self.make(f"{x.name} {op} 0.3 * {kind}({x.name}, axes=[{axes}], keepdims=true)", x.rows, *x.shape)

    def turned(self, x: Blob) -> None:
        """The batch as another axis, or as a part of one."""
        if len(x.shape) == 1:
            c = x.shape[0]
            y = self.make(f"{x.name} |> transpose([1, 0]) |> tanh", str(c))
            self.blobs.pop()
            self.make(f"transpose({y.name}, [1, 0])", x.rows, c)
        elif len(x.shape) == 3:
            c, h, w = x.shape
            rows = f"({x.rows}) * {h * w}"
            y = self.make(f"reshape(transpose({x.name}, [0, 2, 3, 1]), [{rows}, {c}]) |> linear(3)", rows)
            self.blobs.pop()
            self.make(f"transpose(reshape({y.name}, [{x.rows}, {h}, {w}, 3]), [0, 3, 1, 2])", x.rows, 3, h, w)

    def product(self, x: Blob) -> None:
        if len(x.shape) == 1:
            y = self.like(x)
            score = self.make(f"softmax(matmul({x.name}, {y.name}, transpose_b=true))", x.rows)
            self.blobs.pop()
            self.make(f"matmul({score.name}, {x.name})", x.rows, *x.shape)

    def table(self, x: Blob) -> None:
        rows = self.rng.choice(self.dims)
        dim = self.rng.randint(1, 4)
        index = self.input(rows, (), "i32")
        self.make(f"embedding({index.name}, 4, dim={dim})", rows, dim)

    def source(self) -> str:
        rng = self.rng
        for _ in range(rng.randint(1, 2)):
            shape = rng.choice([(3,), (4,), (2, 5, 4), (3, 4, 4)])
            for dim in self.dims:
                self.input(dim, shape)
        for _ in range(rng.randint(3, 9)):
            self.statement()
        self.finish()
        head = ", ".join(f"{dim} = {rng.randint(2, 4)}" for dim in self.dims)
        body = "".join(f"    {line}\n" for line in (*self.inputs, *self.lines))
        return f"net batch({head}) {{\n{body}}}\n"

    def finish(self) -> None:
        rng = self.rng
        text = " ".join(self.lines).replace("(", " ").replace(")", " ").replace(",", " ").split()
        ends = [b for b in self.blobs if b.name not in text] or [self.blobs[-1]]
        for k, blob in enumerate(ends):
            kind = rng.randrange(4)
            if kind == 0 and len(blob.shape) == 1:
                label = self.input(blob.rows, (), "i32")
                reduction = rng.choice(["", ', reduction="sum"'])
                head = f"linear({blob.name}, 4)"
                self.lines.append(f"loss softmax_loss({head}, {label.name}{reduction}) weight 0.5 as loss{k}")
            elif kind == 1:
                self.lines.append(f"loss mean(square({blob.name})) as loss{k}")
            else:
                self.lines.append(f"loss sum({blob.name} * sigmoid({blob.name})) weight 0.1 as loss{k}")
            if rng.random() < 0.4:
                self.lines.append(f"output {blob.name} as out{k}")


def batch_net(seed: int) -> str:
    """The text of net ``seed``.  Labels and indices are below 4."""
    return _Net(seed).source()
