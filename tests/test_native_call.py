"""The native call: what it gives and refuses is what the general way gives and refuses; nothing is lost or leaks."""

from __future__ import annotations

import ctypes
import gc
import pickle
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.diagnostics import UsageError
from concatc.loops.plan import Window
from concatc.runtime.module import CompiledModule
from concatc.runtime.prepared import Prepared
from concatc.targets.cpu import entry
from concatc.targets.cpu.entry import layout_is_known, runs_of

Arrays = dict[str, Any]

THREAD = (Path(__file__).parent.parent / "examples" / "thread.cnet").read_text()
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "thread": (THREAD, {"x": 4, "y": 3, "features": 6, "hidden": 5, "classes": 4}),
    "dropout": (
        """net dropout(n = 5) {
            input x: f32[n, 7]
            input label: i64[n]
            z = linear(dropout(relu(linear(x, 9)), p=0.5), 4)
            loss softmax_loss(z, label, ignore=-1)
            output z
        }""",
        {},
    ),
    "indices": (
        """net indices(n = 3) {
            input at: i32[n, 4]
            input label: i32[n]
            words, other = slice(at, axis=1, sizes=[2, 2])
            e = flatten(embedding(words, 11, dim=3))
            f = flatten(embedding(other, 5, dim=2))
            loss softmax_loss(linear(concat(e, f, axis=1), 6), label)
        }""",
        {},
    ),
    "staged": (
        """net staged(n = 2) {
            input x: f32[n, 4, 5, 5]
            input a: i32[n]
            input b: i32[n]
            h = concat(x, relu(conv(x, 3, kernel=3, pad=1)), axis=1)
            z = linear(flatten(h), 3)
            loss softmax_loss(concat(z, z, axis=0), concat(a, b, axis=0)) weight 0.5 as joined
            loss mean(square(z)) as small
            output h
        }""",
        {},
    ),
}
MOST = {"thread": 4, "dropout": 4, "indices": 5, "staged": 3}


def compiled(name: str) -> CompiledModule:
    source, dims = NETS[name]
    net = concatc.compile_source(source, target="cpu", dims=dims)
    net.init(seed=3)
    return net


def batch(name: str, net: CompiledModule, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for spec in net.signature.inputs.values():
        dtype = {"f32": np.float32, "i32": np.int32, "i64": np.int64}[spec.type.dtype]
        if spec.type.is_float:
            arrays[spec.name] = rng.normal(size=spec.type.shape).astype(dtype)
        else:
            arrays[spec.name] = rng.integers(0, MOST[name], spec.type.shape).astype(dtype)
    return arrays


@pytest.fixture
def natively(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Notes of each call that was prepared whether it was made natively."""
    made: list[bool] = []
    make = Prepared.make

    def noted(self: Prepared, arrays: dict[str, object], seed: int, step: int) -> dict[str, float] | None:
        results = make(self, arrays, seed, step)
        made.append(results is not None)
        return results

    monkeypatch.setattr(Prepared, "make", noted)
    yield made


def general(net: CompiledModule) -> CompiledModule:
    """The net, which then makes no native call."""
    net._generations.ready = _Nothing()
    return net


class _Nothing(dict):  # type: ignore[type-arg]
    def __setitem__(self, key: object, value: object) -> None:
        pass


def optimizers() -> dict[str, Callable[[], Any]]:
    return {
        "none": lambda: None,
        "sgd": lambda: concatc.SGD(lr=0.1),
        "momentum": lambda: concatc.SGD(lr=0.1, momentum=0.9, nesterov=True),
        "adam": lambda: concatc.Adam(lr=0.01),
    }


# -- the same results --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", optimizers())
@pytest.mark.parametrize("name", NETS)
def test_steps_are_those_of_the_general_way(name: str, optimizer: str, natively: list[bool]) -> None:
    nets = [compiled(name), general(compiled(name))]
    opts = [optimizers()[optimizer]() for _ in nets]
    for step in range(6):
        arrays = batch(name, nets[0], seed=step)
        losses = []
        for net, opt in zip(nets, opts, strict=True):
            if step == 3 and opt is not None:
                opt.lr = 0.05
            if step == 4:
                net.loss_weights[next(iter(net.loss_weights))] = 0.25
            losses.append(net.train_step(**arrays, optimizer=opt))
        assert losses[0] == losses[1] and list(losses[0]) == list(losses[1])
        for path in nets[0].params:
            assert np.array_equal(nets[0].params[path], nets[1].params[path]), path
            assert np.array_equal(nets[0].grads[path], nets[1].grads[path]), path
    # The first call, and the one behind a change of weights, go the general way.
    assert natively == [True] * 4


@pytest.mark.parametrize("name", ["thread", "dropout", "staged"])
def test_all_calls_in_any_order(name: str, natively: list[bool]) -> None:
    nets = [compiled(name), general(compiled(name))]
    opts = [concatc.SGD(lr=0.1, momentum=0.5) for _ in nets]
    rng = np.random.default_rng(5)
    pending = False
    for step in range(60):
        kind = rng.choice(["forward", "backward", "train_step", "eval", "init", "gradients", "size"])
        arrays = batch(name, nets[0], seed=step)
        results: list[Any] = []
        for net, opt in zip(nets, opts, strict=True):
            match kind:
                case "forward":
                    results.append(net.forward(**arrays))
                case "backward" if pending:
                    results.append({n: np.array(g) for n, g in net.backward().items()})
                case "train_step":
                    results.append(net.train_step(arrays, optimizer=opt))
                case "gradients":
                    results.append(net.train_step(**arrays))
                case "eval":
                    results.append(net.eval(**arrays))
                case "init":
                    net.init(seed=step)
                case "size":
                    results.append(net.train_step({n: np.concatenate([a, a]) for n, a in arrays.items()}))
        pending = kind == "forward" or (pending and kind == "eval")
        if results:
            assert results[0].keys() == results[1].keys()
            for key, value in results[0].items():
                assert np.array_equal(value, results[1][key]), (kind, key)
    assert sum(natively) > 10


def test_views_at_other_sizes_do_not_mix(natively: list[bool]) -> None:
    nets = [compiled("dropout"), general(compiled("dropout"))]
    others = [net.with_dims(n=2) for net in nets]
    opts = [concatc.Adam(lr=0.1) for _ in nets]
    for step in range(12):
        losses = []
        for k, opt in enumerate(opts):
            net = (nets, others)[step // 2 % 2][k]
            losses.append(net.train_step(batch("dropout", net, seed=step), optimizer=opt))
        assert losses[0] == losses[1]
    assert natively.count(True) == 6


class Sub(np.ndarray):  # type: ignore[type-arg]
    """A subclass may read its elements otherwise."""


def read_only(a: np.ndarray) -> np.ndarray:
    b = a.copy()
    b.flags.writeable = False
    return b


def unaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    b = np.ndarray(a.shape, a.dtype, raw.data, 1)
    b[...] = a
    return b


# Arrays of the same elements, and whether they are plain.
FORMS: dict[str, tuple[Callable[[np.ndarray], Any], bool]] = {
    "itself": (lambda a: a, True),
    "read-only": (read_only, True),
    "not aligned": (unaligned, True),
    "unpickled": (lambda a: pickle.loads(pickle.dumps(a)), True),
    "Fortran order": (np.asfortranarray, False),
    "negative strides": (lambda a: a[::-1].copy()[::-1], False),
    "every other": (lambda a: np.repeat(a, 2, axis=0)[::2], False),
    "subclass": (lambda a: a.view(Sub), False),
    "lists": (lambda a: a.tolist(), False),
    "other byte order": (lambda a: a.astype(a.dtype.newbyteorder()), False),
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_that_are_not_plain_go_the_general_way(form: str, natively: list[bool]) -> None:
    net = compiled("thread")
    arrays = batch("thread", net)
    want = net.train_step(arrays)
    make, plain = FORMS[form]
    given = {**arrays, "a": make(arrays["a"])}
    if form == "other byte order":
        with pytest.raises(UsageError, match="input `a` holds >f4"):
            net.train_step(given)
    else:
        assert net.train_step(given) == want
    assert natively == [plain]


@pytest.mark.peers
def test_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch")
    net = compiled("thread")
    arrays = batch("thread", net)
    want = net.train_step(arrays)
    assert net.train_step({n: torch.from_numpy(a) for n, a in arrays.items()}) == want


def test_outputs_may_be_given_back(natively: list[bool]) -> None:
    """Staged inputs lie among what the step writes: an array that views outputs is not plain."""
    source = (
        "net back(n = 2) { input x: f32[n, 3]\n h = concat(x, tanh(linear(x, 3)), axis=1)\n output h\n loss mean(h) }"
    )
    nets = [concatc.compile_source(source, target="cpu") for _ in range(2)]
    general(nets[1])
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    for _ in range(3):
        backs = []
        for net in nets:
            h = net.forward(x=x, copy=False)["h"]
            flat = h.reshape(-1)[3:9].reshape(2, 3)
            backs.append(net.forward(x=flat)["h"])
        assert np.array_equal(*backs)
    assert True in natively


# -- the same errors ---------------------------------------------------------------------------------------------------

WRONG: dict[str, Callable[[Arrays], Arrays]] = {
    "element type": lambda g: {**g, "a": g["a"].astype(np.float64)},
    "integers": lambda g: {**g, "label": g["label"].astype(np.int64)},
    "rank": lambda g: {**g, "a": g["a"][0]},
    "shape": lambda g: {**g, "a": g["a"][:, :-1].copy()},
    "rows": lambda g: {**g, "label": g["label"][:-1].copy()},
    "missing": lambda g: {n: a for n, a in g.items() if n != "b"},
    "extra": lambda g: {**g, "c": g["a"]},
    "another name": lambda g: {"a": g["a"], "b": g["b"], "labels": g["label"]},
    "nothing": lambda g: {},
    "None": lambda g: {**g, "b": None},
    "text": lambda g: {**g, "b": "b"},
    "objects": lambda g: {**g, "b": g["b"].astype(object)},
    "negative label": lambda g: {**g, "label": np.array([0, 1, 2, -1, 0, 0, 0], np.int32)},
    "large label": lambda g: {**g, "label": np.array([0, 1, 2, 3, 4, 2**31 - 1, 0], np.int32)},
    "all at once": lambda g: {"a": g["a"].astype(np.float16), "label": g["label"][:2], "z": 1},
}


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_are_those_of_the_general_way(wrong: str, natively: list[bool]) -> None:
    nets = [compiled("thread"), general(compiled("thread"))]
    arrays = batch("thread", nets[0])
    for net in nets:
        net.train_step(arrays)
        net.forward(arrays)
    given = WRONG[wrong](arrays)
    texts = [error_of(lambda net=net: net.train_step(given)) for net in nets]  # type: ignore[misc]
    assert texts[0] == texts[1]
    assert natively == [False]
    after = []
    for net in nets:
        if "label" in wrong:  # its inputs are written by then
            with pytest.raises(UsageError, match="did not finish"):
                net.backward()
        else:
            net.backward()
        after.append(net.train_step(arrays))
    assert after[0] == after[1]


@pytest.mark.parametrize("name", ["dropout", "indices", "staged"])
def test_every_index_is_compared(name: str, natively: list[bool]) -> None:
    net = compiled(name)
    arrays = batch(name, net)
    net.train_step(arrays)
    for key, array in arrays.items():
        if array.dtype.kind != "i":
            continue
        most = {"at": [11, 11, 5, 5]}.get(key, [{"indices": 6, "dropout": 4, "staged": 3}[name]])
        for at in np.ndindex(array.shape):
            limit = most[at[-1] % len(most)]
            lowest = -1 if name == "dropout" else 0
            for value, valid in ((lowest, True), (lowest - 1, False), (limit - 1, True), (limit, False)):
                changed = array.copy()
                changed[at] = value
                natively.clear()
                if valid:
                    net.train_step({**arrays, key: changed})
                else:
                    text = error_of(lambda c=changed, k=key: net.train_step({**arrays, k: c}))  # type: ignore[misc]
                    assert f"`{key}` holds {value} at {list(at)}" in text
                assert natively == [valid], (key, at, value)


@pytest.mark.parametrize("size", [1, 3, 15, 16, 17, 64, 129, 1000])
def test_labels_of_any_number_are_compared(size: int, natively: list[bool]) -> None:
    net = concatc.compile_source(
        "net n(n = 1) { input x: f32[n, 2]\n input label: i32[n]\n loss softmax_loss(linear(x, 7), label) }",
        target="cpu",
    ).with_dims(n=size)
    x, label = np.zeros((size, 2), np.float32), np.full(size, 6, np.int32)
    net.train_step(x=x, label=label)
    net.train_step(x=x, label=label)
    for at in sorted({0, 1, size // 2, size - 2, size - 1} & set(range(size))):
        label[at] = 7
        assert f"holds 7 at [{at}]" in error_of(lambda: net.train_step(x=x, label=label))
        label[at] = 6
    assert natively.count(True) == 1 and natively.count(False) >= 1


def test_a_failed_call_writes_no_other_input() -> None:
    net = concatc.compile_source(
        "net n() { input x: f32[3, 2]\n input label: i32[3]\n loss softmax_loss(linear(x, 4), label) }",
        target="cpu",
        keep=["x"],
    )
    ones, label = np.ones((3, 2), np.float32), np.zeros(3, np.int32)
    net.train_step(x=ones, label=label)
    net.train_step(x=ones, label=label)
    with pytest.raises(UsageError):
        net.train_step(x=2 * ones, label=label + 9)
    assert (net.blobs["x"].data == 1).all()


def test_without_a_known_layout_all_calls_go_the_general_way(
    natively: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert layout_is_known()
    monkeypatch.setattr(entry, "layout_is_known", lambda: False)
    net = compiled("thread")
    arrays = batch("thread", net)
    assert net.train_step(arrays) == net.train_step(arrays)
    assert natively == []


def test_a_wrong_layout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in entry.HEADER:
        with monkeypatch.context() as patch:
            patch.setitem(entry.HEADER, name, {"data": 48, "rank": 64, "shape": 16, "flags": 24}.get(name, 40))
            layout_is_known.cache_clear()
            assert not layout_is_known(), name
    layout_is_known.cache_clear()
    assert layout_is_known()


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "strides", "want"),
    [
        ((), (), (1, 4, 0)),
        ((3, 4), (4, 1), (1, 48, 0)),
        ((3, 4), (10, 1), (3, 16, 40)),
        ((2, 3, 4), (30, 10, 1), (6, 16, 40)),
        ((2, 3, 4), (99, 4, 1), (2, 48, 396)),
        ((2, 3, 4), (99, 10, 1), None),
        ((5,), (3,), (5, 4, 12)),
        ((1, 5), (77, 1), (1, 20, 0)),
        ((0, 5), (5, 1), (0, 0, 0)),
    ],
)
def test_windows_as_runs(shape: tuple[int, ...], strides: tuple[int, ...], want: tuple[int, int, int] | None) -> None:
    assert runs_of(Window("inputs", 64, shape, strides, "f32")) == want


# -- bound inputs ------------------------------------------------------------------------------------------------------


def test_bound_inputs_are_read_at_each_call(natively: list[bool]) -> None:
    net, other = compiled("thread"), compiled("thread")
    arrays = batch("thread", net)
    net.bind(a=arrays["a"], label=arrays["label"])
    for step in range(4):
        arrays["a"][...] = step
        assert net.train_step(b=arrays["b"]) == other.train_step(arrays)
    net.bind({"b": arrays["b"]})
    assert net.train_step() == other.train_step(arrays)
    assert natively.count(True) == 8
    b = arrays["b"] + 1
    assert net.train_step(b=b) == other.train_step({**arrays, "b": b})
    assert net.forward()["logits"].tolist() == other.forward(arrays)["logits"].tolist()
    net.bind(b=None)
    with pytest.raises(UsageError, match="missing input `b`"):
        net.train_step()
    assert net.eval(b=b)["logits"].tolist() == other.eval(a=arrays["a"], b=b)["logits"].tolist()
    with pytest.raises(UsageError, match="missing input"):
        net.with_dims(x=4).train_step()


def test_what_cannot_be_bound_is_told_at_once() -> None:
    net = compiled("thread")
    text = error_of(lambda: net.bind(a=np.zeros((4, 6)), c=np.zeros(3), d=None))
    assert "input `a` holds float64" in text and "unknown input `c`" in text and "unknown input `d`" in text
    assert net._bound == {}


def test_a_bound_array_that_changes_its_shape_is_noticed(natively: list[bool]) -> None:
    net = compiled("thread")
    arrays = batch("thread", net)
    net.bind(arrays)
    net.train_step()
    net.train_step()
    arrays["label"][0] = 99
    assert "holds 99 at [0]" in error_of(net.train_step)
    arrays["label"][0] = 0
    arrays["a"].shape = (6, 4)
    assert "features is 4 by axis 1 of `a`, but 6 by axis 1 of `b`" in error_of(net.train_step)
    assert natively == [True, False, False]


# -- references, memory, threads ---------------------------------------------------------------------------------------


def test_nothing_leaks() -> None:
    net = compiled("staged")
    arrays, opt = batch("staged", net), concatc.SGD(lr=0.0)
    wrong = {**arrays, "x": arrays["x"][:, :, ::-1]}
    bad = {**arrays, "a": arrays["a"] + 100}

    def calls(count: int) -> None:
        for _ in range(count):
            net.train_step(**arrays, optimizer=opt)
            net.train_step(arrays, optimizer=opt)
        for _ in range(count // 100):
            net.train_step(wrong, optimizer=opt)
            with pytest.raises(UsageError):
                net.train_step(bad, optimizer=opt)

    calls(200)
    counted = [*arrays.values(), *arrays, np.ndarray, np.dtype(np.float32), opt, "loss", "joined"]
    gc.collect()
    before = [sys.getrefcount(thing) for thing in counted]
    tracemalloc.start()
    try:
        calls(100)
        gc.collect()
        first = tracemalloc.get_traced_memory()[0]
        calls(5000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - first
    finally:
        tracemalloc.stop()
    # One leaked float a call would be 240,000 bytes; caches of what ran before this test may grow by a few thousand.
    assert grown < 24_000
    after = [sys.getrefcount(thing) for thing in counted]
    # Types are counted all over the process, by a few.
    assert [k for k, (a, b) in enumerate(zip(after, before, strict=True)) if abs(a - b) > 100] == [], (before, after)


@pytest.mark.parametrize("given", ["plain", "other strides", "too few"])
def test_none_is_counted_right(given: str) -> None:
    """What is not plain gives None to the caller, who gives the reference back."""
    net = compiled("thread")
    arrays = batch("thread", net)
    net.train_step(arrays)
    call = net._generations.ready["train_step"]._native.call
    a = arrays["a"][:, ::-1] if given == "other strides" else arrays["a"]
    arrays = {"a": a} if given == "too few" else {**arrays, "a": a}
    gc.collect()
    gc.disable()
    try:
        before = sys.getrefcount(None)
        for _ in range(2000):
            assert (call(arrays) is None) == (given != "plain")
        assert abs(sys.getrefcount(None) - before) < 100
    finally:
        gc.enable()


def test_a_module_that_goes_leaves_nothing() -> None:
    net = compiled("thread")
    arrays = batch("thread", net)
    net.train_step(arrays)
    net.train_step(arrays)
    counts = [sys.getrefcount(a) for a in arrays.values()]
    net.bind(arrays)
    net.train_step()
    del net
    gc.collect()
    assert [sys.getrefcount(a) for a in arrays.values()] == counts


def test_threads_that_train_one_module_and_several() -> None:
    count = 300
    shared, own = compiled("thread"), [compiled("thread") for _ in range(4)]
    alone = compiled("thread")
    arrays = batch("thread", alone)
    opt = concatc.SGD(lr=0.01)
    steps = concatc.SGD(lr=0.01)
    want = [alone.train_step(arrays, optimizer=steps) for _ in range(count)]
    found: list[list[dict[str, float]]] = [[] for _ in own]
    both: list[dict[str, float]] = []
    failed: list[BaseException] = []

    def train(k: int) -> None:
        try:
            mine = concatc.SGD(lr=0.01)
            for step in range(count):
                found[k].append(own[k].train_step(arrays, optimizer=mine))
                if step % len(own) == k:
                    both.append(shared.train_step(arrays, optimizer=opt))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=train, args=(k,)) for k in range(len(own))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(losses == want for losses in found)
    # The shared module made as many steps, one after the other: every loss of theirs once.
    assert sorted(loss["loss"] for loss in both) == sorted(loss["loss"] for loss in want)


def test_the_call_runs_without_the_interpreter_lock() -> None:
    """While another thread holds the lock, the step runs on."""
    net = concatc.compile_source(
        "net long() { input x: f32[768, 768]\n h = x\n"
        " for i in 0..24 { h = linear(h, 768, weight_init=constant(0.001)) }\n loss mean(h)\n output h }",
        target="cpu",
    )
    x = np.ones((768, 768), np.float32)
    net.forward(x=x)
    started = time.perf_counter()
    net.forward(x=x)
    hold_us = int(4e6 * (time.perf_counter() - started)) + 200_000
    loss = net._calls.current["train"].group("total")["loss"]
    sleep = ctypes.PyDLL(None).usleep
    for _ in range(5):
        loss[...] = -1.0
        native = net._generations.ready["forward"]
        worker = threading.Thread(target=native.make, args=({"x": x}, 0, 0))
        worker.start()
        time.sleep(0.002)
        running = worker.is_alive() and float(loss) == -1.0
        sleep(hold_us)
        finished = float(loss) != -1.0
        worker.join()
        if running:
            break
    assert running, "the step was never seen half done"
    assert finished
