"""Another batch size is a new plan over the same machine code: ``net.with_dims(n=7)``."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import pytest

import concatc
from concatc.batch_sizes import scaling
from concatc.compiler import Options, compile_net
from concatc.diagnostics import UsageError
from concatc.frontend import cnet
from concatc.frontend.cnet import parser
from concatc.targets.cache import Cache
from concatc.targets.cpu import native, numba_compile, objects, target
from concatc.targets.cpu.workers import Workers
from tests.example_nets import NETS
from tests.sized_nets import assert_close, copy_values, inputs_of, results_of, small

pytestmark = pytest.mark.usefixtures("sizes_cache")
THREAD = Path(__file__).parents[1] / "examples" / "thread.cnet"


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
    watch(objects, "object_code")
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
    assert {entry.rpartition(".")[2] for entry in compiled} >= {
        "parse",
        "load",
        "units_of",
        "objects_of",
        "object_code",
    }


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
