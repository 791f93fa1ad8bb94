"""Another batch size is a new plan over the same machine code: ``net.with_dims(n=7)``."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import pytest

import concatc
from concatc import scaling
from concatc.compiler import Options, compile_net
from concatc.diagnostics import ConcatcError, UsageError
from concatc.frontend import cnet
from concatc.frontend.cnet import parser
from concatc.targets.cpu import native, numba_compile, target
from concatc.targets.cpu.cache import Cache
from concatc.targets.cpu.workers import Workers
from tests.example_nets import CASES, NETS, Case
from tests.example_nets import inputs_of as example_inputs
from tests.nets.batch_check import BatchNet
from tests.nets.batch_nets import batch_net

Arrays = dict[str, np.ndarray[Any, Any]]
THREAD = Path(__file__).parents[1] / "examples" / "thread.cnet"
SMALL = """
net small(n = 4, classes = 3, rate = 0.5) {
    input x: f32[n, 5]
    input label: i32[n]
    h = x |> linear(8) |> batch_norm |> relu
    logits = linear(h, classes)
    loss softmax_loss(logits, label)
    loss mean(square(h)) weight rate as size
    output logits
}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Object code of this file's nets, compiled once."""
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "batch-sizes"))


def small(**options: Any) -> concatc.CompiledModule:
    net = concatc.compile_source(SMALL, **options)
    net.init(seed=1)
    return net


def inputs_of(net: concatc.CompiledModule, seed: int = 0) -> Arrays:
    """Random inputs; integers below 3, which every label of this file takes."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, spec in net.signature.inputs.items():
        shape, dtype = spec.type.shape, spec.type.dtype
        kind = {"f32": "float32", "f64": "float64", "i32": "int32"}[dtype]
        values = rng.integers(0, 3, shape) if dtype == "i32" else rng.normal(size=shape)
        arrays[name] = np.asarray(values, kind)
    return arrays


def copy_values(to: concatc.CompiledModule, of: concatc.CompiledModule) -> None:
    for name, value in of.params.items():
        to.params[name] = np.array(value)
    for name, value in of.states.items():
        to.states[name] = np.array(value)


def results_of(net: concatc.CompiledModule, arrays: Mapping[str, Any]) -> Arrays:
    """Losses, outputs, gradients and states of one step."""
    out = {f"out {k}": np.array(v) for k, v in net.forward(arrays).items()}
    out |= {f"grad {k}": np.array(v) for k, v in net.backward().items()}
    return out | {f"state {k}": np.array(v) for k, v in net.states.items()}


def assert_close(got: Arrays, want: Arrays, tolerance: float) -> None:
    assert sorted(got) == sorted(want)
    for name, value in want.items():
        scale = max(float(np.abs(value).max(initial=0.0)), 1.0)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is parsed, compiled or optimized from here on."""
    seen: list[str] = []

    def watch(module: Any, name: str) -> None:
        run = getattr(module, name)

        def watched(*args: Any, **options: Any) -> Any:
            seen.append(f"{module.__name__}.{name}")
            return run(*args, **options)

        monkeypatch.setattr(module, name, watched)

    watch(parser, "parse")
    watch(cnet, "load")
    watch(target, "units_of")  # text for Numba and LLVM
    watch(target, "objects_of")  # compiled, or read from the cache
    watch(Workers, "submit")
    watch(native, "optimize")
    watch(native, "object_code")
    watch(llvmlite.binding, "parse_assembly")
    watch(numba_compile, "numba_ir")
    return seen


# -- nothing is compiled -----------------------------------------------------------------------------------------------
def steps(net: concatc.CompiledModule, optimizer: concatc.Optimizer) -> None:
    arrays = inputs_of(net)
    net.train_step(arrays, optimizer=optimizer)
    net.forward(arrays)
    net.backward()
    net.step(optimizer)
    net.eval({name: array for name, array in arrays.items() if name != "label"})


def test_the_counter_sees_a_compilation(compiled: list[str]) -> None:
    steps(small(dims={"classes": 11}), concatc.SGD(lr=0.1))
    assert {entry.rpartition(".")[2] for entry in compiled} >= {"parse", "load", "units_of", "objects_of", "submit"}


def test_another_batch_size_compiles_and_parses_nothing(compiled: list[str]) -> None:
    net, optimizer = small(), concatc.SGD(lr=0.1, momentum=0.9)
    steps(net, optimizer)
    compiled.clear()
    for n in (7, 1024, 2, 33):
        steps(net.with_dims(n=n), optimizer)
        steps(net, optimizer)
    assert compiled == []


def test_arrays_of_another_batch_size_compile_nothing(compiled: list[str]) -> None:
    net = small()
    net.train_step(inputs_of(net))
    compiled.clear()
    for n in (9, 3):
        net.train_step(x=np.zeros((n, 5), np.float32), label=np.zeros(n, np.int32))
    assert compiled == []


def test_another_batch_size_of_densenet40_is_there_at_once() -> None:
    """Less than 50 ms, with everything that a first step needs, inference too: the median of five sizes.

    In CPU time of this thread, so that what else runs here does not count; about 20 ms on a machine of its own.
    """
    net = concatc.compile(NETS / "densenet40.cnet", dims={"n": 2})
    arrays = inputs_of(net)
    optimizer = concatc.SGD(lr=0.01)
    net.train_step(arrays, optimizer=optimizer)
    net.eval(image=arrays["image"])
    taken = []
    for n in (3, 16, 7, 64, 5):
        start = time.thread_time()
        other = net.with_dims(n=n)
        taken.append(time.thread_time() - start)
        instances = [i for i in net._plans.instances.values() if i.source.dims == other.dims]
        assert sorted((i.phase, len(i.built)) for i in instances) == [("infer", 1), ("train", 1)]
    assert statistics.median(taken) < 0.05, taken


# -- values ------------------------------------------------------------------------------------------------------------
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


# -- one net -----------------------------------------------------------------------------------------------------------
def test_two_batch_sizes_move_apart_and_together() -> None:
    net = concatc.compile(THREAD, dims={"x": 4, "y": 3}, dtype="f64")
    net.init(seed=1)
    for dims in ({"x": 7}, {"y": 9}, {"x": 2, "y": 2}, {"x": 1, "y": 40}):
        other = net.with_dims(**dims)
        assert other._source not in net._plans.bases
        alone = concatc.compile(THREAD, dims={"x": 4, "y": 3, **dims}, dtype="f64", target="reference")
        copy_values(alone, net)
        arrays = inputs_of(other)
        assert_close(results_of(other, arrays), results_of(alone, arrays), 1e-11)


def test_parameters_states_and_optimizers_are_shared() -> None:
    """Steps at several sizes are those of one net that is given these arrays in turn."""
    nets = [small(dtype="f64") for _ in range(2)]
    optimizers = [concatc.Adam(lr=0.1) for _ in range(2)]
    other = nets[0].with_dims(n=7)
    assert other.dims == {"n": 7, "classes": 3, "rate": 0.5}
    for name, value in nets[0].params.items():
        assert np.shares_memory(value, other.params[name])
    assert np.shares_memory(next(iter(nets[0].states.values())), next(iter(other.states.values())))
    for seed, view in enumerate((nets[0], other, nets[0], other.with_dims(n=2), other)):
        arrays = inputs_of(view, seed)
        got, want = (
            view.train_step(arrays, optimizer=optimizers[0]),
            nets[1].train_step(arrays, optimizer=optimizers[1]),
        )
        assert got == want  # bit for bit: it is the same code and the same table
    for name, value in nets[1].params.items():
        np.testing.assert_array_equal(other.params[name], value)
    other.params["h.linear.weight"][...] = 3.0
    assert (nets[0].params["h.linear.weight"] == 3.0).all()
    other.loss_weights["size"] = 2.0
    assert nets[0].loss_weights["size"] == 2.0


def test_the_first_dims_stay_as_they_were() -> None:
    net = small()
    arrays = inputs_of(net)
    before = results_of(net, arrays)
    other = net.with_dims(n=9)
    results_of(other, inputs_of(other))
    net.init(seed=1)
    for name, value in results_of(net, arrays).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_dims_that_no_array_shows_are_kept_apart() -> None:
    """Both nets take the same arrays; each computes with its own dims."""
    net = small()
    other = net.with_dims(rate=2.0)
    arrays = inputs_of(net)
    for view, rate in ((net, 0.5), (other, 2.0), (net, 0.5), (other, 2.0)):
        net.init(seed=1)
        if "rate" in view.dims:
            assert view.dims["rate"] == rate
        out = view.forward(arrays)
        assert set(out) == {"loss", "softmax_loss", "size", "logits"}
    assert net._calls.current["train"] is not other._calls.current["train"]


def test_a_forward_at_one_size_outdates_the_other() -> None:
    net = small()
    other = net.with_dims(n=7)
    net.forward(inputs_of(net))
    other.forward(inputs_of(other))
    other.backward()
    with pytest.raises(UsageError, match="backward"):
        net.backward()
    net.forward(inputs_of(net))
    other.params["h.linear.weight"][...] = 1.0
    with pytest.raises(UsageError, match="changed after forward"):
        net.backward()


def test_threads_at_several_sizes_do_not_meet() -> None:
    """Each gets the losses of its own arrays, whatever the others run."""
    net = small(dtype="f64")
    views = [net.with_dims(n=n) for n in (3, 7, 64, 5)]
    arrays = [inputs_of(view, k) for k, view in enumerate(views)]
    want = [view.train_step(a)["loss"] for view, a in zip(views, arrays, strict=True)]
    wrong: list[object] = []

    def run(k: int) -> None:
        for _ in range(50):
            loss = views[k].train_step(arrays[k])["loss"]
            if loss != want[k]:
                wrong.append((k, loss))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(views))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_kept_blobs_are_those_of_the_last_forward() -> None:
    net = small(keep=["h"])
    other = net.with_dims(n=7)
    for view in (net, other, net):
        out = view.forward(inputs_of(view))
        view.backward()
        assert view.blobs["h"].data.shape == (view.dims["n"], 8)
        np.testing.assert_allclose(np.mean(np.square(view.blobs["h"].data)), out["size"], rtol=1e-5)


# -- what is no batch size ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"classes": 4}, "with_dims means classes=4, but parameter `logits.weight` is"),
        ({"m": 4}, "net small has no dim `m`"),
        ({"N": 4}, "net small has no dim `N`"),
        ({"n": "many"}, "dim `n` is 4 here, and 'many' is no other value for it"),
        ({"n": True}, "dim `n` is 4 here, and True is no other value for it"),
        ({"n": None}, "dim `n` is 4 here, and None is no other value for it"),
        ({"n": float("nan")}, "dim `n` is 4 here, and nan is no other value for it"),
        ({"n": np.ones(2)}, "is no other value for it"),
        ({"n": 2.5}, "with_dims means n=2.5, and the net does not compile with that"),
        ({"n": 0}, "with_dims means n=0, and the net does not compile with that"),
        ({"n": -3}, "with_dims means n=-3, and the net does not compile with that"),
        ({"n": 1 << 40}, "no memory"),
        ({"n": 10**30}, f"with_dims means n={10**30}, and the net does not compile with that"),
        ({"n": 1}, "with_dims means n=1, and the net does not compile with that"),
    ],
)
def test_other_dims_are_refused(dims: dict[str, Any], message: str) -> None:
    net = small()
    net.train_step(inputs_of(net))
    with pytest.raises(UsageError) as error:
        net.with_dims(**dims)
    assert message in str(error.value)
    net.train_step(inputs_of(net))


def test_numpy_and_whole_floats_are_sizes() -> None:
    net = small()
    for n in (np.int64(7), 7.0, np.float32(7)):
        other = net.with_dims(n=n)
        assert other.dims["n"] == 7 and type(other.dims["n"]) is int
        assert other._source not in net._plans.bases


def test_a_size_without_memory_is_an_error_and_changes_nothing() -> None:
    net = small()
    arrays = inputs_of(net)
    net.train_step(arrays)
    before = results_of(net, arrays)
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1 << 36, 5), (0, 0))
    labels = np.lib.stride_tricks.as_strided(np.zeros(1, np.int32), (1 << 36,), (0,))
    with pytest.raises(UsageError, match="no memory"):
        net.train_step(x=huge, label=labels)
    after = results_of(net, arrays)
    np.testing.assert_array_equal(after["out logits"], before["out logits"])


DECIDING = """
net f(n = 8) {
    input x: f32[n, 6]
    h = linear(x, 6)
    if n > 4 { h = relu(h) }
    loss mean(square(h)) weight max(n, 3)
}
"""


def test_nets_that_decide_by_their_batch_size_are_compiled() -> None:
    net = concatc.compile_source(DECIDING, dtype="f64")
    net.init(seed=1)
    for n in (3, 9, 5, 4):
        other = net.with_dims(n=n)
        assert other._source in net._plans.bases
        alone = concatc.compile_source(DECIDING, dims={"n": n}, dtype="f64", target="reference")
        copy_values(alone, net)
        arrays = inputs_of(other)
        assert_close(results_of(other, arrays), results_of(alone, arrays), 1e-11)


def test_budgets_are_met_size_by_size() -> None:
    net = small(max_memory=1 << 20)
    assert net.with_dims(n=7)._source in net._plans.bases
    with pytest.raises(UsageError, match="the budget is 1 MiB"):
        net.with_dims(n=1 << 16).train_step(inputs_of(net.with_dims(n=1 << 16)))


# -- what is shown -----------------------------------------------------------------------------------------------------
def test_plans_and_memory_of_other_sizes_say_what_is_run() -> None:
    net = small()
    arrays = inputs_of(net)
    net.train_step(arrays)
    other = net.with_dims(n=64)
    text = other.ir("plan")
    assert "64x8xf32" in text and "cnet.dims = {n = 64" in text
    assert text == other._source.phase("train").dump("plan")
    lowered = other._source.phase("train")
    report = other.memory.phases["train"]
    assert report.bases["arena"] == lowered.arena_bytes
    other.train_step(inputs_of(other))
    pool = net._plans.pools["train"].bases
    assert report.bases["arena"] <= pool["arena"].nbytes
    assert report.bases["inputs"] <= pool["inputs"].nbytes
    alone = small(dims={"n": 64})
    assert abs(report.bases["arena"] - alone.memory.phases["train"].bases["arena"]) <= 256
    assert report.staged_bytes == alone.memory.phases["train"].staged_bytes


def test_every_level_of_another_size_is_shown() -> None:
    net = small()
    net.train_step(inputs_of(net))
    other, alone = net.with_dims(n=7), small(dims={"n": 7})
    for level in ("graph", "split", "joint", "optimized", "kernels"):
        assert other.ir(level) == alone.ir(level)
    assert other.ir("joint", blob="h") == alone.ir("joint", blob="h")
    assert other.ir("loops").startswith("// the code of n = 4, which runs at n = 7 with the numbers of that plan\n")
    assert "n = 7" in other.ir("plan") and other.kernels == net.kernels
    assert repr(other) == repr(alone)


def test_with_dims_of_the_same_dims_is_the_same_net() -> None:
    net = small()
    same = net.with_dims(n=4)
    assert same.dims == net.dims and same._source is net._source
    np.testing.assert_array_equal(same.forward(inputs_of(net))["logits"], net.forward(inputs_of(net))["logits"])


# -- what is kept beside the object code -------------------------------------------------------------------------------
def test_how_a_net_follows_is_read_when_it_was_found_before(monkeypatch: pytest.MonkeyPatch) -> None:
    first = small()
    first.train_step(inputs_of(first))
    monkeypatch.setattr(scaling, "scaled_phase", None)  # another look would fail
    again = small()
    again.train_step(inputs_of(again))
    tables = [net.with_dims(n=7)._source.phase("train").table for net in (first, again)]
    np.testing.assert_array_equal(tables[0].numbers, tables[1].numbers)
    np.testing.assert_array_equal(tables[0].rest, tables[1].rest)
    plans = [net.with_dims(n=7).ir("plan") for net in (first, again)]
    assert plans[0] == plans[1]


def test_what_does_not_give_this_net_is_found_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that another planner wrote under this key: its numbers are not those of the net."""
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path))
    first = small()
    first.train_step(inputs_of(first))
    load = Cache.load

    def other_numbers(cache: Cache, key: str, *suffix: str) -> bytes | None:
        found = load(cache, key, *suffix)
        return found.replace(b'"array": [', b'"array": [1', 1) if found is not None and found[:1] == b"{" else found

    monkeypatch.setattr(Cache, "load", other_numbers)
    again = small()
    again.train_step(inputs_of(again))
    tables = [net.with_dims(n=7)._source.phase("train").table for net in (first, again)]
    np.testing.assert_array_equal(tables[0].numbers, tables[1].numbers)


def test_what_is_too_large_to_be_read_off_is_compiled() -> None:
    """Bytes of one row that are no digit of the large size: the arena was 0.2% of what is needed."""
    source = """net big(n = 1) {
        input a: f32[n, 1, 512, 512]
        h = a |> conv(32, kernel=3, pad=1) |> relu |> conv(32, kernel=1) |> relu
        p = h |> max_pool(16) |> max_pool(4) |> flatten |> linear(2)
        loss mean(square(p))
    }"""
    base = compile_net(source, "t.cnet", Options())
    assert base.scaled("train") is None
    assert base.scaling.reasons["train"]


@pytest.mark.parametrize("n", [3, 5, 64])
def test_inputs_in_concats_at_any_size_where_the_net_was_compiled(n: int) -> None:
    source = """net t(n = 3) {
        input x: f32[n, 3, 6, 6]
        h = concat(x, conv(relu(x), 4, kernel=3, pad=1), axis=1)
        loss mean(square(conv(h, 2, kernel=3)))
    }"""
    base = compile_net(source, "t.cnet", Options(dims={"n": n}))
    assert base.scaled("train") is not None, base.scaling.reasons
