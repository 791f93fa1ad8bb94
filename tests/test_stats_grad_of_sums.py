"""stats-grad-of-sums: gradients of statistics from sums that are there; text, values, gradients, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from concatc.compiler import Options, compile_net
from concatc.frontend.cnet import load
from concatc.ir.clone import clone_module
from concatc.ir.core import Module
from concatc.op import is_op
from concatc.passes.derive_backward import DeriveBackward
from concatc.passes.insert_splits import InsertSplits
from concatc.passes.stats_grad_of_sums import StatsGradOfSums
from concatc.passes.stats_over_concat import StatsOverConcat
from concatc.passes.verify import verify
from tests.ir_text import dedent, plain, short_text
from tests.short_ir import function
from tests.small_nets import check_gradients, data_for, joint, run64
from tests.test_fuse import dense_net
from tests.values import random_arguments, run_function

ARGS = "%x: tensor<2x3x4xf32>, %dz: tensor<2x3x4xf32>, %m: tensor<3xf32>, %v: tensor<3xf32>, %w: tensor<3xf32>"
HEAD = """
    %h = normalize(%x, %m, %v) {eps=0.001}
    %db = sum(%dz) {axes=array<i64: 0, 2>}
    %u = mul(%dz, %h)
    %dw = sum(%u) {axes=array<i64: 0, 2>}
    %dh = scale(%dz, %w)
    %dx = normalize_grad(%dh, %v) {eps=0.001}
    """
TAIL = """
    %dm, %dv = normalize_stats_grad(%dh, %x, %m, %v) {eps=0.001}
    return(%db, %dw, %dx, %dm, %dv)
    """


def changed(body: str, args: str = ARGS) -> Module:
    """The function after the pass, which does not change its values."""
    module = function(args, dedent(body))
    after = clone_module(module)
    StatsGradOfSums().run(after)
    verify(after)
    data = [np.asarray(x, np.float64) for x in random_arguments(module.main)]
    data = [np.abs(x) if arg.name == "v" else x for x, arg in zip(data, module.main.args, strict=True)]
    found, expected = (run_function(m.main, data, float64=True) for m in (after, module))
    for new, old in zip(found, expected, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)
    return after


def test_text() -> None:
    assert short_text(changed(dedent(HEAD) + "\n" + dedent(TAIL)).main.body) == dedent("""
        %h = normalize(%x, %m, %v) {eps=0.001}
        %db = sum(%dz) {axes=[0, 2]}
        %u = mul(%dz, %h)
        %dw = sum(%u) {axes=[0, 2]}
        %dh = scale(%dz, %w) {axis=1}
        %dx = normalize_grad(%dh, %v) {eps=0.001}
        %dm, %dv = normalize_stats_grad_of_sums(%db, %dw, %w, %v) {eps=0.001}
        return(%db, %dw, %dx, %dm, %dv)
        """)


def test_what_was_scaled_for_it_alone_goes_and_a_missing_sum_is_made() -> None:
    body = dedent(HEAD).splitlines()
    text = "\n".join(line for line in body if not line.startswith(("%db", "%dx")))
    after = changed(text + "\n%dm, %dv = normalize_stats_grad(%dh, %x, %m, %v) {eps=0.001}\nreturn(%dw, %dm, %dv)")
    assert short_text(after.main.body) == dedent("""
        %h = normalize(%x, %m, %v) {eps=0.001}
        %u = mul(%dz, %h)
        %dw = sum(%u) {axes=[0, 2]}
        %dm.sum = sum(%dz) {axes=[0, 2]}
        %dm, %dv = normalize_stats_grad_of_sums(%dm.sum, %dw, %w, %v) {eps=0.001}
        return(%dw, %dm, %dv)
        """)


# What must stay as it is: a line of HEAD or TAIL, and what stands there instead.
UNTOUCHED = {
    "another epsilon": ("%h = normalize(%x, %m, %v) {eps=0.001}", "%h = normalize(%x, %m, %v) {eps=0.01}"),
    "another mean": ("%h = normalize(%x, %m, %v) {eps=0.001}", "%h = normalize(%x, %v, %v) {eps=0.001}"),
    "another batch": ("%h = normalize(%x, %m, %v) {eps=0.001}", "%h = normalize(%dz, %m, %v) {eps=0.001}"),
    "no product": ("%u = mul(%dz, %h)", "%u = add(%dz, %h)"),
    "no scale": ("%dh = scale(%dz, %w)", "%dh = bias(%dz, %w) {axis=1}"),
    "sums over another axis": (
        "%dw = sum(%u) {axes=array<i64: 0, 2>}",
        "%dw = sum(%u) {axes=array<i64: 0, 1>}",
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_untouched(name: str) -> None:
    old, new = UNTOUCHED[name]
    text = dedent(HEAD) + "\n" + dedent(TAIL)
    assert text.count(old) == 1
    after = changed(text.replace(old, new))
    assert any(is_op(op, "normalize_stats_grad") for op in after.main.ops)


def test_scale_along_another_axis() -> None:
    args = ARGS.replace("2x3x4", "2x3x3")
    after = changed((dedent(HEAD) + "\n" + dedent(TAIL)).replace("scale(%dz, %w)", "scale(%dz, %w) {axis=2}"), args)
    assert any(is_op(op, "normalize_stats_grad") for op in after.main.ops)


def stats_grads(module: Module) -> tuple[int, int]:
    """How many read a batch, and how many read sums."""
    ops = module.main.ops
    counts = [sum(is_op(op, f"normalize_stats_grad{end}") for op in ops) for end in ("", "_of_sums")]
    return counts[0], counts[1]


def test_a_dense_net_against_finite_differences() -> None:
    module = dense_net().module()
    StatsOverConcat().run(module)
    joint(module)
    before = clone_module(module)
    assert stats_grads(module) == (6, 0)
    StatsGradOfSums().run(module)
    verify(module, "joint")
    assert stats_grads(module) == (0, 6)
    check_gradients(module, samples=3)
    data = data_for(before.main)
    expected, found = run64(before.main, data), run64(module.main, data)
    for key, value in expected.items():
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-11 * scale)
    again = plain(module)
    StatsGradOfSums().run(module)
    assert plain(module) == again


NET = """net t(n = 3) {{
    input x: f32[n, 2, 4, 4]
    input label: i32[n]
    h = x |> conv(4, kernel=3, pad=1) |> batch_norm({attributes}) @norm |> {between}relu
    loss softmax_loss(h |> global_avg_pool |> flatten |> linear(3), label)
}}
"""


@pytest.mark.parametrize(
    ("attributes", "between", "freeze", "reads_sums"),
    [
        ("", "", (), True),
        ("bias=false", "", (), True),
        ("weight=false", "", (), False),
        ("weight=false, bias=false", "", (), False),
        ("", "", ("norm.weight",), False),
        ("", "", ("norm.bias",), True),
        # The gradient of normalize flows through two scales: the inner one's sums are those of its own cotangent.
        ("bias=false", "scale(bias=true) |> ", (), True),
    ],
)
def test_nets(attributes: str, between: str, freeze: tuple[str, ...], reads_sums: bool) -> None:
    """Finite differences in float64; the pass is in the pipeline of training."""
    source = NET.format(attributes=attributes, between=between)
    module, _ = load(source, "t.cnet")
    InsertSplits().run(module)
    DeriveBackward(freeze=freeze, input_grads=True).run(module)
    StatsGradOfSums().run(module)
    verify(module, "joint")
    assert stats_grads(module) == ((0, 1) if reads_sums else (1, 0))
    check_gradients(module)
    optimized = compile_net(source, "t.cnet", Options(freeze=freeze)).phase("train").level("optimized")
    assert stats_grads(optimized) == stats_grads(module)


def test_one_kernel_makes_both_sums_and_what_follows() -> None:
    kernels = compile_net(NET.format(attributes="", between=""), "t.cnet", Options()).phase("train").kernels
    names = [
        [op.name.removeprefix("cnet.") for op in kernel.regions[0].block.ops]
        for kernel in kernels.main.ops
        if kernel.name == "cnet.kernel"
    ]
    (holding,) = [ops for ops in names if "normalize_stats_grad_of_sums" in ops]
    assert [name for name in holding if name in ("sum", "mul")] == ["sum", "mul", "sum"]
    assert holding.index("normalize_stats_grad_of_sums") > holding.index("mul")
