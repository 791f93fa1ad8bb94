"""The compiled module: running, gradients, inputs and their errors, memory, threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import concatc
from concatc.runtime import bounds

THREAD = """
net thread(x = 6, y = 3, classes = 4) {
    input a: f32[x, 5]
    input b: f32[y, 5]
    input label: i32[x + y]
    ha = a |> linear(8) |> relu
    hb = b |> linear(8) |> relu
    h = concat(ha, hb, axis=0)
    logits = linear(h, classes)
    loss softmax_loss(logits, label)
    output logits
}
"""
TWO_LOSSES = """
net two(n = 4) {
    input x: f32[n, 3]
    input t: f32[n, 2]
    y = linear(x, 2)
    z = linear(x, 2)
    loss mse_loss(y, t) as main
    loss mse_loss(z, t) weight 0.5 as aux
}
"""
TARGETS = ("reference", "cpu")


def compile_thread(target: str = "reference", **options: object) -> concatc.CompiledModule:
    net = concatc.compile_source(THREAD, filename="thread.cnet", target=target, **options)  # type: ignore[arg-type]
    net.init(seed=3)
    return net


def batch(x: int = 6, y: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(size=(x, 5)).astype(np.float32),
        "b": rng.normal(size=(y, 5)).astype(np.float32),
        "label": rng.integers(0, 4, size=x + y).astype(np.int32),
    }


def error_of(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(concatc.ConcatcError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return str(caught.value)


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


def test_all_wrong_inputs_are_named_at_once() -> None:
    net = compile_thread()
    wrong = {"a": np.zeros((6, 5)), "labels": np.zeros(9, np.int32), "b": np.zeros(5, np.float32)}
    assert error_of(net.forward, wrong) == (
        "error: input `a` holds float64, but the net takes float32\n"
        "help: a.astype(np.float32) converts it\n"
        "error: unknown input `labels`\n"
        "help: did you mean `label`?\n"
        "error: missing input `label`: i32[9]\n"
        "error: input `b` has shape [5], but the net takes f32[y=3, 5]"
    )
    assert error_of(net.forward, a="text", b=object(), label=[0.5] * 9).count("error:") == 3


def test_plain_lists_take_the_type_of_the_input() -> None:
    net = concatc.compile_source(
        "net f(n = 2) { input x: f32[n, 2]; input i: i32[n]; output x + x as y; output i as j }", target="reference"
    )
    out = net.eval(x=[[1, 2], [3, 4.5]], i=[1, 2])
    assert out["y"].dtype == np.float32 and out["y"][1, 1] == 9
    assert "does not convert to i32" in error_of(net.eval, x=[[1, 2], [3, 4]], i=[1.5, 2])


def test_arrays_of_any_layout_are_taken() -> None:
    net = compile_thread("cpu")
    data = batch()
    expected = net.forward(data)["logits"]
    strided = {name: np.repeat(value, 2, axis=0)[::2] for name, value in data.items()}
    strided["a"] = np.asfortranarray(strided["a"])
    assert not strided["label"].flags.c_contiguous
    assert np.array_equal(net.forward(strided)["logits"], expected)


def test_labels_out_of_range_name_the_input_and_the_place() -> None:
    net = compile_thread("cpu")
    data = batch()
    data["label"][4] = 4
    assert error_of(net.forward, data) == (
        "error: input `label` holds 4 at [4], but must hold 0 to 3\nnote: it indexes softmax_loss at thread.cnet:10:10"
    )
    data["label"][7] = -1
    assert "holds 4 at [4], but must hold 0 to 3 (2 elements are out of range)" in error_of(net.forward, data)
    net.eval(data)  # inference does not read labels


def test_labels_are_followed_through_slices() -> None:
    net = concatc.compile_source(
        """
        net parts(n = 2) {
            input x: f32[n, 3]
            input label: i32[2 * n]
            few, many = slice(label, axis=0, at=[n])
            loss softmax_loss(linear(x, 2) @few, few) as few
            loss softmax_loss(linear(x, 9) @many, many, ignore=-1) as many
        }
        """,
        target="reference",
    )
    x = np.zeros((2, 3), np.float32)
    net.forward(x=x, label=np.int32([1, 0, 8, -1]))
    assert "holds 2 at [1], but must hold 0 to 1" in error_of(net.forward, x=x, label=np.int32([1, 2, 8, -1]))
    assert "holds 9 at [2], but must hold 0 to 8 or -1 (ignored)" in error_of(
        net.forward, x=x, label=np.int32([1, 0, 9, -1])
    )


@pytest.mark.parametrize("target", TARGETS)
def test_other_batch_sizes_share_parameters(target: str) -> None:
    net = compile_thread(target)
    small, large = batch(), batch(8, 5, seed=1)
    expected = net.eval(small)["logits"]
    assert net.eval(large)["logits"].shape == (13, 4)
    assert np.array_equal(net.eval(small)["logits"], expected)
    reference = compile_thread("reference")
    loss = net.train_step(large)["loss"]
    assert loss == pytest.approx(reference.train_step(large)["loss"], rel=1e-6)
    for name, grad in net.grads.items():
        np.testing.assert_allclose(grad, reference.grads[name], atol=1e-6)


def test_batch_sizes_that_do_not_fit_are_explained() -> None:
    net = compile_thread()
    data = batch() | {"a": np.zeros((7, 5), np.float32)}
    assert error_of(net.forward, data) == (
        "error: input `label` has shape [9], but the net takes i32[10]\nnote: with x=7, y=3"
    )
    net = concatc.compile_source(
        "net f(n = 2, k = 3) { input x: f32[n, k]; output linear(x, 2) as y }", filename="f.cnet", target="reference"
    )
    assert error_of(net.eval, x=np.zeros((2, 4), np.float32)) == (
        "error: the arrays given mean k=4, "
        "but parameter `linear.weight` is tensor<2x4xf32> then and tensor<2x3xf32> here\n"
        "help: compile with dims={'k': 4}"
    )
    net = concatc.compile_source(
        "net f(n = 2) { input x: f32[n, 3]; input y: f32[n, 3]; output x + y as z }", target="reference"
    )
    zeros = {"x": np.zeros((4, 3), np.float32), "y": np.zeros((5, 3), np.float32)}
    assert error_of(net.eval, zeros) == "error: n is 4 by axis 0 of `x`, but 5 by axis 0 of `y`"


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
    from concatc.ir.types import TensorType
    from concatc.runtime.init import initial_value

    type = TensorType((200, 300))
    # 60,000 samples: the standard error of a mean is std/245, of a standard deviation about std/346
    for init, mean, std in (
        ("gaussian(1.0, 2.0)", 1.0, 2.0),
        ("uniform(-1.0, 3.0)", 1.0, 4 / 12**0.5),
        ("xavier()", 0.0, (1 / 300) ** 0.5),
        ("msra()", 0.0, (2 / 300) ** 0.5),
    ):
        value = initial_value(init, type, "w", seed=0)
        assert abs(value.mean() - mean) < 5 * std / 245
        assert abs(value.std() / std - 1) < 5 / 346
    assert np.array_equal(initial_value("constant(0.5)", type, "w", 0), np.full((200, 300), 0.5))
    assert initial_value("msra()", TensorType((0, 3)), "w", 0).shape == (0, 3)
    with pytest.raises(concatc.ConcatcError, match="no way to start"):
        initial_value("magic()", type, "w", 0)


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
        "error: no target `cup`; there are `cpu`, `reference`\nhelp: did you mean `cpu`?"
    )
    assert "no dtype `f16`" in error_of(compile_thread, dtype="f16")
    assert "no blob `hx`" in error_of(compile_thread, keep=["hx"])


@pytest.mark.peers
def test_torch_tensors_are_taken_without_a_copy_of_ours() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra `peers`)")
    net = compile_thread("cpu")
    data = batch()
    tensors = {name: torch.from_numpy(value) for name, value in data.items()}
    tensors["a"].requires_grad_()
    assert np.array_equal(net.forward(tensors)["logits"], net.forward(data)["logits"])
    assert "holds int64, but the net takes int32" in error_of(net.forward, tensors | {"label": tensors["label"].long()})


def test_plans_of_many_batch_sizes_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concatc.runtime.module.MAX_PLANS", 3)
    net = compile_thread()
    sizes = [4, 5, 6, 7, 8, 4]
    outs = [net.eval(batch(x))["logits"] for x in sizes]
    assert len(net._instances) == 3
    assert np.array_equal(outs[0], outs[-1])


def test_warnings_of_the_language_are_warnings_of_python() -> None:
    with pytest.warns(concatc.ConcatcWarning, match="input `b` is not used"):
        concatc.compile_source("net f(n = 2) { input a: f32[n]; input b: f32[n]; output relu(a) as y }")


def test_forward_after_training_at_other_sizes() -> None:
    net, optimizer = compile_thread("cpu"), concatc.SGD(0.1, momentum=0.9)
    small, large = batch(), batch(50, 40)
    net.train_step(small, optimizer=optimizer)
    net.train_step(large, optimizer=optimizer)  # the pool grows: the plan for small batches must find its memory again
    net.forward(small)
    grads = {name: grad.copy() for name, grad in net.backward().items()}
    reference = compile_thread("reference")
    for name, value in net.params.items():
        reference.params[name] = value
    reference.train_step(small)
    for name, grad in reference.grads.items():
        np.testing.assert_allclose(grads[name], grad, atol=1e-6)


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


WEIGHTED_BY_DIMS = """
net shares(x = 3, y = 1) {
    input a: f32[x, 4]
    input b: f32[y, 4]
    loss mean(a) weight x / (x + y) as la
    loss mean(b) weight y / (x + y) as lb
}
"""


@pytest.mark.parametrize("target", TARGETS)
def test_loss_weights_that_depend_on_dims_follow_the_arrays(target: str) -> None:
    net = concatc.compile_source(WEIGHTED_BY_DIMS, target=target)
    few, many = np.ones((1, 4), np.float32), np.zeros((3, 4), np.float32)
    assert net.forward(a=few, b=many)["loss"] == pytest.approx(0.25)
    assert net.forward(a=np.ones((3, 4), np.float32), b=many[:1])["loss"] == pytest.approx(0.75)
    net.loss_weights["la"] = 0.1
    assert net.forward(a=few, b=many + 1)["loss"] == pytest.approx(0.1 + 0.75)
    assert dict(net.loss_weights) == {"la": 0.1, "lb": 0.25}


def test_multipliers_that_depend_on_dims_are_not_those_of_other_dims() -> None:
    text = "net f(n = 4) {\n input x: f32[n, 3]\n y = linear(x, 2, weight_lr=n / 4)\n loss mean(square(y))\n}\n"
    net = concatc.compile_source(text, target="reference")
    optimizer = concatc.SGD(lr=0.1)
    net.train_step(x=np.ones((4, 3), np.float32), optimizer=optimizer)
    weight = net.params["y.weight"].copy()
    message = error_of(net.train_step, x=np.ones((8, 3), np.float32), optimizer=optimizer)
    assert "`y.weight` learns with lr=2" in message
    assert np.array_equal(net.params["y.weight"], weight)
    net.train_step(x=np.ones((8, 3), np.float32))  # gradients alone need no multipliers
    assert "`y.weight` learns with lr=2" in error_of(net.step, optimizer)


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
    assert net._watch._arrays == {}
    _ = net.params["fc.bias"]
    assert list(net._watch._arrays) == ["parameter `fc.bias`"]


@pytest.mark.parametrize("seed", [1.5, True, "1", None])
def test_seeds_are_whole_numbers(seed: object) -> None:
    net = compile_thread()
    before = net.params["logits.weight"].copy()
    assert "a seed is a whole number" in error_of(net.init, seed)
    assert np.array_equal(net.params["logits.weight"], before)
    net.init(np.int64(3))


@pytest.mark.parametrize(
    "index, message",
    [
        ("concat(idx, iota(4), axis=0)", "input `idx` holds 10 at [3], but must hold 0 to 9"),
        ("concat(iota(4), held, axis=0)", "state `held` holds 10 at [3], but must hold 0 to 9"),
        ("late", "input `idx` holds 10 at [3]"),
        ("concat(idx, iota(11), axis=0)", "result of `iota` holds 10 at [10], but must hold 0 to 9"),
    ],
)
def test_indices_are_followed_to_all_that_they_are_made_of(index: str, message: str) -> None:
    net = concatc.compile_source(
        f"""
        net f(n = 4) {{
            input idx: i32[n]
            input x: f32[n, 8]
            state held: i32[n] = constant(3)
            early, late = slice(concat(held, idx, axis=0), axis=0, at=[n])
            e = embedding({index}, 10, dim=8)
            loss mean(square(e)) as l
            output e
            output x
        }}
        """,
        target="reference",
    )
    x = np.zeros((4, 8), np.float32)
    good, bad = np.int32([0, 9, 1, 2]), np.int32([0, 9, 1, 10])
    fine = "iota(11)" not in index
    for call in (net.forward, net.eval):
        if fine:
            call(x=x, idx=good)
        net.states["held"][3] = 10
        assert message in error_of(call, x=x, idx=bad)
        net.states["held"][3] = 3


def test_indices_that_cannot_be_followed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "VIEWS", ("slice",))
    net = concatc.compile_source(
        "net f(n = 4) { input i: i32[n]; output embedding(concat(i, i, axis=0), 9, dim=2) as e }", target="reference"
    )
    message = error_of(net.eval, i=np.int32([1, 2, 3, 4]))
    assert "an index of embedding is computed by concat, so it cannot be checked" in message


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
