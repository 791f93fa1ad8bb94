"""The compiled module: running, gradients, inputs and their errors, memory, threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import concatc
from tests.thread_module import TARGETS, THREAD, TWO_LOSSES, batch, compile_thread, error_of


@pytest.mark.parametrize("target", TARGETS)
def test_forward_and_backward_agree_with_numpy(target: str) -> None:
    net = compile_thread(target)
    data = batch()
    out = net.forward(data)
    grads = net.backward()
    p = {name: value.astype(np.float64) for name, value in net.params.items()}
    ha = np.maximum(data["a"] @ p["ha.weight"].T + p["ha.bias"], 0)
    hb = np.maximum(data["b"] @ p["hb.weight"].T + p["hb.bias"], 0)
    h = np.concatenate([ha, hb])
    logits = h @ p["logits.weight"].T + p["logits.bias"]
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    softmax = shifted / shifted.sum(1, keepdims=True)
    rows = np.arange(9)
    loss = -np.log(softmax[rows, data["label"]]).mean()
    dlogits = softmax.copy()
    dlogits[rows, data["label"]] -= 1
    dlogits /= 9
    # f32 sums of at most 9 terms against float64
    np.testing.assert_allclose(out["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(out["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(grads["logits.weight"], dlogits.T @ h, atol=1e-6)
    dhb = (dlogits @ p["logits.weight"])[6:] * (hb > 0)
    np.testing.assert_allclose(grads["hb.bias"], dhb.sum(0), atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_kept_blobs_have_their_gradient_and_branches_get_slices_of_it(target: str) -> None:
    net = compile_thread(target, keep=["h", "ha", "hb"])
    assert "before the first forward()" in error_of(lambda: net.blobs["h"])
    net.forward(batch())
    net.backward()
    h, ha, hb = (net.blobs[name] for name in ("h", "ha", "hb"))
    assert h.data.shape == h.grad.shape == (9, 8)
    assert np.array_equal(ha.data, h.data[:6])
    assert np.array_equal(ha.grad, h.grad[:6])
    assert np.array_equal(hb.grad, h.grad[6:])
    assert np.abs(h.grad).max() > 0


def test_blobs_that_are_not_kept_say_how_to_keep_them() -> None:
    net = compile_thread(keep=["h"])
    assert error_of(lambda: net.blobs["ha"]) == (
        "error: the bytes of `ha` are reused within a step\nhelp: compile with keep=['h', 'ha']"
    )


@pytest.mark.parametrize("target", TARGETS)
def test_input_gradients(target: str) -> None:
    net = compile_thread(target, input_grads=True)
    data = batch()
    loss = net.forward(data)["loss"]
    grads = {name: grad.copy() for name, grad in net.backward().items()}
    assert set(grads) == {*net.params, "a", "b"}
    # the loss falls along minus the gradient of the inputs, by about step * |gradient|^2
    step = 0.01
    moved = {**data, "a": data["a"] - np.float32(step) * grads["a"]}
    fall = float(loss - net.forward(moved)["loss"])
    assert fall == pytest.approx(step * float(np.sum(grads["a"] ** 2)), rel=0.05)


def test_copies_and_views() -> None:
    net = compile_thread("cpu")
    first = net.forward(batch(seed=1))["logits"]
    kept = first.copy()
    view = net.forward(batch(seed=1), copy=False)["logits"]
    net.forward(batch(seed=2))
    assert np.array_equal(first, kept)
    assert not np.array_equal(view, kept), "copy=False gives memory that the next call writes"


def test_parameters_are_views_that_the_next_run_reads() -> None:
    net = compile_thread("cpu")
    net.params["logits.weight"][...] = 0
    net.params["logits.bias"] = [1, 2, 3, 4]
    assert np.array_equal(net.eval(batch())["logits"], np.tile(np.float32([1, 2, 3, 4]), (9, 1)))
    assert "has shape [4], not [3]" in error_of(lambda: net.params.__setitem__("logits.bias", [1, 2, 3]))
    assert error_of(lambda: net.params["logit.bias"]) == (
        "error: the net has no parameter `logit.bias`\nhelp: did you mean `logits.bias`?"
    )
    assert "logit.bias" not in net.params


def test_eval_needs_no_labels_and_leaves_the_training_arena_alone() -> None:
    net = compile_thread("cpu")
    data = batch()
    net.forward(data)
    expected = {name: grad.copy() for name, grad in net.backward().items()}
    net.forward(data)
    pred = net.eval(a=data["a"], b=data["b"])
    assert set(pred) == {"logits"}
    assert np.array_equal(net.eval(data)["logits"], pred["logits"]), "labels may be given and are not read"
    assert all(np.array_equal(expected[name], grad) for name, grad in net.backward().items())


def test_stale_backward_is_an_error() -> None:
    net = compile_thread()
    assert error_of(net.backward) == "error: backward() needs a forward() before it"
    net.forward(batch())
    net.backward()
    assert error_of(net.backward) == "error: backward() ran already; run forward() before the next backward()"
    net.forward(batch())
    net.init(seed=4)
    assert "the parameters changed after forward()" in error_of(net.backward)
    net.forward(batch())
    net.backward()
    net.forward(batch())
    net.step(concatc.SGD(lr=0.1))
    assert "the parameters changed after forward()" in error_of(net.backward)
    net.forward(batch())
    with pytest.raises(concatc.UsageError):
        net.forward(batch() | {"label": np.full(9, 99, np.int32)})
    assert "did not finish" in error_of(net.backward)
    for optimizer in (None, concatc.SGD(lr=0.1)):  # steps on any arrays, and the same again natively
        for data in (batch(), {name: array.tolist() for name, array in batch().items()}):
            net.forward(batch())
            net.train_step(data, optimizer=optimizer)
            expected = "error: backward() needs a forward() before it; train_step() ran both"
            assert error_of(net.backward) == expected


@pytest.mark.parametrize("target", TARGETS)
def test_loss_weights_are_run_time_numbers(target: str) -> None:
    net = concatc.compile_source(TWO_LOSSES, target=target)
    data = {"x": np.ones((4, 3), np.float32), "t": np.zeros((4, 2), np.float32)}
    out = net.forward(data)
    assert dict(net.loss_weights) == {"main": 1.0, "aux": 0.5}
    assert out["loss"] == pytest.approx(out["main"] + 0.5 * out["aux"], rel=1e-6)
    first = net.backward()["z.weight"].copy()
    net.loss_weights["aux"] = 1.0
    out = net.forward(data)
    assert out["loss"] == pytest.approx(out["main"] + out["aux"], rel=1e-6)
    np.testing.assert_allclose(net.backward()["z.weight"], 2 * first, rtol=1e-6)
    assert error_of(lambda: net.loss_weights.__setitem__("aux1", 0.1)) == (
        "error: the net has no loss `aux1`\nhelp: did you mean `aux`?"
    )


def test_nets_without_a_loss_run_forward_only() -> None:
    net = concatc.compile_source("net f(n = 2) { input x: f32[n, 2]; output relu(x) as y }", target="cpu")
    x = np.float32([[1, -1], [2, -2]])
    assert np.array_equal(net.forward(x=x)["y"], np.maximum(x, 0))
    for call in (net.backward, lambda: net.train_step(x=x), lambda: net.step(concatc.SGD())):
        assert error_of(call) == "error: net f has no loss, so it has no backward pass\nhelp: add `loss ..` to the net"


def test_nets_without_an_output_have_no_eval() -> None:
    net = concatc.compile_source(TWO_LOSSES, target="reference")
    assert "has no outputs" in error_of(net.eval, x=np.zeros((4, 3), np.float32))


def test_initial_values_depend_on_seed_and_path_alone() -> None:
    one = compile_thread()
    wider = concatc.compile_source(THREAD.replace("relu\n    hb", "relu |> linear(8)\n    hb"), target="reference")
    wider.init(seed=3)
    shared = [name for name in one.params if name in wider.params and name.startswith("hb")]
    assert shared == ["hb.weight", "hb.bias"]
    assert all(np.array_equal(one.params[name], wider.params[name]) for name in shared)
    before = one.params["ha.weight"].copy()
    one.init(seed=4)
    assert not np.array_equal(one.params["ha.weight"], before)
    one.init(seed=3)
    assert np.array_equal(one.params["ha.weight"], before)
    assert not np.array_equal(one.params["ha.weight"], one.params["hb.weight"])


def test_a_module_that_was_not_initialised_starts_as_seed_0() -> None:
    one, other = (concatc.compile_source(THREAD, target="reference") for _ in range(2))
    other.init(seed=0)
    assert np.array_equal(one.eval(batch())["logits"], other.eval(batch())["logits"])


def test_initial_values_have_the_moments_that_they_promise() -> None:
    from concatc.runtime.init import initialise

    value = np.empty((200, 300), np.float32)
    # 60,000 samples: the standard error of a mean is std/245, of a standard deviation about std/346
    for init, mean, std in (
        ("gaussian(1.0, 2.0)", 1.0, 2.0),
        ("uniform(-1.0, 3.0)", 1.0, 4 / 12**0.5),
        ("xavier()", 0.0, (1 / 300) ** 0.5),
        ("msra()", 0.0, (2 / 300) ** 0.5),
    ):
        initialise(value, init, "w", seed=0)
        assert abs(value.mean() - mean) < 5 * std / 245
        assert abs(value.std() / std - 1) < 5 / 346
    initialise(value, "constant(0.5)", "w", 0)
    assert (value == 0.5).all()
    initialise(value[:0], "msra()", "w", 0)
    with pytest.raises(concatc.ConcatcError, match="no way to start"):
        initialise(value, "magic()", "w", 0)


def test_initial_values_are_those_of_the_whole_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    from concatc.runtime import init

    def made(text: str, numel: int) -> np.ndarray:
        value = np.empty(numel)
        init.initialise(value, text, "w", 3)
        return value

    cases = [(text, numel) for text in ("msra()", "xavier()") for numel in (1, 2, 7, 8, 9, 31, 100)]
    whole = [made(*case) for case in cases]
    monkeypatch.setattr(init, "BLOCK", 8)
    assert all(np.allclose(made(*case), value, rtol=1e-12) for case, value in zip(cases, whole, strict=True))


def test_dropout_differs_from_step_to_step_and_repeats_with_the_seed() -> None:
    net = concatc.compile_source(
        "net f(n = 64) { input x: f32[n, 8]; y = dropout(x, 0.5); loss mean(y) as m; output y }", target="cpu"
    )
    x = np.ones((64, 8), np.float32)

    def two_steps() -> list[np.ndarray]:
        net.init(seed=5)
        return [net.forward(x=x)["y"] for _ in range(2)]

    (first, second), again = two_steps(), two_steps()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again[0]) and np.array_equal(second, again[1])
    assert np.array_equal(net.eval(x=x)["y"], x)


def test_states_move_in_training_only() -> None:
    net = concatc.compile_source(
        "net f(n = 4) { input x: f32[n, 3]; y = batch_norm(x) @bn; loss mean(y) as m; output y }", target="cpu"
    )
    net.init()
    x = np.random.default_rng(0).normal(2, 1, size=(4, 3)).astype(np.float32)
    before = {name: state.copy() for name, state in net.states.items()}
    net.eval(x=x)
    assert before and all(np.array_equal(before[name], state) for name, state in net.states.items())
    net.forward(x=x)
    assert not all(np.array_equal(before[name], state) for name, state in net.states.items())


def test_ir_of_every_level_and_phase() -> None:
    net = compile_thread("cpu")
    for level in ("graph", "split", "joint", "optimized", "kernels", "plan", "loops"):
        assert "func.func" in net.ir(level)
    assert "backward" in net.ir("02")
    assert "backward" not in net.ir("joint", phase="infer")
    assert "\ndef k" in net.kernels
    assert error_of(net.ir, "spilt") == "error: no level `spilt`\nhelp: did you mean `split`?"


def test_memory_report_adds_up() -> None:
    net = compile_thread("cpu")
    report = net.memory
    numel = sum(p.size for p in net.params.values())
    assert 2 * 4 * numel <= report.shared_bytes <= 2 * (4 * numel + 64 * len(net.params))
    assert report.phases["train"].staged_bytes == 4 * (6 * 5 + 3 * 5 + 9)
    assert report.phases["infer"].staged_bytes == 4 * (6 * 5 + 3 * 5)
    assert report.phases["train"].copied_bytes == 0
    assert "net thread" in str(report)


def test_one_module_in_several_threads() -> None:
    net = compile_thread("cpu")
    data = [batch(seed=seed) for seed in range(4)]
    expected = [net.eval(d)["logits"] for d in data]
    wrong: list[int] = []

    def work(k: int) -> None:
        results = [net.eval(data[k])["logits"] for _ in range(50)]
        wrong.extend(k for result in results if not np.array_equal(result, expected[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_double_precision() -> None:
    net = compile_thread("cpu", dtype="f64")
    data = batch()
    wide = {name: v.astype(np.float64) if v.dtype == np.float32 else v for name, v in data.items()}
    assert net.forward(wide)["logits"].dtype == np.float64
    assert "holds float32, but the net takes float64" in error_of(net.forward, data)


def test_unknown_options_are_explained() -> None:
    assert error_of(compile_thread, "cup") == (
        "error: no target `cup`; there are `cpu`, `cuda`, `reference`\nhelp: did you mean `cpu`?"
    )
    assert "no dtype `f16`" in error_of(compile_thread, dtype="f16")
    assert "no blob `hx`" in error_of(compile_thread, keep=["hx"])


def test_warnings_of_the_language_are_warnings_of_python() -> None:
    with pytest.warns(concatc.ConcatcWarning, match="input `b` is not used"):
        concatc.compile_source("net f(n = 2) { input a: f32[n]; input b: f32[n]; output relu(a) as y }")


def test_several_optimizers_and_forward_in_any_order() -> None:
    net, reference = compile_thread("cpu"), compile_thread("reference")
    adam, sgd = concatc.Adam(0.01), concatc.SGD(0.1)
    others = {adam: concatc.Adam(0.01), sgd: concatc.SGD(0.1)}
    for optimizer in (adam, sgd, adam):
        net.train_step(batch(), optimizer=optimizer)
        reference.train_step(batch(), optimizer=others[optimizer])
        assert net.forward(batch())["loss"] == pytest.approx(reference.forward(batch())["loss"], rel=1e-5)
        net.backward()
        net.step(sgd)
        reference.backward()
        reference.step(others[sgd])
    for name, value in reference.params.items():
        np.testing.assert_allclose(net.params[name], value, atol=1e-5)


STATEFUL = """
net stateful(n = 4) {
    input x: f32[n, 3]
    y = x |> linear(5) @fc |> batch_norm @norm |> linear(2) @top
    loss mean(square(y))
}
"""


@pytest.mark.parametrize("recompute", ["none", "max"])
@pytest.mark.parametrize("held", [False, True], ids=["taken after forward", "held before"])
def test_writes_through_views_make_backward_stale(held: bool, recompute: str) -> None:
    net = concatc.compile_source(STATEFUL, target="reference", recompute=recompute)
    x = np.ones((4, 3), np.float32)
    for kind, name in (("params", "fc.weight"), ("states", next(iter(net.states)))):
        array = getattr(net, kind)[name] if held else None
        net.forward(x=x)
        if array is None:
            array = getattr(net, kind)[name]
        array[..., 0] += 1
        message = error_of(net.backward)
        assert f"`{name}` changed after forward()" in message
        net.forward(x=x)
        array[...] = array.copy()  # the same bytes
        net.backward()


def test_only_what_was_handed_out_is_summed() -> None:
    net = concatc.compile_source(STATEFUL, target="reference")
    assert len(net.params) and list(net.states)
    net.forward(x=np.ones((4, 3), np.float32))
    assert net._generations.watch._arrays == {}
    _ = net.params["fc.bias"]
    assert list(net._generations.watch._arrays) == ["parameter `fc.bias`"]


@pytest.mark.parametrize("seed", [1.5, True, "1", None])
def test_seeds_are_whole_numbers(seed: object) -> None:
    net = compile_thread()
    before = net.params["logits.weight"].copy()
    assert "a seed is a whole number" in error_of(net.init, seed)
    assert np.array_equal(net.params["logits.weight"], before)
    net.init(np.int64(3))


@pytest.mark.parametrize("target", TARGETS)
def test_eval_gives_the_outputs_of_inference(target: str) -> None:
    body = "net f(n = 2) {{ input x: f32[n, 3]; p = linear(x, 2); loss mean(square(p)) as l; {} }}"
    x = np.ones((2, 3), np.float32)
    net = concatc.compile_source(body.format("if not train { output p }"), target=target)
    assert list(net.outputs) == ["p"] and not net.signature.outputs
    assert net.eval(x=x)["p"].shape == (2, 2)
    assert set(net.forward(x=x)) == {"loss", "l"}
    assert "infer" in net.memory.phases
    net = concatc.compile_source(body.format("if train { output p }"), target=target)
    assert net.forward(x=x)["p"].shape == (2, 2)
    assert "net f has no outputs in inference" in error_of(net.eval, x=x)
    assert net.outputs == {} and list(net.memory.phases) == ["train"]
