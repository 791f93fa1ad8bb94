"""What ``with_dims`` refuses, and dims that are not sizes of one code: the net is compiled for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import concatc
from concatc.diagnostics import UsageError
from tests.sized_nets import assert_close, copy_values, inputs_of, results_of, small

pytestmark = pytest.mark.usefixtures("sizes_cache")


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


@pytest.mark.parametrize("n", [2**50, 2**58, 2**70], ids=["2^50", "2^58", "2^70"])
def test_sizes_that_no_machine_holds_are_an_error(n: int) -> None:
    """Numbers of more than 62 bits are found when the net is made, others when memory is asked for."""
    with pytest.raises(UsageError, match=r"the net does not compile with that|no memory"):
        small().with_dims(n=n).profile()


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


def test_a_size_beyond_memory_can_be_asked_for_but_not_run() -> None:
    net = small()
    net.train_step(inputs_of(net))
    huge = net.with_dims(n=1 << 40)
    assert huge.memory.phases["train"].bases["inputs"] > 1 << 40
    with pytest.raises(UsageError, match=r"no memory for .* TiB of inputs, outputs and arena: .* are free") as error:
        huge.profile()
    assert f"training of net small(n={1 << 40}" in str(error.value) and "TiB in all" in str(error.value)
    net.train_step(inputs_of(net))


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
