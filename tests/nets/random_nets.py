"""Random nets: ``random_recipe(chooser)`` with a seed, or :func:`recipes` as a hypothesis strategy.

Branches, shared layers, ties, self-concat, concat on every axis, slices, views, dropout, batch norm, convolutions and
pools, embeddings, several losses.  Blobs stay small in size and in value, so that finite differences work.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from tests.nets.recipe import Blob, Recipe, Shape, Statement, names

T = TypeVar("T")
MAX_NUMEL = 160


class Chooser(Protocol):
    """Where a net's decisions come from."""

    def number(self, low: int, high: int) -> int: ...

    def pick(self, options: Sequence[T]) -> T: ...


class SeededChooser:
    """Decisions from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)


class DrawnChooser:
    """Decisions drawn by hypothesis, which shrinks them."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.draw(st.integers(0, len(options) - 1))]


@st.composite
def recipes(draw: st.DrawFn, most: int = 12) -> Recipe:
    """A strategy of nets."""
    return random_recipe(DrawnChooser(draw), most)


def random_recipe(chooser: Chooser, most: int = 12) -> Recipe:
    """A net of at most ``most`` statements between inputs and losses."""
    return _Maker(chooser).make(most)


def seeded_recipe(seed: int, most: int = 12) -> Recipe:
    """The net of a seed."""
    return random_recipe(SeededChooser(seed), most)


class _Maker:
    def __init__(self, chooser: Chooser) -> None:
        self.c = chooser
        self.head: list[Statement] = []
        self.body: list[Statement] = []
        self.results: list[Statement] = []
        self.blobs: list[Blob] = []
        self.layers: list[tuple[str, int, int]] = []
        self.unread: dict[str, None] = {}
        self.count = 0

    def make(self, most: int) -> Recipe:
        for _ in range(self.c.number(1, 3)):
            self.pick_op(SOURCES)(self)
        for _ in range(self.c.number(1, most)):
            ops = self.c.pick(GROUPS)
            # An op that fits no blob does nothing; another one may.
            for _ in range(3):
                if self.pick_op(ops)(self):
                    break
        self.finish()
        return Recipe((*self.head, *self.body, *self.results)).without_unused()

    def pick_op(self, ops: Sequence[Op]) -> Op:
        return self.c.pick(ops)

    def finish(self) -> None:
        """Losses on one to three blobs, the unread ones first; outputs."""
        ends = [b for b in self.blobs if b.name in self.unread] or self.blobs[-1:]
        for k, blob in enumerate(reversed(ends)):
            if k < 3:
                self.loss(blob)
            elif self.c.number(0, 1):
                self.results.append(Statement("output {0}", (blob.name,), kind="result"))
        if self.c.number(0, 2) == 0:
            blob = self.blob()
            self.results.append(Statement(f"output {{0}} as out{self.count}", (blob.name,), kind="result"))

    def loss(self, blob: Blob) -> None:
        weight = self.c.pick(["", "", " weight 0.5", " weight 2"])
        kind = self.c.number(0, 4)
        number = sum("loss" in s.text for s in self.results)
        name = f" as loss{number}"
        if kind <= 1 and len(blob.shape) >= 2 and blob.shape[1] >= 2:
            rest = (blob.shape[0], *blob.shape[2:])
            label = self.integers(rest)
            reduction = self.c.pick(["", ', reduction="sum"', ", ignore=1", ', reduction="valid", ignore=0'])
            text = f"loss softmax_loss({{0}}, {{1}}{reduction}){weight}{name}"
            self.results.append(Statement(text, (blob.name, label), kind="result"))
            return
        if kind == 2:
            target = self.input(blob.shape)
            call = self.c.pick(["mse_loss({0}, {1})", "sigmoid_loss({0}, sigmoid({1}))"])
            self.results.append(Statement(f"loss {call}{weight}{name}", (blob.name, target.name), kind="result"))
            return
        same = [b for b in self.blobs if b.shape == blob.shape]
        other = self.c.pick(same)
        call = self.c.pick(["mean(square({0}))", "mean({0} * {1})", "mse_loss({0}, {1})", "sum(tanh({0}))"])
        self.results.append(Statement(f"loss {call}{weight}{name}", (blob.name, other.name), kind="result"))

    # -- parts -----------------------------------------------------------------------------------------------------
    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def blob(self, *ranks: int) -> Blob | None:
        """A blob of one of these ranks; unread and new ones more often."""
        fitting = [b for b in self.blobs if not ranks or len(b.shape) in ranks]
        if not fitting:
            return None
        fresh = [b for b in fitting if b.name in self.unread]
        return self.c.pick(fresh) if fresh and self.c.number(0, 2) else self.c.pick(fitting)

    def input(self, shape: Shape) -> Blob:
        blob = Blob(self.name("x"), shape)
        sizes = ", ".join(map(str, shape))
        self.head.append(Statement(f"input {blob.name}: f32[{sizes}]", targets=(blob,), kind="input"))
        return blob

    def integers(self, shape: Shape) -> str:
        blob = Blob(self.name("label"), shape)
        sizes = ", ".join(map(str, shape))
        self.head.append(Statement(f"input {blob.name}: i32[{sizes}]", targets=(blob,), kind="input"))
        return blob.name

    def add(self, blob: Blob) -> None:
        self.blobs.append(blob)
        self.unread[blob.name] = None

    def put(self, text: str, operands: Sequence[Blob], *shapes: Shape, layer: str | None = None) -> bool:
        """Append a statement; False where it would be too large."""
        if any(math.prod(shape) > MAX_NUMEL for shape in shapes):
            return False
        targets = tuple(Blob(self.name("v"), shape) for shape in shapes)
        read = names(operands) + ((layer,) if layer is not None else ())
        self.body.append(Statement(text, read, targets))
        for operand in operands:
            self.unread.pop(operand.name, None)
        for target in targets:
            self.add(target)
        return True


Op = Callable[[_Maker], bool]


# -- sources --------------------------------------------------------------------------------------------------------
def flat_input(m: _Maker) -> bool:
    m.add(m.input((m.c.number(2, 4), m.c.number(1, 6))))
    return True


def deep_input(m: _Maker) -> bool:
    m.add(m.input((m.c.number(1, 3), m.c.number(1, 4), m.c.number(1, 4))))
    return True


def image_input(m: _Maker) -> bool:
    m.add(m.input((m.c.number(1, 2), m.c.number(1, 3), m.c.number(2, 5), m.c.number(2, 5))))
    return True


def parameter(m: _Maker) -> bool:
    blob = Blob(m.name("p"), (m.c.number(1, 4), m.c.number(1, 5)))
    text = f"param {blob.name}: f32[{blob.shape[0]}, {blob.shape[1]}]"
    m.head.append(Statement(text, targets=(blob,), kind="param"))
    m.add(blob)
    return True


def embedding(m: _Maker) -> bool:
    shape = (m.c.number(2, 4),) if m.c.number(0, 1) else (m.c.number(1, 3), m.c.number(1, 3))
    index = Blob(m.integers(shape), shape)
    size = m.c.number(1, 4)
    return m.put(f"embedding({{0}}, {m.c.number(2, 4)}, dim={size})", [index], (*shape, size))


# -- one blob to one of the same shape --------------------------------------------------------------------------------
MAPS = (
    "relu({0})",
    "relu({0})",
    "tanh({0})",
    "sigmoid({0})",
    "leaky_relu({0}, 0.2)",
    "elu({0})",
    "gelu({0})",
    "neg({0})",
    "square(tanh({0}))",
    "0.5 * {0} + 0.25",
    "1 - {0}",
    "1 / (2 + square({0}))",
    "exp(tanh({0}))",
    "log(2 + square({0}))",
    "sqrt(1 + square({0}))",
    "dropout({0}, 0.25)",
    "max({0}, 0.1 * {0})",
    "{0} * sigmoid({0})",
)


def pointwise(m: _Maker) -> bool:
    x = m.blob()
    return x is not None and m.put(m.c.pick(MAPS), [x], x.shape)


def along_axis(m: _Maker) -> bool:
    x = m.blob()
    if x is None:
        return False
    axis = m.c.number(0, len(x.shape) - 1)
    call = m.c.pick(["softmax({{0}}, axis={})", "log_softmax({{0}}, axis={})", "bias({{0}}, axis={})"])
    call = m.c.pick([call, "scale({{0}}, axis={})", "layer_norm({{0}}, axes={})"])
    if call.startswith("layer_norm"):
        return m.put(call.format(m.c.number(1, len(x.shape) - 1)), [x], x.shape) if len(x.shape) > 1 else False
    return m.put(call.format(axis), [x], x.shape)


def batch_norm(m: _Maker) -> bool:
    x = m.blob(2, 3, 4)
    if x is None or math.prod(x.shape) // x.shape[1] < 3:
        return False
    return m.put("batch_norm({0})", [x], x.shape)


# -- contractions -----------------------------------------------------------------------------------------------------
def linear(m: _Maker) -> bool:
    x = m.blob(2, 3, 4)
    if x is None:
        return False
    size = m.c.number(1, 5)
    bias = m.c.pick(["", ", bias=false"])
    return m.put(f"linear({{0}}, {size}{bias})", [x], (*x.shape[:-1], size))


def shared_linear(m: _Maker) -> bool:
    """A layer that is called several times, once where it is new."""
    x = m.blob(2, 3)
    if x is None:
        return False
    fitting = [layer for layer in m.layers if layer[1] == x.shape[-1]]
    if not fitting:
        fitting = [(m.name("layer"), x.shape[-1], m.c.pick([x.shape[-1], m.c.number(1, 5)]))]
        m.layers += fitting
        name, _, size = fitting[0]
        m.head.append(Statement(f"layer {name} = linear({size})", targets=(Blob(name, ()),), kind="layer"))
    name, _, size = m.c.pick(fitting)
    return m.put("{1}({0})", [x], (*x.shape[:-1], size), layer=name)


def matmul(m: _Maker) -> bool:
    a = m.blob(2)
    if a is None:
        return False
    plain = [(b, "matmul({0}, {1})", b.shape[1]) for b in m.blobs if len(b.shape) == 2 and b.shape[0] == a.shape[1]]
    turned = [
        (b, "matmul({0}, {1}, transpose_b=true)", b.shape[0])
        for b in m.blobs
        if len(b.shape) == 2 and b.shape[1] == a.shape[1]
    ]
    b, call, size = m.c.pick([*plain, *turned])
    return m.put(call, [a, b], (a.shape[0], size))


def conv(m: _Maker) -> bool:
    x = m.blob(4)
    if x is None:
        return False
    n, c, h, w = x.shape
    kernel, stride, pad, dilation = m.c.number(1, 3), m.c.number(1, 2), m.c.number(0, 1), m.c.pick([1, 1, 2])
    span = dilation * (kernel - 1) + 1
    if min(h, w) + 2 * pad < span:
        return False
    groups = c if m.c.number(0, 3) == 0 else 1
    channels = groups * m.c.number(1, 2) if groups > 1 else m.c.number(1, 4)
    h2, w2 = ((size + 2 * pad - span) // stride + 1 for size in (h, w))
    rest = f"kernel={kernel}, stride={stride}, pad={pad}, dilation={dilation}, groups={groups}"
    return m.put(f"conv({{0}}, {channels}, {rest})", [x], (n, channels, h2, w2))


def conv_transpose(m: _Maker) -> bool:
    x = m.blob(4)
    if x is None:
        return False
    n, _, h, w = x.shape
    channels, kernel, stride = m.c.number(1, 3), m.c.number(1, 3), m.c.number(1, 2)
    h2, w2 = ((size - 1) * stride + kernel for size in (h, w))
    call = f"conv_transpose({{0}}, {channels}, kernel={kernel}, stride={stride})"
    return m.put(call, [x], (n, channels, h2, w2))


def pool(m: _Maker) -> bool:
    x = m.blob(4)
    if x is None:
        return False
    n, c, h, w = x.shape
    kernel, stride, pad = m.c.number(1, 3), m.c.number(1, 2), m.c.number(0, 1)
    pad = min(pad, kernel - 1)
    if min(h, w) + 2 * pad < kernel:
        return False
    h2, w2 = ((size + 2 * pad - kernel) // stride + 1 for size in (h, w))
    call = m.c.pick(["max_pool", "avg_pool"])
    return m.put(f"{call}({{0}}, {kernel}, stride={stride}, pad={pad})", [x], (n, c, h2, w2))


def image_op(m: _Maker) -> bool:
    x = m.blob(4)
    if x is None:
        return False
    n, c, h, w = x.shape
    choices = [
        ("global_avg_pool({0})", (n, c, 1, 1)),
        ("global_max_pool({0})", (n, c, 1, 1)),
        ("upsample({0}, 2)", (n, c, 2 * h, 2 * w)),
        ("lrn({0}, 3, alpha=0.1)", x.shape),
    ]
    call, shape = m.c.pick(choices)
    return m.put(call, [x], shape)


# -- joins, cuts and views --------------------------------------------------------------------------------------------
def concat(m: _Maker) -> bool:
    x = m.blob()
    if x is None or not x.shape:
        return False
    axis = m.c.number(0, len(x.shape) - 1)

    def off_axis(shape: Shape) -> Shape:
        return shape[:axis] + shape[axis + 1 :]

    fitting = [b for b in m.blobs if len(b.shape) == len(x.shape) and off_axis(b.shape) == off_axis(x.shape)]
    parts = [x, *(m.c.pick(fitting) for _ in range(m.c.number(0, 3)))]
    total = sum(p.shape[axis] for p in parts)
    inside = ", ".join(f"{{{k}}}" for k in range(len(parts)))
    shape = (*x.shape[:axis], total, *x.shape[axis + 1 :])
    return m.put(f"concat({inside}, axis={axis})", parts, shape)


def cut(m: _Maker) -> bool:
    x = m.blob()
    if x is None or not x.shape:
        return False
    axis = m.c.number(0, len(x.shape) - 1)
    n = x.shape[axis]
    if n < 2:
        return False
    sizes = [m.c.number(1, n - 1)]
    sizes.append(n - sizes[0])
    if sizes[1] > 1 and m.c.number(0, 1):
        sizes[1:] = [1, sizes[1] - 1]
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    return m.put(f"slice({{0}}, axis={axis}, sizes={sizes})", [x], *shapes)


def view(m: _Maker) -> bool:
    x = m.blob()
    if x is None or len(x.shape) < 2:
        return False
    rank = len(x.shape)
    kind = m.c.number(0, 3)
    if kind == 0:
        perm = list(range(rank))
        for k in range(rank - 1):
            j = m.c.number(k, rank - 1)
            perm[k], perm[j] = perm[j], perm[k]
        return m.put(f"transpose({{0}}, {perm})", [x], tuple(x.shape[p] for p in perm))
    if kind == 1:
        return m.put("flatten({0})", [x], (x.shape[0], math.prod(x.shape[1:])))
    if kind == 2 and rank >= 3:
        shape = (x.shape[0] * x.shape[1], *x.shape[2:])
    else:
        shape = (*x.shape[:-1], 1, x.shape[-1]) if rank < 4 else (x.shape[0], math.prod(x.shape[1:]))
    return m.put(f"reshape({{0}}, {list(shape)})", [x], shape)


def fold(m: _Maker) -> bool:
    x = m.blob()
    if x is None or len(x.shape) < 2:
        return False
    axis = m.c.number(0, len(x.shape) - 1)
    call = m.c.pick(["sum(0.3 * {{0}}, axes=[{}], keepdims=true)", "mean({{0}}, axes=[{}], keepdims=true)"])
    return m.put(call.format(axis), [x], (*x.shape[:axis], 1, *x.shape[axis + 1 :]))


PAIRS = ("{0} + {1}", "{0} - {1}", "tanh({0} * {1})", "max({0}, {1})", "{0} / (1.5 + square({1}))")


def pair(m: _Maker) -> bool:
    x = m.blob()
    if x is None:
        return False
    return m.put(m.c.pick(PAIRS), [x, m.c.pick([b for b in m.blobs if b.shape == x.shape])], x.shape)


def broadcast(m: _Maker) -> bool:
    x = m.blob()
    if x is None:
        return False
    fitting = [
        b
        for b in m.blobs
        if len(b.shape) == len(x.shape) and all(p == q or p == 1 for p, q in zip(b.shape, x.shape, strict=True))
    ]
    return m.put(m.c.pick(PAIRS), [x, m.c.pick(fitting)], x.shape)


SOURCES: Sequence[Op] = (flat_input, flat_input, image_input, image_input, deep_input, parameter, embedding)
GROUPS: Sequence[Sequence[Op]] = (
    (pointwise,),
    (pointwise, along_axis),
    (batch_norm, pointwise),
    (linear, conv),
    (linear, shared_linear, matmul),
    (conv, conv_transpose, pool, image_op),
    (conv, pool),
    (concat,),
    (concat, cut),
    (concat, cut, view),
    (fold, broadcast, pair),
    (pair,),
)
