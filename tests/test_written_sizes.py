"""Written modules at other batch sizes: the same code with other numbers, without compiling and without a front end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.artifact import write_module
from concatc.compiler import compile_net
from tests.test_written import NET, OPTIONS, ROOT, at, batch, edited, in_json, pair, same


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written") / "mixed"
    write_module(compile_net(NET, "mixed.cnet", OPTIONS), directory)
    return directory


def rows(arrays: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """The batch cut, or repeated."""
    return {name: np.resize(array, (n, *array.shape[1:])) for name, array in arrays.items()}


@pytest.mark.parametrize("n", [1, 3, 9])
def test_another_batch_size_computes_the_same_bits(written: Path, n: int) -> None:
    compiled, loaded = pair(written)
    at_n = concatc.compile_source(
        NET, filename="mixed.cnet", keep=["h"], input_grads=True, output_grads=["y"], dims={"n": n}
    )
    nets = [compiled.with_dims(n=n), loaded.with_dims(n=n), at_n]
    optimizers = [concatc.SGD(0.1, momentum=0.9) for _ in nets]
    for net in nets:
        net.init(seed=2)
    forward = [net.forward(rows(batch(), n)) for net in nets]
    backward = [net.backward() for net in nets]
    steps = [
        [net.train_step(rows(batch(seed), n), optimizer=optimizer) for seed in range(2)]
        for net, optimizer in zip(nets, optimizers, strict=True)
    ]
    after = [net.eval(rows(batch(), n)) for net in nets]
    for other in (0, 2):
        assert same(forward[1], forward[other]) and same(backward[1], backward[other])
        assert steps[1] == steps[other] and same(after[1], after[other])
    assert same(nets[1].params, loaded.params)  # shared
    assert same(loaded.eval(rows(batch(), n)), after[1])  # arrays of that size do the same


def test_another_batch_size_needs_no_front_end_and_compiles_nothing(written: Path, tmp_path: Path) -> None:
    script = (
        "import sys, numpy as np, concatc\n"
        f"net = concatc.load({str(written)!r}).with_dims(n=7)\n"
        "x, ids, label = np.ones((7, 2, 4, 4), np.float32), np.ones((7, 2), np.int32), np.zeros(7, np.int32)\n"
        "net.train_step(x=x, ids=ids, label=label)\n"
        "unwanted = [n for n in ('lark', 'numba', 'concatc.frontend') if n in sys.modules]\n"
        "print(net.eval(x=x, ids=ids)['y'].shape, unwanted)"
    )
    environment = {**os.environ, "CONCATC_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(7, 3) []\n", done.stderr
    assert not (tmp_path / "cache").exists()  # where object code would lie


def test_labels_are_checked_at_another_batch_size(written: Path) -> None:
    net = concatc.load(written).with_dims(n=6)
    wrong = rows(batch(), 6)
    wrong["ids"][5] = [5, 0]
    with pytest.raises(concatc.UsageError, match=r"input `ids` holds 5 at \[5, 0\], but must hold 0 to 4"):
        net.forward(wrong)


def test_other_dims_are_refused(written: Path) -> None:
    net = concatc.load(written)
    with pytest.raises(concatc.UsageError, match="the module was written for n=4, classes=3"):
        net.with_dims(classes=4)
    with pytest.raises(concatc.UsageError, match="`n` is 0, but a written module runs batches of 1 or more"):
        net.with_dims(n=0)
    for size in (2.5, -1):
        with pytest.raises(concatc.UsageError) as caught:
            net.with_dims(n=size)
        assert str(caught.value).startswith(
            f"error: with_dims means n={size}, which is refused\n"
            f"error: `n` is {size}, but a written module runs batches of 1 or more rows"
        )
    with pytest.raises(concatc.UsageError, match="net mixed has no dim `m`"):
        net.with_dims(m=4)
    with pytest.raises(concatc.UsageError, match="holds its plan and levels for its own dims only"):
        _ = net.with_dims(n=5).memory.phases["train"].plan


def test_a_net_that_decides_by_its_batch_size_says_why_it_is_fixed(tmp_path: Path) -> None:
    text = "net f(n = 4) { input x: f32[n, 3]; y = relu(x) if n > 2 else tanh(x); output linear(y, 2) as z }"
    write_module(compile_net(text, "f.cnet"), tmp_path / "f")
    net = concatc.load(tmp_path / "f")
    assert net.eval(x=np.ones((4, 3), np.float32))["z"].shape == (4, 2)
    with pytest.raises(concatc.UsageError) as caught:
        net.eval(x=np.ones((5, 3), np.float32))
    message = str(caught.value)
    assert "the module was written for n=4" in message and "the net decides something by its batch size" in message


def put(data: Any, value: Any, *path: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


WRONG_SIZES = [
    lambda text: text[:-9],
    lambda text: "[]",
    lambda text: "{}",
    at("graph", "here", value={"n": 5}),
    # What is not known is asked of the graph, which must be that of the net.
    in_json(lambda data: (data.update(known=None), put(data, 9, "graph", "numbers", "constant", "array", 0))),
    at("graph", "numbers", "constant", "shape", value=[3]),
    at("known", value=[[0], [9]]),
    at("known", value=[[1], [3]]),
    at("known", value=[[1], [9.0]]),
    at("known", value=[[1, 1], [9, 9]]),
    in_json(lambda data: data.pop("known")),
    at("slots", "fixed", value={}),
    at("slots", "slots", 0, 3, value=7),
    at("slots", "slots", 0, 3, value=0),
    at("layout", "order", value=[10**6]),
    at("step", "offsets", "array", 0, value=10**9),
    at("step", "numbers", "constant", "array", 0, value=1),
    in_json(lambda data: data["step"].pop("chunk")),
]


@pytest.mark.parametrize("edit", WRONG_SIZES, ids=range(len(WRONG_SIZES)))
def test_wrong_data_of_other_sizes_is_one_error(written: Path, tmp_path: Path, edit: Callable[[str], str]) -> None:
    directory = edited(written, tmp_path, "train/sizes.json", edit)
    net = concatc.load(directory)
    net.train_step(batch())
    with pytest.raises(concatc.UsageError, match=r"sizes\.json is damaged: it is not of this net"):
        net.with_dims(n=7)
    net.train_step(batch())
