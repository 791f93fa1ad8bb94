"""What a caller says about gradients: parameters without one (``freeze``), gradients of outputs (``output_grads``)."""

from __future__ import annotations

import numpy as np
import pytest

import concatc
from tests.thread_module import TARGETS, batch, compile_thread, error_of

# Two outputs of branches that share a parameter; one of them is joined, and read on by a loss.
NET = """
net joined(x = 3, y = 2) {
    input a: f32[x, 4]
    input b: f32[y, 4]
    input label: i32[x + y]
    layer shared = linear(5)
    ha = shared(a) |> tanh
    hb = shared(b) |> tanh
    h = concat(ha, hb, axis=0)
    z = linear(h, 3) @head
    loss softmax_loss(z, label) weight 0.5
    output z
    output h
    output ha
}
"""
NO_LOSS = """
net features(n = 4) {
    input x: f32[n, 3]
    left = x |> linear(2) |> sigmoid
    y = concat(left, left, axis=1)
    output y
}
"""


def data_of_joined(dtype: type = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    arrays = {"a": rng.normal(size=(3, 4)).astype(dtype), "b": rng.normal(size=(2, 4)).astype(dtype)}
    return arrays | {"label": np.array([0, 1, 2, 1, 0], np.int32)}


def joined(target: str, **options: object) -> concatc.CompiledModule:
    net = concatc.compile_source(NET, target=target, dtype="f64", **options)  # type: ignore[arg-type]
    net.init(seed=2)
    return net


def grads_of_outputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {"z": rng.normal(size=(5, 3)), "h": rng.normal(size=(5, 5)), "ha": rng.normal(size=(3, 5))}


@pytest.mark.parametrize("target", TARGETS)
def test_output_grads_agree_with_finite_differences(target: str) -> None:
    net = joined(target, output_grads=True, input_grads=True)
    data, given = data_of_joined(), grads_of_outputs()

    def objective() -> float:
        out = net.forward(data)
        return float(out["loss"] + sum(np.sum(given[name] * out[name]) for name in given))

    net.forward(data)
    grads = {name: grad.copy() for name, grad in net.backward(output_grads=given).items()}
    step = 1e-6
    for name, array in [*net.params.items(), ("a", data["a"]), ("b", data["b"])]:
        for at in np.ndindex(array.shape):
            old = array[at]
            array[at] = old + step
            high = objective()
            array[at] = old - step
            low = objective()
            array[at] = old
            # Central differences of a smooth function: step^2 and rounding, both near 1e-10.
            assert grads[name][at] == pytest.approx((high - low) / (2 * step), rel=1e-6, abs=1e-8), (name, at)


@pytest.mark.peers
@pytest.mark.parametrize("target", TARGETS)
def test_output_grads_agree_with_torch(target: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra `peers`)")
    net = joined(target, output_grads=["z", "h", "ha"])
    data, given = data_of_joined(), grads_of_outputs()
    net.forward(data)
    grads = net.backward(output_grads=given)

    p = {name: torch.tensor(value, requires_grad=True) for name, value in net.params.items()}
    ha, hb = (torch.tanh(torch.tensor(data[n]) @ p["shared.weight"].T + p["shared.bias"]) for n in ("a", "b"))
    h = torch.cat([ha, hb])
    z = h @ p["head.weight"].T + p["head.bias"]
    loss = 0.5 * torch.nn.functional.cross_entropy(z, torch.tensor(data["label"], dtype=torch.int64))
    seeds = [torch.tensor(1.0, dtype=torch.float64), *(torch.tensor(given[name]) for name in ("z", "h", "ha"))]
    torch.autograd.backward([loss, z, h, ha], seeds)
    for name, expected in p.items():
        np.testing.assert_allclose(grads[name], expected.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_a_gradient_is_given_once(target: str) -> None:
    """It counts for the backward pass that it is given to; what is not given is 0, and so it is in a training step."""
    net, plain = joined(target, output_grads=True), joined(target)
    data = data_of_joined()
    plain.forward(data)
    expected = {name: grad.copy() for name, grad in plain.backward().items()}
    net.forward(data)
    net.backward(output_grads=grads_of_outputs())
    net.forward(data)
    np.testing.assert_allclose(net.backward()["shared.weight"], expected["shared.weight"], rtol=1e-12)
    net.forward(data)
    net.backward(output_grads={"h": np.ones((5, 5))})
    net.train_step(data)
    np.testing.assert_allclose(net.grads["shared.weight"], expected["shared.weight"], rtol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_a_net_without_a_loss_is_trained_by_the_gradients_of_its_output(target: str) -> None:
    net = concatc.compile_source(NO_LOSS, target=target, output_grads="y")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    goal = np.full((4, 4), 0.75, np.float32)
    optimizer = concatc.SGD(lr=0.5)
    errors = []
    for _ in range(60):
        y = net.forward(x=x)["y"]
        errors.append(float(np.mean((y - goal) ** 2)))
        net.backward(output_grads={"y": y - goal})
        net.step(optimizer)
    assert errors[-1] < errors[0] / 20
    assert "has no loss" in error_of(lambda: net.train_step(x=x))


def test_output_grads_at_another_batch_size() -> None:
    net = joined("cpu", output_grads=["ha"])
    data = {"a": np.ones((6, 4)), "b": np.ones((1, 4)), "label": np.zeros(7, np.int32)}
    net.forward(data)
    before = net.backward()["shared.bias"].copy()
    out = net.forward(data)
    after = net.backward(output_grads={"ha": np.ones((6, 5))})["shared.bias"]
    np.testing.assert_allclose(after - before, np.sum(1 - out["ha"] ** 2, axis=0), rtol=1e-10)
    net.forward(data)
    assert "is float64[3, 5], but the output is float64[6, 5]" in error_of(
        lambda: net.backward(output_grads={"ha": np.ones((3, 5))})
    )


def test_wrong_gradients_are_explained_all_at_once() -> None:
    net = compile_thread("cpu", output_grads=["logits"])
    net.forward(batch())
    given = {"logit": np.zeros((9, 4)), "logits": np.zeros((9, 4), np.int32)}
    message = error_of(lambda: net.backward(output_grads=given))
    assert "output_grads: the net has no output `logit`\nhelp: did you mean `logits`?" in message
    assert "output_grads: `logits` is int32[9, 4], but the output is float32[9, 4]" in message
    assert "must be a dict" in error_of(lambda: net.backward(output_grads=[1.0]))
    net.backward(output_grads={"logits": np.zeros((9, 4), np.float32)})  # the forward pass was not spent by the errors
    plain = compile_thread("cpu")
    plain.forward(batch())
    assert error_of(lambda: plain.backward(output_grads={"logits": np.zeros((9, 4), np.float32)})) == (
        "error: output_grads: the net was compiled to take no gradient of `logits`\n"
        'help: compile with output_grads=["logits"]'
    )
    assert "no output `q`" in error_of(lambda: compile_thread("cpu", output_grads=["q"]))


@pytest.mark.parametrize("target", TARGETS)
def test_frozen_parameters_stay_and_the_others_get_the_same_gradients(target: str) -> None:
    free, net = compile_thread(target), compile_thread(target, freeze=["ha", "logits.bias"])
    data = batch()
    for module in (free, net):
        module.forward(data)
        module.backward()
    left = ["hb.weight", "hb.bias", "logits.weight"]
    assert list(net.grads) == left
    for name in left:
        np.testing.assert_allclose(net.grads[name], free.grads[name], atol=1e-6)
    before = {name: value.copy() for name, value in net.params.items()}
    for _ in range(3):
        net.train_step(data, optimizer=concatc.Adam())
    changed = [name for name, value in net.params.items() if not np.array_equal(value, before[name])]
    assert changed == left


def test_freezing_is_seen_in_the_graph_and_survives_a_dump(tmp_path: object) -> None:
    text = compile_thread("cpu", freeze="ha").ir("graph")
    frozen = [line for line in text.replace(", %", "\n%").splitlines() if "cnet.lr = 0.0" in line]
    assert [line.split(":")[0].strip() for line in frozen] == ["%ha.weight", "%ha.bias"]
    again = concatc.compile_source(text, filename="edited.mlir", target="reference")
    again.forward(batch())
    assert list(again.backward()) == ["hb.weight", "hb.bias", "logits.weight", "logits.bias"]


def test_what_nothing_trains_is_not_computed() -> None:
    """Behind frozen parameters there is no backward pass: gradients of branches that nobody wants cost nothing."""
    everything = compile_thread("cpu").ir("joint")
    head_only = compile_thread("cpu", freeze=["ha", "hb"]).ir("joint")
    assert "%h.grad" in everything and "%h.grad" not in head_only


def test_unknown_parameters_are_explained() -> None:
    assert error_of(lambda: compile_thread("cpu", freeze=["logit", "x"])).startswith(
        "error: freeze: the net has no parameter `logit`\nhelp: did you mean `logits`?\n"
        "error: freeze: the net has no parameter `x`\nhelp: there are `ha.weight`, "
    )
    assert "freeze must be names of parameters" in error_of(lambda: compile_thread("cpu", freeze=[3]))
    assert "no parameter to train" in error_of(
        lambda: compile_thread("cpu", freeze=["ha", "hb", "logits"]).train_step(batch(), optimizer=concatc.SGD())
    )


def test_a_frozen_parameter_says_why_it_has_no_gradient() -> None:
    text = "net f(n = 2) {\n input x: f32[n, 3]\n loss mean(linear(x, 2) @fc)\n}\n"
    net = concatc.compile_source(text, freeze=["fc.weight"], target="reference")
    with pytest.raises(concatc.UsageError) as error:
        net.grads["fc.weight"]
    assert str(error.value) == (
        "error: parameter `fc.weight` is frozen: it has no gradient\nhelp: `freeze` or `lr=0` says so"
    )
    assert net.grads["fc.bias"].shape == (2,)
