"""Dropout's mask: a function of seed, step, key and index, and of nothing else; and fair."""

from __future__ import annotations

import numpy as np
import pytest

from concatc.loops.evaluate import evaluate
from concatc.loops.expr import Ref, walk
from concatc.op import f32, i32, load_all_ops
from concatc.ops._hash import random_steps

Dropout = load_all_ops()["dropout"]


def mask(shape: tuple[int, ...], p: float = 0.5, key: int = 1, seed: int = 0, step: int = 0) -> np.ndarray:
    op = Dropout(p=p, key=key)  # type: ignore[call-arg]
    (y,) = op.reference(np.ones(shape), np.array([seed, step], np.int32))
    return np.asarray(y != 0)


def test_mask_is_the_same_in_any_shape() -> None:
    np.testing.assert_array_equal(mask((4, 6)).ravel(), mask((24,)))
    np.testing.assert_array_equal(mask((2, 3, 4)).ravel(), mask((24,)))


def test_first_elements_do_not_depend_on_the_size() -> None:
    np.testing.assert_array_equal(mask((100,)), mask((1000,))[:100])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("seed", "step"), [(0, 0), (0, 1), (1, 0), (-1, 2**31 - 1), (-(2**31), 77)])
def test_the_fraction_dropped_is_p(p: float, seed: int, step: int) -> None:
    n = 200_000
    dropped = n - int(mask((n,), p, 3, seed, step).sum())
    assert abs(dropped - n * p) < 4.5 * np.sqrt(n * p * (1 - p))


def test_what_is_kept_keeps_the_mean() -> None:
    op = Dropout(p=0.25, key=0)  # type: ignore[call-arg]
    (y,) = op.reference(np.ones(8), np.zeros(2, np.int32))
    assert set(y.tolist()) <= {0.0, 1 / 0.75}


NEIGHBOURS = {
    "steps": lambda k: {"step": k},
    "seeds": lambda k: {"seed": k},
    "keys": lambda k: {"key": k},
}


@pytest.mark.parametrize("of", NEIGHBOURS)
def test_masks_of_neighbours_are_unrelated(of: str) -> None:
    n, count = 20_000, 24
    masks = np.stack([mask((n,), 0.5, **NEIGHBOURS[of](k)) for k in range(count)]) - 0.5
    correlation = masks @ masks.T / (n / 4)
    np.fill_diagonal(correlation, 0)
    # 276 pairs: the largest of so many normal numbers is below 4.5 standard deviations.
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)


def test_elements_of_one_mask_are_unrelated() -> None:
    n = 200_000
    bits = mask((n,)) - 0.5
    for lag in (1, 2, 3, 7, 8, 64, 100, 1024, 4096, 65536):
        assert abs(np.mean(bits[:-lag] * bits[lag:]) * 4) < 4.5 / np.sqrt(n - lag), lag


def test_steps_are_uniform() -> None:
    n, bins = 1 << 18, 256
    counts = np.bincount(random_steps(np.array([5, 9]), 2, (n,)) >> 16, minlength=bins)
    chi_squared = float(np.sum((counts - n / bins) ** 2) / (n / bins))
    # 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert abs(chi_squared - 255) < 4.5 * 22.6


def test_pieces_draw_the_same_mask() -> None:
    for seed, step, key in ((0, 0, 0), (-1, 2**31 - 1, -5), (123456, 7, 2**40 + 3)):
        op = Dropout(p=0.3, key=key)  # type: ignore[call-arg]
        types = [f32(7, 11), i32(2)]
        arrays = [np.ones((7, 11), np.float32), np.array([seed, step], np.int32)]
        refs = [Ref("operand", k, t) for k, t in enumerate(types)]
        pieces = list(op.lower(refs, [Ref("result", 0, types[0])]))
        (got,) = evaluate(pieces, arrays, [types[0]])
        np.testing.assert_array_equal(got, op.reference(*arrays)[0])
        assert sum(1 for _ in walk(pieces[0].value)) < 400, "the expression as a tree"


def test_the_mask_is_pinned() -> None:
    """A run can be repeated with another release: these bits may never change."""
    assert "".join("01"[int(m)] for m in mask((40,), 0.5, 1, 42, 7)) == PINNED


PINNED = "1110101100111010101001001001110111010100"
