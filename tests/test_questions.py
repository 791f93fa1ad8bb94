"""The three questions against PyTorch, and the example that trains on digits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc

EXAMPLES = Path(__file__).parent.parent / "examples"
TARGETS = ("reference", "cpu")


def data(x: int = 64, y: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    label = rng.integers(0, 10, size=x + y).astype(np.int32)
    return {"a": rng.normal(size=(x, 64)), "b": rng.normal(size=(y, 64)), "label": label}


def run(name: str, inputs: dict[str, np.ndarray], target: str, **options: Any) -> concatc.CompiledModule:
    net = concatc.compile(EXAMPLES / name, target=target, dtype="f64", **options)
    net.init(seed=5)
    net.forward(inputs)
    net.backward()
    return net


def torch_parameters(net: concatc.CompiledModule, torch: Any) -> dict[str, Any]:
    return {name: torch.tensor(np.array(p), requires_grad=True) for name, p in net.params.items()}


def branch(x: Any, p: dict[str, Any], name: str) -> Any:
    return (x @ p[f"{name}.weight"].T + p[f"{name}.bias"]).relu()


def assert_gradients(net: concatc.CompiledModule, p: dict[str, Any]) -> None:
    for name, grad in net.grads.items():
        theirs = p[name].grad.numpy()
        np.testing.assert_allclose(grad, theirs, rtol=0, atol=1e-12 * max(1.0, np.abs(theirs).max()), err_msg=name)


@pytest.mark.peers
@pytest.mark.parametrize("target", TARGETS)
def test_question_1_branches_get_their_slices_as_in_torch(target: str) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra `peers`)")
    inputs = data()
    net = run("thread.cnet", inputs, target, keep=["h", "ha", "hb"])
    p = torch_parameters(net, torch)
    ha, hb = branch(torch.tensor(inputs["a"]), p, "ha"), branch(torch.tensor(inputs["b"]), p, "hb")
    h = torch.cat([ha, hb])
    for blob in (h, ha, hb):
        blob.retain_grad()
    logits = h @ p["logits.weight"].T + p["logits.bias"]
    torch.nn.functional.cross_entropy(logits, torch.tensor(inputs["label"]).long()).backward()
    assert_gradients(net, p)
    for name, blob in (("h", h), ("ha", ha), ("hb", hb)):
        np.testing.assert_allclose(net.blobs[name].grad, blob.grad.numpy(), rtol=0, atol=1e-14)
    assert np.array_equal(net.blobs["ha"].grad, net.blobs["h"].grad[:64])
    assert np.array_equal(net.blobs["hb"].grad, net.blobs["h"].grad[64:])


@pytest.mark.peers
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weights", [(2 / 3, 1 / 3), (1.0, 1.0)])
def test_question_2_two_losses_as_in_torch(target: str, weights: tuple[float, float]) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra `peers`)")
    inputs = data()
    net = concatc.compile(EXAMPLES / "two_losses.cnet", net="separate", target=target, dtype="f64")
    net.init(seed=5)
    net.loss_weights.update(zip(("left", "right"), weights, strict=True))
    net.forward(inputs)
    net.backward()
    p = torch_parameters(net, torch)
    label = torch.tensor(inputs["label"]).long()
    ha, hb = branch(torch.tensor(inputs["a"]), p, "ha"), branch(torch.tensor(inputs["b"]), p, "hb")
    losses = [
        torch.nn.functional.cross_entropy(h @ p["fc.weight"].T + p["fc.bias"], part)
        for h, part in ((ha, label[:64]), (hb, label[64:]))
    ]
    (weights[0] * losses[0] + weights[1] * losses[1]).backward()
    assert_gradients(net, p)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("x", "y"), [(64, 32), (5, 3), (1, 7)])
def test_question_2_weights_make_both_forms_equal(target: str, x: int, y: int) -> None:
    inputs = data(x, y)
    joined, separate = (
        run("two_losses.cnet", inputs, target, net=name, dims={"x": x, "y": y}) for name in ("joined", "separate")
    )
    for name, grad in joined.grads.items():
        np.testing.assert_allclose(separate.grads[name], grad, rtol=0, atol=1e-14, err_msg=name)


@pytest.mark.peers
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_question_3_a_blob_joined_with_itself_as_in_torch(target: str, reduction: str) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch (the extra `peers`)")
    inputs = {"a": data()["a"], "label": data()["label"][:64]}
    net = run("self_concat.cnet", inputs, target, net="twice", dims={"reduction": reduction})
    p = torch_parameters(net, torch)
    ha = branch(torch.tensor(inputs["a"]), p, "ha")
    logits = torch.cat([ha, ha]) @ p["logits.weight"].T + p["logits.bias"]
    label = torch.tensor(inputs["label"]).long()
    torch.nn.functional.cross_entropy(logits, torch.cat([label, label]), reduction=reduction).backward()
    assert_gradients(net, p)


def test_digits_are_learned_in_under_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path))  # compilation is part of the time
    done = subprocess.run(
        [sys.executable, EXAMPLES / "train_digits.py"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    last_epoch, summary = done.stdout.splitlines()[-2:]
    accuracy = re.search(r"held-out accuracy ([\d.]+) %", last_epoch)
    seconds = re.search(r"tested on 360 in ([\d.]+) s", summary)
    assert accuracy is not None and float(accuracy[1]) >= 96
    assert seconds is not None and float(seconds[1]) < 60
