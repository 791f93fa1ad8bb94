"""Rows of a data file as batches for branches of different sizes."""

from __future__ import annotations

import numpy as np
import pytest

import concatc
from concatc.runtime.dataset import Dataset, as_one_batch

BRANCHES = """
net branches(x = 4, y = 2) {
    input a: f32[x, 3]
    input b: f32[y, 3]
    input label: i32[x + y]
    input scale: f32[3]
    loss softmax_loss(concat(a, b, axis=0) + reshape(scale, [1, 3]), label)
}
"""
OWN_LABELS = """
net own(x = 4, y = 2) {
    input a: f32[x, 3]
    input label_a: i32[x]
    input b: f32[y, 3]
    input label_b: i32[y]
    loss softmax_loss(a, label_a) as left
    loss softmax_loss(b, label_b) as right
}
"""
DOUBLED = """
net doubled(n = 3) {
    input a: f32[n, 3]
    input label: i32[2 * n]
    loss softmax_loss(concat(a, a, axis=0), label)
}
"""


def dataset(source: str, held_out: float = 0.2, rows: int = 25, **extra: np.ndarray) -> Dataset:
    net = concatc.compile_source(source, target="reference")
    numbered = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1)
    arrays = {name: numbered if spec.type.is_float else np.arange(rows) for name, spec in _types(net).items()}
    return Dataset(net.signature.inputs, arrays | extra, held_out)


def _types(net: concatc.CompiledModule) -> dict[str, object]:
    return dict(net.signature.inputs)


def test_branches_take_rows_of_their_own_and_the_label_all() -> None:
    data = dataset(BRANCHES, scale=np.ones(3, np.float32))
    assert (data.rows, data.batch_rows, data.steps) == (25, 6, 3)
    batch = data.batch(np.arange(10, 16))
    assert batch["a"][:, 0].tolist() == [10, 11, 12, 13]
    assert batch["b"][:, 0].tolist() == [14, 15]
    assert batch["label"].tolist() == [10, 11, 12, 13, 14, 15] and batch["label"].dtype == np.int32
    assert batch["scale"].tolist() == [1, 1, 1]


def test_inputs_of_one_dim_take_the_same_rows() -> None:
    batch = dataset(OWN_LABELS).batch(np.arange(6))
    assert batch["a"][:, 0].tolist() == batch["label_a"].tolist() == [0, 1, 2, 3]
    assert batch["b"][:, 0].tolist() == batch["label_b"].tolist() == [4, 5]


def test_a_multiple_of_the_batch_repeats_it() -> None:
    assert dataset(DOUBLED).batch(np.arange(3))["label"].tolist() == [0, 1, 2, 0, 1, 2]


def test_an_epoch_takes_every_training_row_at_most_once_and_no_held_out_row() -> None:
    data = dataset(OWN_LABELS)
    seen = [
        row
        for batch in data.epoch(np.random.default_rng(0))
        for row in (*batch["label_a"].tolist(), *batch["label_b"].tolist())
    ]
    assert len(seen) == len(set(seen)) == 18 and max(seen) < 20
    assert data.held_rows.tolist() == [20, 21, 22, 23, 24]


def test_held_out_rows_are_each_counted_once() -> None:
    data = dataset(BRANCHES, held_out=0.4, scale=np.ones(3, np.float32))
    counted = [batch["label"][:valid].tolist() for batch, valid in data.held_batches()]
    assert counted == [[15, 16, 17, 18, 19, 20], [21, 22, 23, 24]]


def one_batch(source: str, keys: dict[str, str], **arrays: np.ndarray) -> tuple[dict[str, list[int]], dict[str, range]]:
    """The first column of what each input takes, and the rows that it takes."""
    inputs = concatc.compile_source(source, target="reference").signature.inputs
    batch, parts = as_one_batch(inputs, arrays, {name: keys.get(name, name) for name in inputs})
    columns = {name: array[:, 0] if array.ndim > 1 else array for name, array in batch.items()}
    return {name: column.astype(int).tolist() for name, column in columns.items()}, parts


def rows(count: int) -> np.ndarray:
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 3, axis=1)


def test_branches_that_read_one_array_share_its_rows() -> None:
    batch, parts = one_batch(BRANCHES, {"a": "x", "b": "x"}, a=rows(7), b=rows(7))
    assert batch == {"a": [0, 1, 2, 3], "b": [4, 5, 6]}
    assert parts == {"a": range(4), "b": range(4, 7)}


def test_branches_share_rows_where_there_is_a_label_for_each_row() -> None:
    batch, _ = one_batch(BRANCHES, {}, a=rows(12), b=rows(12), label=np.arange(12))
    assert batch == {"a": list(range(8)), "b": list(range(8, 12)), "label": list(range(12))}
    batch, parts = one_batch(DOUBLED, {}, a=rows(2), label=np.arange(2))
    assert batch == {"a": [0, 1], "label": [0, 1, 0, 1]} and parts == {"a": range(2)}


def test_arrays_of_their_own_are_taken_whole() -> None:
    batch, parts = one_batch(BRANCHES, {}, a=rows(5), b=rows(5), label=np.arange(10))
    assert batch == {"a": list(range(5)), "b": list(range(5)), "label": list(range(10))} and not parts
    assert one_batch(BRANCHES, {}, a=rows(5), b=rows(5))[0] == {"a": list(range(5)), "b": list(range(5))}
    assert one_batch(BRANCHES, {}, a=rows(4), b=rows(2))[1] == {}
    assert one_batch(OWN_LABELS, {}, a=rows(4), label_a=np.arange(4))[1] == {}


def error_of(source: str, **extra: np.ndarray) -> str:
    with pytest.raises(concatc.UsageError) as caught:
        dataset(source, **extra)
    return str(caught.value)


def test_what_does_not_fit_is_explained() -> None:
    assert "inputs have different numbers of rows" in error_of(OWN_LABELS, b=np.zeros((9, 3)))
    assert "`label` holds numbers that do not fit int32" in error_of(DOUBLED, label=np.full(25, 2**40))
    assert "`label` holds float64, but the net takes i32[6]" in error_of(DOUBLED, label=np.zeros(25))
    fixed = "net fixed() { input a: f32[4, 3]; input label: i32[4]; loss softmax_loss(a, label) }"
    assert "no input has a dim as its first axis" in error_of(fixed)
    odd = DOUBLED.replace("2 * n", "n + 1").replace(
        "concat(a, a, axis=0)", "concat(a, slice(a, axis=0, at=[1])[0], axis=0)"
    )
    assert "`label` takes 4 rows, which is no multiple of a batch of 3" in error_of(odd)
    empty = "net empty(n = 0) { input a: f32[n, 3]; input label: i32[n]; loss softmax_loss(a, label) }"
    assert "a batch of no rows trains nothing" in error_of(empty)
    with pytest.raises(concatc.UsageError, match="the held-out part is from 0 to below 1"):
        dataset(DOUBLED, held_out=1.0)
