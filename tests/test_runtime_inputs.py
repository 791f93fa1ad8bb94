"""What a compiled module takes: arrays of any layout and batch size, and what it says about wrong ones."""

from __future__ import annotations

import numpy as np
import pytest

import concatc
from concatc.runtime import bounds
from tests.thread_module import TARGETS, batch, compile_thread, error_of


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


def test_one_array_is_no_mapping_of_inputs() -> None:
    net = compile_thread()
    for call in (net.forward, net.eval, net.train_step):
        assert "as one mapping, not as a ndarray" in error_of(call, np.zeros((6, 5), np.float32))


def test_plain_lists_take_the_type_of_the_input() -> None:
    net = concatc.compile_source(
        "net f(n = 2) { input x: f32[n, 2]; input i: i32[n]; output x + x as y; output i as j }", target="reference"
    )
    out = net.eval(x=[[1, 2], [3, 4.5]], i=[1, 2])
    assert out["y"].dtype == np.float32 and out["y"][1, 1] == 9


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("i", [1.5, 2], "it holds 1.5, and whole numbers are needed"),
        ("i", [True, False], "it holds True, which is no number"),
        ("i", [2**31, 0], "it holds 2147483648, which is beyond int32"),
        ("i", [np.int64(1), 2], "it holds int64"),
        ("i", ["1", "2"], "it holds a str, which is no number"),
        ("x", [[1, 2], [1e300, 4]], "it holds 1e+300, which is beyond float32"),
        ("x", [[1, 2], [10**400, 4]], "it holds a number, which is beyond float32"),
        ("x", [[1, 2], [False, 4]], "it holds False, which is no number"),
        ("x", [[1, 2], [None, 4]], "it holds a NoneType, which is no number"),
        ("x", [np.zeros(2), np.zeros(2)], "it holds float64"),
        ("x", [[1, 2], [3]], "its rows are of different lengths"),
    ],
)
def test_lists_are_taken_as_strictly_as_arrays(name: str, given: object, said: str) -> None:
    net = concatc.compile_source(
        "net f(n = 2) { input x: f32[n, 2]; input i: i32[n]; output x + x as y; output i as j }", target="reference"
    )
    good = {"x": [[1, float("inf")], [3, float("nan")]], "i": (1, 2)}
    assert net.eval(good)["j"].tolist() == [1, 2]
    kind = "f32[n=2, 2]" if name == "x" else "i32[n=2]"
    assert error_of(net.eval, {**good, name: given}) == f"error: input `{name}`: {said}\nhelp: give an array of {kind}"


def test_masks_are_not_ignored() -> None:
    net = compile_thread()
    data = batch()
    data["a"] = np.ma.masked_array(data["a"], mask=data["a"] > 0)
    error = error_of(net.forward, data)
    assert "input `a`: a net reads every element, also those that a mask hides; array.filled(value)" in error
    assert net.forward({**data, "a": data["a"].filled(0.0)})["loss"] > 0
    weight = np.ma.masked_array(net.params["ha.weight"], mask=True)
    with pytest.raises(concatc.UsageError, match=r"parameter `ha\.weight`: a net reads every element"):
        net.params["ha.weight"] = weight


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
        "note: `k` is part of its axis 1, which is 3 here and 4 then\n"
        "help: compile with dims={'k': 4}"
    )
    net = concatc.compile_source(
        "net f(n = 2) { input x: f32[n, 3]; input y: f32[n, 3]; output x + y as z }", target="reference"
    )
    zeros = {"x": np.zeros((4, 3), np.float32), "y": np.zeros((5, 3), np.float32)}
    assert error_of(net.eval, zeros) == "error: n is 4 by axis 0 of `x`, but 5 by axis 0 of `y`"


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
    monkeypatch.setattr("concatc.runtime.plans.MAX_PLANS", 3)
    net = compile_thread()
    sizes = [4, 5, 6, 7, 8, 4]
    outs = [net.eval(batch(x))["logits"] for x in sizes]
    assert len(net._plans.instances) == 3
    assert np.array_equal(outs[0], outs[-1])


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
