"""Wrong calls of the Python interface are a UsageError that says what is wanted, never a TypeError from inside."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import concatc

NET = """net small(n = 2) {
    input a: f32[n, 3]
    input label: i32[n]
    hidden = a |> linear(4) |> relu
    y = linear(hidden, 3)
    loss softmax_loss(y, label) @main
    output y
}
"""


def compiled(**options: Any) -> concatc.CompiledModule:
    return concatc.compile_source(NET, target="reference", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 3}, "keep must be names of blobs"),
        ({"keep": [3]}, "keep must be names of blobs"),
        ({"keep": None}, "keep must be names of blobs"),
        ({"dims": [1]}, "dims must be a dict"),
        ({"dims": 3}, "dims must be a dict"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(concatc.UsageError, match=message):
        compiled(**options)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_modules_are_not_copied(copied: Callable[[object], object]) -> None:
    with pytest.raises(concatc.UsageError) as error:
        copied(compiled())
    assert str(error.value) == (
        "error: a compiled module is native code on memory of its own: it is neither copied nor pickled\n"
        "help: compile the net again where it is needed, and carry its values over with save() and load()"
    )


@pytest.mark.parametrize("path", [None, 3, b"net.cnet"])
def test_paths(path: Any) -> None:
    for call in (concatc.compile, concatc.load):
        with pytest.raises(concatc.UsageError, match="must be a path, not"):
            call(path)
    with pytest.raises(concatc.UsageError, match="text must be the text of a net, not"):
        concatc.compile_source(path)


@pytest.mark.parametrize("seed", ["a", None, 1.5, -1])
def test_seeds(seed: Any) -> None:
    with pytest.raises(concatc.UsageError, match="a seed is"):
        compiled().init(seed=seed)


@pytest.mark.parametrize("weight", ["a", None, float("nan"), True])
def test_loss_weights(weight: Any) -> None:
    net = compiled()
    (name,) = net.loss_weights
    with pytest.raises(concatc.UsageError, match="must be a finite number"):
        net.loss_weights[name] = weight
    net.loss_weights[name] = np.float32(0.5)
    assert net.loss_weights[name] == 0.5


def test_a_blob_that_the_net_does_not_have() -> None:
    net = compiled()
    with pytest.raises(concatc.UsageError, match=r"the bytes of `hidden` are reused within a step"):
        net.blobs["hidden"]
    with pytest.raises(concatc.UsageError, match=r"the net has no blob `hiden`(.|\n)*did you mean `hidden`") as error:
        net.blobs["hiden"]
    assert "keep" not in str(error.value)


def test_unknown_inputs_name_each_input_once() -> None:
    net = compiled()
    with pytest.raises(concatc.UsageError, match=r"help: the net takes `a`, `label`$"):
        net.eval(a=np.zeros((2, 3), np.float32), zzzzzz=1)
