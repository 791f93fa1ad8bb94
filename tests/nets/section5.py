"""The nets that break naive planners, each small, built as the front end would build them.

``NETS[name]()`` makes the graph (level 00); DESIGN: "nets that break naive planners".
"""

from __future__ import annotations

from collections.abc import Callable

from concatc.ir.core import Module, Value
from tests.small_nets import NetBuilder

NETS: dict[str, Callable[[], Module]] = {}


def net(function: Callable[[NetBuilder], None]) -> Callable[[NetBuilder], None]:
    """Register a net under the name of the function that builds it."""

    def make() -> Module:
        builder = NetBuilder(function.__name__)
        function(builder)
        return builder.module()

    NETS[function.__name__] = make
    return function


def linear(n: NetBuilder, name: str, x: Value, size: int) -> Value:
    return n.named(name, n.call("linear", x, at=name, size=size))


def relu(n: NetBuilder, name: str, x: Value) -> Value:
    return n.named(name, n.b.relu(x))


def concat(n: NetBuilder, name: str, *xs: Value, axis: int = 1) -> Value:
    return n.named(name, n.b.concat(*xs, axis=axis))


def square_loss(n: NetBuilder, x: Value) -> None:
    """The sum of all squares: a loss whose gradient depends on every element."""
    n.loss(n.call("sum", n.b.square(x)))


def label(n: NetBuilder, rows: int) -> Value:
    return n.input("label", rows, dtype="i32")


@net
def two_batches(n: NetBuilder) -> None:
    """The thread's net: branches of batch 3 and 2 joined on axis 0."""
    ha = relu(n, "ha", linear(n, "la", n.input("a", 3, 4), 6))
    hb = relu(n, "hb", linear(n, "lb", n.input("b", 2, 4), 6))
    h = concat(n, "h", ha, hb, axis=0)
    n.softmax_loss(linear(n, "logits", h, 3), label(n, 5))


@net
def one_blob_in_two_concats(n: NetBuilder) -> None:
    a = relu(n, "a", linear(n, "la", n.input("x", 2, 3), 4))
    b = relu(n, "b", linear(n, "lb", n.input("y", 2, 3), 5))
    c = relu(n, "c", linear(n, "lc", n.input("z", 2, 3), 3))
    square_loss(n, linear(n, "u", concat(n, "ab", a, b), 2))
    square_loss(n, linear(n, "v", concat(n, "ca", c, a), 2))


@net
def concat_with_itself(n: NetBuilder) -> None:
    """``concat(a, b, a)`` and its gradient."""
    a = relu(n, "a", linear(n, "la", n.input("x", 2, 3), 4))
    b = relu(n, "b", linear(n, "lb", n.input("y", 2, 3), 1))
    square_loss(n, linear(n, "z", concat(n, "aba", a, b, a), 3))


@net
def tree_of_concats(n: NetBuilder) -> None:
    """``concat(h, a)`` and ``concat(h, b)`` of one trunk."""
    h = relu(n, "h", linear(n, "lh", n.input("x", 2, 3), 4))
    a, b = linear(n, "a", h, 2), linear(n, "b", h, 3)
    square_loss(n, concat(n, "ha", h, a))
    square_loss(n, concat(n, "hb", h, b))


@net
def rows_and_columns(n: NetBuilder) -> None:
    """``a`` in an axis-0 and in an axis-1 concat."""
    a = relu(n, "a", linear(n, "la", n.input("x", 2, 3), 4))
    b = relu(n, "b", linear(n, "lb", n.input("y", 5, 3), 4))
    c = relu(n, "c", linear(n, "lc", n.input("z", 2, 3), 3))
    square_loss(n, linear(n, "u", concat(n, "rows", a, b, axis=0), 2))
    square_loss(n, linear(n, "v", concat(n, "columns", a, c, axis=1), 2))


def _axis(n: NetBuilder, axis: int) -> None:
    shapes = [[2, 2, 3, 2], [2, 2, 3, 2]]
    shapes[1][axis] = 3
    xs = [n.input(name, *shape) for name, shape in zip("xy", shapes, strict=True)]
    a, b = (relu(n, f"h{k}", n.b.mul(x, n.param(f"w{k}", *x.shape))) for k, x in enumerate(xs))
    c = concat(n, "c", a, b, axis=axis)
    square_loss(n, n.b.mul(c, n.param("w", *c.shape)))


@net
def join_axis_0(n: NetBuilder) -> None:
    _axis(n, 0)


@net
def join_axis_1(n: NetBuilder) -> None:
    _axis(n, 1)


@net
def join_axis_2(n: NetBuilder) -> None:
    _axis(n, 2)


@net
def join_last_axis(n: NetBuilder) -> None:
    _axis(n, 3)


@net
def join_input_parameter_and_constant(n: NetBuilder) -> None:
    x, w = n.input("x", 2, 3), n.param("w", 2, 4)
    h = relu(n, "h", linear(n, "lh", x, 2))
    ones = n.named("ones", n.b.constant(shape=(2, 1), value=1.0, dtype="f32"))
    square_loss(n, linear(n, "z", concat(n, "c", x, w, h, ones), 3))


@net
def join_is_output(n: NetBuilder) -> None:
    a = relu(n, "a", linear(n, "la", n.input("x", 2, 3), 4))
    b = relu(n, "b", linear(n, "lb", n.input("y", 2, 3), 2))
    c = concat(n, "c", a, b)
    n.output("c", c)
    square_loss(n, linear(n, "z", c, 2))


@net
def output_is_read_on(n: NetBuilder) -> None:
    """A returned value that the net goes on to use, an input that is returned, one value returned twice."""
    x = n.input("x", 2, 3)
    a = relu(n, "a", linear(n, "la", x, 3))
    n.output("a", a)
    n.output("again", a)
    n.output("x", x)
    square_loss(n, linear(n, "z", n.b.add(a, x), 2))


@net
def empty_and_odd(n: NetBuilder) -> None:
    """An empty part between parts of odd size."""
    x = n.input("x", 3, 5)
    a, b = linear(n, "a", x, 7), linear(n, "b", x, 1)
    empty = n.input("nothing", 3, 0)
    square_loss(n, concat(n, "c", a, empty, b))


@net
def read_before_complete(n: NetBuilder) -> None:
    """``a`` is read by ``b``'s layer before ``concat(a, b)`` is complete."""
    a = relu(n, "a", linear(n, "la", n.input("x", 2, 3), 4))
    b = relu(n, "b", linear(n, "lb", a, 5))
    square_loss(n, linear(n, "z", concat(n, "c", a, b), 2))


@net
def input_feeds_two(n: NetBuilder) -> None:
    """One input is a concat input, a layer's input and added to the result."""
    x = n.input("x", 2, 4)
    h = linear(n, "h", x, 4)
    c = concat(n, "c", x, h)
    square_loss(n, n.b.add(linear(n, "z", c, 4), x))


@net
def shifted_update(n: NetBuilder) -> None:
    """``x[1:] + x[:-1]``: the windows of one blob overlap, shifted by one row."""
    h = linear(n, "h", n.input("x", 5, 3), 3)
    head, _ = n.b.slice(h, axis=0, sizes=(4, 1), names=["head", "last"])
    _, tail = n.b.slice(h, axis=0, sizes=(1, 4), names=["first", "tail"])
    square_loss(n, n.b.add(head, tail))


@net
def shared_cotangent(n: NetBuilder) -> None:
    """``s = a + b; z = linear(s); u = concat(a, z); v = concat(b, z)`` with losses on u and v."""
    a, b = linear(n, "a", n.input("x", 2, 3), 4), linear(n, "b", n.input("y", 2, 3), 4)
    s = n.named("s", n.b.add(a, b))
    z = linear(n, "z", s, 4)
    square_loss(n, concat(n, "u", a, z))
    square_loss(n, concat(n, "v", b, z))


@net
def loss_on_part_last(n: NetBuilder) -> None:
    """``c = concat(a, b)``, loss f(c), then loss g(a): g's backward comes first."""
    a, b = linear(n, "a", n.input("x", 2, 3), 4), linear(n, "b", n.input("y", 2, 3), 2)
    c = concat(n, "c", a, b)
    square_loss(n, linear(n, "f", c, 3))
    square_loss(n, n.b.exp(a))


@net
def unused_part(n: NetBuilder) -> None:
    """``p, q = slice(x)`` with q unused."""
    x = linear(n, "h", n.input("x", 3, 4), 6)
    p, _ = n.b.slice(x, axis=1, sizes=(4, 2), names=["p", "q"])
    square_loss(n, p)


@net
def two_masks(n: NetBuilder) -> None:
    """``concat(dropout(x), dropout(x))``: each call has a mask of its own."""
    x = linear(n, "h", n.input("x", 3, 4), 4)
    a, b = (n.named(name, n.call("dropout", x, p=0.5)) for name in ("a", "b"))
    square_loss(n, concat(n, "c", a, b))


@net
def shared_tower(n: NetBuilder) -> None:
    """A tower with batch norm called twice, on batches of its own."""
    w = n.param("w", 4, 3)
    towers = []
    for k in range(2):
        h = n.named(f"h{k}", n.b.linear(n.input(f"x{k}", 4, 3), w))
        towers.append(relu(n, f"t{k}", n.call("batch_norm", h, at=f"bn{k}")))
    square_loss(n, linear(n, "z", concat(n, "c", *towers, axis=0), 2))


@net
def halo(n: NetBuilder) -> None:
    """bn(beta != 0) -> relu -> conv(pad=1): the prologue must not touch the halo."""
    x = n.input("x", 2, 3, 4, 4)
    h = relu(n, "h", n.call("batch_norm", x, at="bn"))
    y = n.named("y", n.b.conv(h, n.param("k", 2, 3, 3, 3), pad=(1, 1)))
    square_loss(n, y)


def _dense_layer(n: NetBuilder, k: int, x: Value, growth: int) -> Value:
    h = relu(n, f"r{k}", n.call("batch_norm", x, at=f"bn{k}"))
    y = n.named(f"y{k}", n.b.conv(h, n.param(f"k{k}", growth, x.shape[1], 3, 3), pad=(1, 1)))
    return concat(n, f"h{k + 1}", x, y)


@net
def dense_block(n: NetBuilder) -> None:
    """Three layers, each joined to all before it."""
    h = n.named("h0", n.b.conv(n.input("x", 2, 2, 4, 4), n.param("stem", 3, 2, 3, 3), pad=(1, 1)))
    for k in range(3):
        h = _dense_layer(n, k, h, 2)
    square_loss(n, h)


@net
def views_of_views(n: NetBuilder) -> None:
    """Reshape, transpose and flatten of parts of a concat."""
    a, b = linear(n, "a", n.input("x", 2, 3), 6), linear(n, "b", n.input("y", 2, 3), 2)
    c = concat(n, "c", a, b)
    p, q = n.b.slice(c, axis=1, sizes=(4, 4), names=["p", "q"])
    r = n.named("r", n.b.reshape(p, shape=(2, 2, 2)))
    t = n.named("t", n.b.transpose(q, perm=(1, 0)))
    f = n.named("f", n.call("flatten", r))
    square_loss(n, linear(n, "z", f, 2))
    square_loss(n, linear(n, "w", t, 3))


@net
def reshape_then_join(n: NetBuilder) -> None:
    """A reshaped producer in a concat, and a concat that is reshaped."""
    a = n.named("a", n.b.reshape(linear(n, "la", n.input("x", 2, 3), 6), shape=(2, 2, 3)))
    b = n.named("b", n.b.reshape(linear(n, "lb", n.input("y", 2, 3), 3), shape=(2, 1, 3)))
    c = n.named("c", n.b.reshape(concat(n, "ab", a, b), shape=(6, 3)))
    square_loss(n, linear(n, "z", c, 2))


@net
def residual_chain(n: NetBuilder) -> None:
    """``h = h + relu(linear(h))`` four times."""
    h = linear(n, "h", n.input("x", 3, 4), 4)
    for k in range(4):
        h = n.named(f"s{k}", n.b.add(h, relu(n, f"r{k}", linear(n, f"l{k}", h, 4))))
    square_loss(n, h)


@net
def shared_weights(n: NetBuilder) -> None:
    """One layer called three times: three contributions to the gradients of its weights."""
    w = n.param("w", 4, 4)
    h = n.input("x", 3, 4)
    for k in range(3):
        h = relu(n, f"h{k}", n.b.linear(h, w))
    square_loss(n, h)


@net
def u_net(n: NetBuilder) -> None:
    """Skip connections over a pooling: the skip is joined long after it was made."""
    x = n.input("x", 2, 2, 4, 4)
    skip = relu(n, "skip", n.b.conv(x, n.param("k0", 3, 2, 3, 3), pad=(1, 1)))
    low = relu(n, "low", n.b.conv(n.call("avg_pool", skip, kernel=(2, 2)), n.param("k1", 4, 3, 3, 3), pad=(1, 1)))
    up = n.named("up", n.call("upsample", low, factor=(2, 2)))
    y = n.b.conv(concat(n, "c", skip, up), n.param("k2", 2, 7, 1, 1))
    square_loss(n, y)


@net
def inference_only(n: NetBuilder) -> None:
    """No loss: a forward plan."""
    a = relu(n, "a", linear(n, "la", n.input("x", 2, 3), 4))
    b = relu(n, "b", linear(n, "lb", n.input("y", 2, 3), 2))
    n.output("c", concat(n, "c", a, b))


@net
def kept_blobs(n: NetBuilder) -> None:
    """Kept blobs and their gradients are results: a part of a concat, the concat, a blob with two readers."""
    a = relu(n, "a", linear(n, "la", n.input("x", 2, 3), 4))
    b = relu(n, "b", linear(n, "lb", n.input("y", 2, 3), 2))
    c = concat(n, "c", a, b)
    z = linear(n, "z", n.b.add(c, linear(n, "d", c, 6)), 2)
    for name, value in (("a", a), ("c", c), ("z", z)):
        n.keep(name, value)
    square_loss(n, z)


@net
def kept_part(n: NetBuilder) -> None:
    """The gradient of a kept part is a result, and a part of a sum."""
    x = n.input("x", 3, 4)
    p, q = n.b.slice(linear(n, "h", x, 4), axis=0, sizes=(2, 1), names=["p", "q"])
    n.keep("p", p)
    square_loss(n, n.b.exp(p))
    square_loss(n, linear(n, "z", n.b.concat(p, q, axis=0), 2))


@net
def axes_of_one_element(n: NetBuilder) -> None:
    """A kernel works in place; its result is reshaped, so its strides come from another shape."""
    h = n.named("h", n.b.exp(linear(n, "l", n.input("x", 4, 3), 2)))
    t = n.named("t", n.b.tanh(n.b.reshape(h, shape=(4, 1, 2))))
    square_loss(n, n.b.reshape(t, shape=(2, 4)))
