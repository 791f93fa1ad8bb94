"""Convolution, pooling, normalisation and embedding: sizes, edge cases and the texts of their errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.ir.core import Block
from concatc.loops.expr import Axis, Const, Expr, Load, all_of, walk
from concatc.loops.windows import Slide, window_count
from concatc.op import Builder, Op, ShapeError, f32, i32, load_all_ops
from tests.calls import Call

OPS = load_all_ops()
CAFFE = Path(__file__).parent / "data" / "caffe"


# -- sizes ---------------------------------------------------------------------------------------------------------


def test_pooling_sizes_are_those_of_caffe_where_every_window_holds_an_element() -> None:
    table = json.loads((CAFFE / "pooling_sizes.json").read_text())
    compared = 0
    for size, kernel, stride, pad, up, down in table["rows"]:
        assert window_count(size, kernel, stride, pad) == down
        if (up - 1) * stride >= size + pad:  # Caffe keeps this window, which is empty
            assert window_count(size, kernel, stride, pad, ceil=True) == up - 1
            continue
        assert window_count(size, kernel, stride, pad, ceil=True) == up
        compared += 1
    assert compared > 800


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("ceil", [False, True])
def test_windows_and_their_inverse_agree(kernel: int, stride: int, ceil: bool) -> None:
    """Both directions list the same pairs of window and input; no guard is missing, and reads have none in vain."""
    for size in range(1, 9):
        for pad in range(kernel):
            for dilation in (1, 2):
                count = window_count(size, kernel, stride, pad, dilation, ceil)
                if count < 1:
                    continue
                slide = Slide(size, kernel, stride, pad, dilation, count)
                pairs = {
                    (o, o * stride + k * dilation - pad, k)
                    for o in range(count)
                    for k in range(kernel)
                    if 0 <= o * stride + k * dilation - pad < size
                }
                assert {(o, i, k) for (o, k), i in met(slide.source, count, kernel, size, idle=False)} == pairs
                assert {(o, i, k) for (i, k), o in met(slide.window, size, kernel, count)} == pairs
                if dilation == 1:
                    covers = sorted((o, i) for (i, _), o in met(covering(slide), size, slide.overlap, count))
                    assert covers == sorted((o, i) for o, i, _ in pairs)


def covering(slide: Slide) -> Callable[[Axis, Axis], tuple[Expr, Expr | None]]:
    """The windows that cover an input: those that may, and reach it."""

    def relation(i: Axis, r: Axis) -> tuple[Expr, Expr | None]:
        o, guard = slide.covering(i, r)
        return o, all_of(guard, slide.reaches(o, i))

    return relation


def met(relation: Any, first: int, second: int, size: int, idle: bool = True) -> list[tuple[tuple[int, int], int]]:
    """The points of a relation of :class:`Slide` whose guard holds, each index checked to be in range."""
    a, b = Axis("a", first), Axis("b", second)
    index, guard = relation(a, b)
    found, refused = [], 0
    for x in range(first):
        for y in range(second):
            at = {a: x, b: y}
            if guard is None or number(guard, at):
                assert 0 <= number(index, at) < size
                found.append(((x, y), number(index, at)))
            else:
                refused += 1
    assert guard is None or refused or idle, "a guard that always holds"
    return found


def number(expr: Any, at: dict[Axis, int]) -> int:
    """An index expression at a point, in plain integers."""
    if isinstance(expr, Axis):
        return at[expr]
    if isinstance(expr, Const):
        return int(expr.value)
    left, right = (number(e, at) for e in expr.args)
    assert expr.op not in ("floordiv", "rem") or left >= 0, "these take no negative numbers"
    return {
        "add": left + right,
        "sub": left - right,
        "mul": left * right,
        "floordiv": left // max(right, 1),
        "rem": left % max(right, 1),
        "lt": left < right,
        "ge": left >= right,
        "eq": left == right,
        "and": left and right,
    }[expr.op]


def test_plain_convolution_has_no_guards() -> None:
    for padded in (False, True):
        pad = (1, 1) if padded else (0, 0)
        xs = [f32(2, 3, 6, 6), f32(4, 3, 3, 3)]
        (piece,) = pieces("conv", xs, pad=pad)
        guards = [e for e in walk(piece.value) if isinstance(e, Load) and e.where is not None]
        assert bool(guards) == padded
        assert [a.kind for a in piece.axes].count("reduce") == 3


def test_pooling_without_overlap_is_pointwise_backwards() -> None:
    for name, xs in (("avg_pool_grad", [f32(1, 2, 3, 3)]), ("max_pool_grad", [i32(1, 2, 3, 3), f32(1, 2, 3, 3)])):
        (piece,) = pieces(name, xs, kernel=(2, 2), stride=(2, 2), image=(6, 6))
        assert (piece.combine, piece.reduce) == ("store", ())


def pieces(name: str, xs: list[Any], **attributes: Any) -> list[Any]:
    from concatc.loops.expr import Ref

    op: Op = OPS[name](**attributes)
    refs = [Ref("operand", k, x) for k, x in enumerate(xs)]
    return list(op.lower(refs, [Ref("result", k, y) for k, y in enumerate(op.infer(xs))]))


# -- values --------------------------------------------------------------------------------------------------------


def test_max_pool_of_minus_infinity_and_padding() -> None:
    x = np.full((1, 1, 2, 2), -np.inf)
    call = Call("max_pool", x, kernel=2, pad=1)
    assert np.array_equal(call.result, np.full((1, 1, 2, 2), -np.inf))


def test_max_pool_treats_ties_nan_and_infinity_alike_on_every_target() -> None:
    source = """net pool(n = 1) {
        input x: f32[n, 1, 4, 6]
        param w: f32[1, 1, 4, 6] = constant(0)
        y = max_pool(x + w, 3, stride=1, pad=1)
        loss sum(y)
        output y
    }"""
    x = np.random.default_rng(0).normal(size=(1, 1, 4, 6)).round().astype(np.float32)
    x[0, 0, 1, 2] = x[0, 0, 2, 4] = np.nan
    x[0, 0, :2, :2] = -np.inf
    results = []
    for target in ("reference", "cpu"):
        net = concatc.compile_source(source, target=target)
        net.init()
        results.append((net.forward(x=x)["y"], net.backward()["w"].copy()))
    (y, dw), (y_cpu, dw_cpu) = results
    np.testing.assert_array_equal(y_cpu, y)
    np.testing.assert_array_equal(dw_cpu, dw)
    assert dw[0, 0, 1, 2] == 9, "a NaN wins every window that it is in, and of two the first"
    assert dw.sum() == 23, "the window of nothing but minus infinity lies in the corner: its gradient goes to padding"


def test_avg_pool_counts_padding_but_not_what_lies_beyond_it() -> None:
    x = np.ones((1, 1, 2, 2))
    # The second window starts at 1 and would end at 4; the padded image ends at 3.
    padded = Call("avg_pool", x, kernel=3, stride=2, pad=1, ceil=True).result[0, 0]
    assert padded.tolist() == [[4 / 9, 2 / 6], [2 / 6, 1 / 4]]
    assert (Call("avg_pool", x, kernel=3, stride=2, pad=1, ceil=True, count_include_pad=False).result == 1).all()


def test_embedding_gradient_adds_rows_that_are_read_twice() -> None:
    call = Call("embedding", np.array([2, 0, 2], np.int32), vocab=4, dim=2)
    grad = call.gradients(np.arange(6.0).reshape(3, 2))["weight"]
    assert grad.tolist() == [[2, 3], [0, 0], [4, 6], [0, 0]]
    assert OPS["embedding"]().index_bounds([i32(3), f32(4, 2)]) == {0: (4, None)}


def test_batch_norm_reads_states_outside_training() -> None:
    call = Call("batch_norm", np.ones((2, 3)), train=False, without=("weight", "bias"), eps=1e-12)
    assert np.allclose(call.result, 1.0)
    assert not call.updates
    assert not any(operation.name == "cnet.channel_stats" for operation in call.block.ops)


# -- errors --------------------------------------------------------------------------------------------------------


def fails(name: str, *xs: Any, **attributes: Any) -> str:
    """The message (and help) of a call in the language."""
    arrays = [np.zeros(x.shape, np.int32 if x.dtype == "i32" else np.float64) for x in xs]
    with pytest.raises(ShapeError) as caught:
        Call(name, *arrays, **attributes)
    return caught.value.message + (f"; help: {caught.value.help}" if caught.value.help else "")


IMAGE = f32(2, 3, 5, 5)


def test_errors_of_conv() -> None:
    assert fails("conv", IMAGE, channels=4, kernel=7) == (
        "conv: kernel 7x7 does not fit {0}, 5x5 with pad 0; help: pad=1 or a smaller kernel"
    )
    assert fails("conv", IMAGE, channels=4, kernel=[1, 3], dilation=4, pad=[1, 0]) == (
        "conv: kernel 1x3, dilated to 1x9, does not fit {0}, 5x5 with pad [1, 0]; help: pad=[1, 2] or a smaller kernel"
    )
    assert fails("conv", f32(2, 3, 5), channels=4, kernel=3) == (
        "conv reads [n, channels, height, width]; {0} is tensor<2x3x5xf64>, of rank 3; help: reshape it to four axes"
    )
    assert fails("conv", IMAGE, channels=4, kernel=3, groups=2) == (
        "conv: the channels of {0}, 3, cannot be cut into 2 groups"
    )
    assert fails("conv", IMAGE, channels=4, kernel=3, groups=3) == "conv: `channels`, 4, cannot be cut into 3 groups"
    assert fails("conv", IMAGE, channels=0, kernel=3) == "conv: `channels` must be at least 1, not 0"
    assert fails("conv", IMAGE, channels=4, kernel=3, stride=0) == "conv: `stride` must be at least 1, not 0"
    assert fails("conv", IMAGE, channels=4, kernel=3, groups=0) == "conv: `groups` must be at least 1, not 0"
    assert fails("conv", IMAGE, channels=4, kernel=3, pad=-1) == "conv: `pad` must be at least 0, not -1"
    assert fails("conv", IMAGE, channels=4, kernel=[3, 3, 3]) == (
        "conv: `kernel` must be an integer or a list of 2, not [3, 3, 3]"
    )
    tied = Block([f32(1, 3, 5, 5), f32(4, 2, 3, 3)])
    with pytest.raises(ShapeError, match=r"\{0\} has 3 channels, but its weight tensor<4x2x3x3xf32> reads 2"):
        Builder(tied).conv(*tied.args)


def test_errors_of_conv_transpose() -> None:
    assert fails("conv_transpose", f32(1, 3, 1, 1), channels=2, kernel=2, pad=1) == (
        "conv_transpose of {0}, 1x1, would have the size 0x0; help: a smaller pad, or a larger kernel"
    )
    assert fails("conv_transpose", IMAGE, channels=2, kernel=2, stride=2, output_pad=2) == (
        "conv_transpose: `output_pad` must be at least 0 and less than the stride; it is [2, 2] with stride [2, 2]"
    )


@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_errors_of_pools(name: str) -> None:
    assert fails(name, IMAGE, kernel=6) == (
        f"{name}: kernel 6x6 does not fit {{0}}, 5x5 with pad 0x0; help: a smaller kernel or more padding"
    )
    assert fails(name, IMAGE, kernel=2, pad=2) == (
        f"{name}: `pad` must be at least 0 and less than the kernel; it is 2 with kernel 2"
    )
    assert fails(name, IMAGE, kernel=0) == f"{name}: `kernel` must be at least 1, not 0"
    assert fails(name, f32(2, 3), kernel=2) == (
        f"{name} reads [n, channels, height, width]; {{0}} is tensor<2x3xf64>, of rank 2"
    )
    assert fails(name, i32(1, 1, 2, 2), kernel=2) == f"{name} works on floats; {{0}} is tensor<1x1x2x2xi32>"


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "elu", "gelu", "leaky_relu"])
def test_activations_take_floats(name: str) -> None:
    assert fails(name, i32(2, 3)) == f"{name} works on floats; {{0}} is tensor<2x3xi32>"


def test_errors_of_the_other_layers() -> None:
    assert fails("upsample", IMAGE, factor=0) == "upsample: `factor` must be at least 1, not 0"
    assert fails("batch_norm", f32(1, 3)) == (
        "batch_norm in training needs at least 2 elements a channel; {0}, tensor<1x3xf64>, has 1; help: a larger batch"
    )
    assert fails("batch_norm", f32(3)) == "batch_norm reads [n, channels, ..], 2 to 5 axes; {0} is tensor<3xf64>"
    assert fails("batch_norm", IMAGE, eps=0) == "batch_norm: `eps` must be greater than 0, not 0.0"
    assert fails("batch_norm", IMAGE, momentum=2) == "batch_norm: `momentum` must lie between 0 and 1, not 2.0"
    assert fails("layer_norm", f32(2, 3), axes=3) == (
        "layer_norm: `axes` must lie between 1 and 2, the axes of {0}; it is 3"
    )
    assert fails("lrn", IMAGE, window=4) == (
        "lrn: `window` must be odd and at least 1, not 4; help: it is centred on a channel"
    )
    assert fails("lrn", IMAGE, k=0) == "lrn needs k > 0 and alpha >= 0; they are 0.0 and 0.0001"
    assert fails("embedding", f32(3), vocab=4, dim=2) == (
        "embedding needs integer indices; {0} is tensor<3xf64>; help: declare it as i32"
    )
    assert fails("embedding", i32(3), vocab=0, dim=2) == "embedding: `vocab` must be at least 1, not 0"
    assert fails("embedding", i32(3), vocab=2, dim=2, without=("weight",)) == (
        "embedding is its weight; it cannot go without"
    )
    assert fails("causal_mask", f32(2, 3, 4)) == (
        "causal_mask needs last two axes of one size, positions by positions; {0} is tensor<2x3x4xf64>"
    )
    assert fails("global_avg_pool", f32(2, 3)) == (
        "global_avg_pool reads [n, channels, ..]; {0} is tensor<2x3xf64>, without further axes"
    )
    assert fails("global_max_pool", f32(2, 3)) == (
        "global_max_pool reads [n, channels, height, width]; {0} is tensor<2x3xf64>"
    )


def test_errors_of_matmul() -> None:
    assert fails("matmul", f32(2, 3), f32(2, 4)) == (
        "matmul: {0} has 3 columns, but {1} has 2 rows (tensor<2x3xf64> and tensor<2x4xf64>); "
        "help: transpose_a=true would fit"
    )
    assert fails("matmul", f32(2, 3), f32(4, 3)) == (
        "matmul: {0} has 3 columns, but {1} has 4 rows (tensor<2x3xf64> and tensor<4x3xf64>); "
        "help: transpose_b=true would fit"
    )
    assert fails("matmul", f32(5, 2, 3), f32(3, 4)) == (
        "matmul: the leading axes must agree; {0} is tensor<5x2x3xf64>, {1} is tensor<3x4xf64>; "
        "help: linear applies one matrix to all leading axes"
    )
    assert fails("matmul", f32(3), f32(3, 4)) == ("matmul needs matrices: {0} is tensor<3xf64>, {1} is tensor<3x4xf64>")
