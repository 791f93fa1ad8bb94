"""average-first: averages in front of 1x1 convolutions; text, values, gradients, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from concatc.frontend.cnet import load
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.op import is_op
from concatc.passes.average_first import AverageFirst
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.verify import verify
from tests.ir_text import dedent
from tests.short_ir import function
from tests.small_nets import data_for, joint, run64
from tests.test_fuse import dense_net
from tests.values import random_arguments, run_function

ARGS = "%x: tensor<2x3x4x6xf32>, %w: tensor<5x3x1x1xf32>, %b: tensor<5xf32>"


def changed(body: str, args: str = ARGS) -> Module:
    """The function after the pass, which does not change its values."""
    module = function(args, dedent(body))
    after = clone_module(module)
    AverageFirst().run(after)
    verify(after)
    data = [np.asarray(x, np.float64) for x in random_arguments(module.main)]
    found, expected = (run_function(m.main, data, float64=True) for m in (after, module))
    for new, old in zip(found, expected, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)
    return after


def order(module: Module) -> list[str]:
    """The ops, in order."""
    return [op.name.removeprefix("cnet.") for op in module.main.ops[:-1]]


def test_text() -> None:
    after = changed("""
        %y = conv(%x, %w)
        %z = bias(%y, %b) {axis=1}
        %p = avg_pool(%z) {kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}
        return(%p)
        """)
    assert order(after) == ["avg_pool", "conv", "bias"]
    assert after.main.ops[0].result.shape == (2, 3, 2, 3)
    assert [op.result.name for op in after.main.ops[:-1]] == ["y.avg_pool", "p.conv", "p"]


@pytest.mark.parametrize(
    "pool",
    [
        "kernel=array<i64: 3, 3>, stride=array<i64: 2, 2>",
        "kernel=array<i64: 2, 2>, stride=array<i64: 3, 1>",
        "kernel=array<i64: 3, 3>, stride=array<i64: 2, 2>, pad=array<i64: 1, 1>",
        "kernel=array<i64: 3, 3>, stride=array<i64: 2, 2>, pad=array<i64: 1, 1>, count_include_pad=false",
        "kernel=array<i64: 3, 4>, stride=array<i64: 3, 4>, ceil=true",
    ],
)
def test_any_average_that_makes_the_image_smaller(pool: str) -> None:
    after = changed(f"%y = conv(%x, %w)\n%p = avg_pool(%y) {{{pool}}}\nreturn(%p)")
    assert order(after) == ["avg_pool", "conv"]


def test_groups() -> None:
    args = "%x: tensor<1x4x4x4xf32>, %w: tensor<6x2x1x1xf32>"
    pool = "{kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}"
    after = changed(f"%y = conv(%x, %w) {{groups=2}}\n%p = avg_pool(%y) {pool}\nreturn(%p)", args)
    assert order(after) == ["avg_pool", "conv"]


@pytest.mark.parametrize(
    ("conv", "pool", "also"),
    [
        ("stride=array<i64: 2, 2>", "kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>", ""),
        ("pad=array<i64: 1, 1>", "kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>", ""),
        ("", "kernel=array<i64: 3, 3>, stride=array<i64: 1, 1>, pad=array<i64: 1, 1>", ""),
        ("", "kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>", ", %y"),
    ],
)
def test_what_stays(conv: str, pool: str, also: str) -> None:
    """Strides, padding that sees no channels, an image that stays as large, and another reader."""
    after = changed(f"%y = conv(%x, %w) {{{conv}}}\n%p = avg_pool(%y) {{{pool}}}\nreturn(%p{also})")
    assert order(after) == ["conv", "avg_pool"]


def test_few_channels_of_many_stay() -> None:
    """The average of twelve channels would be larger than the two that the convolution makes."""
    pool = "{kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}"
    args = "%x: tensor<1x12x4x4xf32>, %w: tensor<2x12x1x1xf32>"
    after = changed(f"%y = conv(%x, %w)\n%p = avg_pool(%y) {pool}\nreturn(%p)", args)
    assert order(after) == ["conv", "avg_pool"]


def test_a_larger_kernel_stays() -> None:
    pool = "{kernel=array<i64: 2, 2>, stride=array<i64: 2, 2>}"
    args = "%x: tensor<1x2x4x4xf32>, %w: tensor<2x2x3x3xf32>"
    after = changed(f"%y = conv(%x, %w) {{pad=array<i64: 1, 1>}}\n%p = avg_pool(%y) {pool}\nreturn(%p)", args)
    assert order(after) == ["conv", "avg_pool"]


def test_a_bias_before_padded_windows_stays() -> None:
    """With padding counted in, the average of a constant is another one at the border."""
    after = changed("""
        %y = conv(%x, %w)
        %z = bias(%y, %b) {axis=1}
        %p = avg_pool(%z) {kernel=array<i64: 3, 3>, stride=array<i64: 2, 2>, pad=array<i64: 1, 1>}
        return(%p)
        """)
    assert order(after) == ["conv", "bias", "avg_pool"]


def test_a_kept_blob_stays() -> None:
    source = """
        net t(n = 2) {
            input x: f32[n, 3, 4, 4]
            y = conv(x, 2, kernel=1, bias=false)
            z = avg_pool(y, 2)
            loss mse_loss(z, z)
        }
        """
    for keep, expected in (((), "avg_pool"), (("y",), "conv")):
        graph, _ = load(dedent(source), "t.cnet", keep=keep)
        AverageFirst().run(graph)
        assert order(graph)[0] == expected


def test_the_gradients_of_a_densenet_stay() -> None:
    """Behind splits too, which hide nothing."""
    plain, split = dense_net().module(), dense_net().module()
    InsertSplits().run(split)
    results = []
    for module in (plain, split):
        before = clone_module(module)
        AverageFirst().run(module)
        (pool,) = [op for op in module.main.ops if is_op(op, "avg_pool")]
        assert pool.operands[0].op is not None and is_op(pool.operands[0].op, "relu")
        results += [run64(joint(made).main, data_for(made.main)) for made in (before, module)]
    for key, value in results[0].items():
        for other in results[1:]:
            np.testing.assert_allclose(other[key], value, rtol=1e-9, atol=1e-10, err_msg=str(key))
