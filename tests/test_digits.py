"""``examples/data/digits.npz`` is what its README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "examples" / "data" / "digits.npz"


def test_digits() -> None:
    with np.load(DATA, allow_pickle=False) as data:
        image, label = data["image"], data["label"]
        assert sorted(data.files) == ["image", "label"]
    assert (image.shape, image.dtype) == ((1797, 8, 8), np.float32)
    assert (label.shape, label.dtype) == ((1797,), np.int32)
    assert np.array_equal(image * 16, np.round(image * 16))
    assert (image.min(), image.max()) == (0, 1)
    # The class distribution of the test part, as its authors give it.
    assert np.bincount(label).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_held_out_rows_hold_every_class_and_none_of_the_training_rows() -> None:
    with np.load(DATA, allow_pickle=False) as data:
        image, label = data["image"].reshape(1797, 64), data["label"]
    assert np.bincount(label[-360:]).min() >= 25
    train = {row.tobytes() for row in image[:-360]}
    assert not any(row.tobytes() in train for row in image[-360:])
