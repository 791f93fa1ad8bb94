"""What a net computes at another batch size is what the net compiled there computes."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import concatc
from concatc.diagnostics import ConcatcError
from tests.example_nets import CASES, NETS, Case
from tests.example_nets import inputs_of as example_inputs
from tests.nets.batch_check import BatchNet
from tests.nets.batch_nets import batch_net
from tests.sized_nets import assert_close, copy_values, inputs_of, results_of

pytestmark = pytest.mark.usefixtures("sizes_cache")

BATCHES = {"googlenet": (3,), "densenet121": (5,), "siamese": (2, 7), "unet": (1, 5)}
# Of a few rows a plan recomputes otherwise than of many, where its parameters are large beside its images.
HOME = {"two_tower": 128}
COMPILED_THERE = ("growing", "residual", "siamese", "two_tower", "two_task")  # at the last size; it takes long


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_example_nets_at_other_sizes_are_the_nets_compiled_there(case: Case) -> None:
    """Losses, outputs, gradients and states in float64, against the reference, or code compiled for that size."""
    here = {**case.dims, "n": HOME.get(case.name, 32)}
    net = concatc.compile(NETS / f"{case.name}.cnet", dims=here, dtype="f64")
    net.init(seed=1)
    start = {name: np.array(value) for name, value in net.states.items()}
    sizes = BATCHES.get(case.name, (1, 8))
    for n in sizes:
        if n == 1 and "batch_norm" in (NETS / f"{case.name}.cnet").read_text():
            n = 4  # one row has no variance
        at = replace(case, dims={**case.dims, "n": n})
        other = net.with_dims(n=n)
        assert other._source not in net._plans.bases, f"n = {n} was compiled"
        arrays = example_inputs(other, at)
        for name, value in start.items():
            net.states[name] = value
        got = results_of(other, arrays)
        made = "cpu" if n == sizes[-1] and case.name in COMPILED_THERE else "reference"
        alone = concatc.compile(NETS / f"{case.name}.cnet", dims=at.dims, target=made, dtype="f64")
        copy_values(alone, net)
        for name, value in start.items():
            alone.states[name] = value
        assert_close(got, results_of(alone, arrays), 1e-11)  # as in `example_nets`


@pytest.mark.parametrize("chunk", range(4))
def test_random_nets_at_other_sizes_have_right_plans(chunk: int) -> None:
    """Graph, slots, plan, values in NumPy and table; at sizes below and above those of the net."""
    scaled = 0
    for seed in range(8 * chunk, 8 * chunk + 8):
        net = BatchNet(source := batch_net(seed))
        if net.scaled is None:
            continue
        scaled += 1
        for sizes in ((1, 1), (2, 7), (40, 33)):
            dims = dict(zip(net.scaled.here, sizes, strict=False))
            try:
                net.check(dims)
            except ConcatcError as error:
                assert "batch_norm in training needs at least 2" in str(error), f"seed {seed} at {dims}\n{source}"
            except AssertionError as error:
                raise AssertionError(f"seed {seed} at {dims}: {error}\n{source}") from error
    assert scaled >= 5


@pytest.mark.filterwarnings("ignore:.*reaches no output and no loss:concatc.ConcatcWarning")  # random, so some does not
@pytest.mark.parametrize("seed", [0, 17, 33, 48, 61])
def test_random_nets_run_natively_at_other_sizes(seed: int) -> None:
    """Nets whose loops are others where they are compiled for one row; in float64, against the reference."""
    source = batch_net(seed)
    net = concatc.compile_source(source, dtype="f64", input_grads=True)
    net.init(seed=2)
    for n in (1, 2, 9, 40):
        dims = dict.fromkeys(net.dims, n)
        if n == 1 and "batch_norm" in source:
            continue
        other = net.with_dims(**dims)
        assert other._source not in net._plans.bases
        alone = concatc.compile_source(source, dims=dims, dtype="f64", input_grads=True, target="reference")
        copy_values(alone, net)
        arrays = inputs_of(other, n)
        for _ in range(2):  # the second step meets what the first left in memory
            assert_close(results_of(other, arrays), results_of(alone, arrays), 1e-11)


# What may differ between two sizes: statements of a net `f(n = 4, m = 3)` with inputs x [n, 6] and y [m, 6].
SIZES = {
    "a concat of two batches": "z = concat(x, y, axis=0)\n output relu(z) as out\n loss mean(square(linear(z, 3)))",
    "one loss over two batches": "h = relu(concat(linear(x, 4), linear(y, 4), axis=0))\n loss mean(square(h))",
    "a batch cut in two": "a, b = slice(concat(x, y, axis=0), axis=0, sizes=[m, n])\n loss mean(tanh(a)) + mean(b * b)",
    "pooling with a last window that sticks out": "z = reshape(x, [n, 1, 2, 3])\n"
    "loss mean(square(max_pool(z, 2, ceil=true))) + sum(avg_pool(z, 2, ceil=true))",
    "rows in windows": "z = reshape(x, [1, 1, n, 6])\n loss mean(square(max_pool(z, 3, stride=1, pad=1)))",
    "the batch as columns": "z = transpose(x, [1, 0])\n"
    "loss mean(square(relu(z) + 0.3 * mean(z, axes=[1], keepdims=true)))",
    "a square of the batch": "s = softmax(matmul(x, x, transpose_b=true))\n loss mean(square(matmul(s, x)))",
    "labels that count rows": "loss softmax_loss(matmul(x, x, transpose_b=true), iota(n))",
    "dropout": "loss mean(square(dropout(linear(x, 5), 0.5)))\n loss mean(square(y)) as other",
    "channel statistics over rows": "z = concat(x, relu(x), axis=1) |> batch_norm\n loss mean(square(linear(z, 3)))",
    "norms": "loss mean(square(l2_normalize(layer_norm(x) * 2.0)))",
    "rows times a number": "z = reshape(x, [n * 3, 2])\n loss mean(square(linear(z, 17)))",
    "columns of a batch, one behind the other": "loss mean(tanh(x |> transpose([1, 0]) |> reshape([6 * n])))",
    "rows in another order": "q = x |> linear(8) |> reshape([n, 2, 4]) |> transpose([0, 2, 1]) |> relu\n"
    "h = matmul(q, q, transpose_b=true) |> reshape([n, 2, 2, 2, 2]) |> transpose([0, 3, 1, 2, 4]) |> reshape([n, 16])\n"
    "loss mean(square(linear(h, 3)))",
    "every other column": "u = concat(linear(x, 4), relu(linear(x, 4)), axis=1) |> reshape([n, 2, 4])\n"
    "loss mean(square(u |> transpose([0, 2, 1]) |> reshape([n, 8]) |> linear(3)))",
    "a sum that is read in parts": "t = x |> linear(6) |> relu\n u = t |> linear(6) |> relu\n"
    "loss mean(square(concat(t + u, u, t, axis=1) |> linear(6)))",
    "a residual over two batches": "a = relu(linear(x, 5))\n h = concat(a, relu(linear(x, 5)), axis=0)\n"
    "loss mean(square(linear(h + relu(linear(h, 5)), 3)))\n loss mean(square(linear(a, 3))) as one",
    "one more than a batch": "param p: f32[1, 6]\n"
    "z = concat(p, x, axis=0)\n output relu(z) as out\n loss mean(square(z))",
}
# Those that are compiled for each size: rows that are cut elsewhere, taps that depend on the number of rows.
COMPILED = {"a batch cut in two", "rows in windows"}


def source_of(name: str) -> str:
    body = SIZES[name]
    inputs = [f"input {b}: f32[{d}, 6]\n" for b, d in (("x", "n"), ("y", "m")) if re.search(rf"\b{b}\b", body)]
    return f"net f(n = 4, m = 3) {{\n{''.join(inputs)}{body}\n}}\n"


@pytest.mark.filterwarnings("ignore:.*dim `m` is not used:concatc.ConcatcWarning")  # nets of one input
@pytest.mark.parametrize("name", SIZES)
def test_what_may_differ_between_sizes(name: str) -> None:
    source = source_of(name)
    net = concatc.compile_source(source, dtype="f64", input_grads=True)
    net.init(seed=2)
    for n, m in ((2, 2), (3, 4), (8, 1), (1, 8), (15, 16), (64, 65), (3, 1)):
        if "batch_norm" in source and n == 1:
            continue
        other = net.with_dims(n=n, m=m)
        alone = concatc.compile_source(source, dims={"n": n, "m": m}, dtype="f64", input_grads=True, target="reference")
        copy_values(alone, net)
        alone.init(seed=2)
        net.init(seed=2)  # dropout counts steps
        arrays = inputs_of(other, n)
        assert_close(results_of(other, arrays), results_of(alone, arrays), 1e-11)


def test_most_of_these_nets_are_not_compiled_again() -> None:
    """So that the tests above test what they are there for."""
    for name in SIZES:
        net = BatchNet(source_of(name))
        assert (net.scaled is None) == (name in COMPILED), f"{name}: {net.why_not}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_arenas_at_other_sizes_are_those_of_compiled_plans(case: Case) -> None:
    """Within 5%, at eight times the size."""
    here = {**case.dims, "n": HOME.get(case.name, 32)}
    net = BatchNet((NETS / f"{case.name}.cnet").read_text(), **here)
    mine, compiled = net.arena_bytes({"n": 8 * here["n"]})
    assert mine <= 1.05 * compiled


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nets_of_a_few_rows_run_at_other_sizes_or_are_compiled(case: Case) -> None:
    """What pays off for a few rows may not for many: recomputation and orders then differ, and values do not."""
    here = {**case.dims, "n": max(case.dims["n"], 2)}
    net = concatc.compile(NETS / f"{case.name}.cnet", dims=here, target="reference", dtype="f64")
    net.init(seed=1)
    start = {name: np.array(value) for name, value in net.states.items()}
    at = replace(case, dims={**case.dims, "n": here["n"] + 3})
    other = net.with_dims(n=here["n"] + 3)
    arrays = example_inputs(other, at)
    got = results_of(other, arrays)
    alone = concatc.compile(NETS / f"{case.name}.cnet", dims=at.dims, target="reference", dtype="f64")
    copy_values(alone, net)
    for name, value in start.items():
        alone.states[name] = value
    assert_close(got, results_of(alone, arrays), 1e-11)
