"""Sums over all images add up row by row: a mean is as exact as its elements, whatever the batch is."""

from __future__ import annotations

import re

import numpy as np
import pytest

import concatc

BATCH_NORM = """
net stats(n = 64) {
    input image: f32[n, 2, 48, 48]
    y = image |> batch_norm(momentum=1.0)
    loss mean(y)
}
"""
CONVOLUTION = """
net convolution(n = 4) {
    input image: f32[n, 3, 8, 8]
    y = image |> conv(5, kernel=3, pad=1, bias=false)
    loss sum(y)
}
"""
IMAGES = np.random.default_rng(3).uniform(1, 2, (64, 2, 48, 48)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_statistics_of_a_batch_are_as_exact_as_its_elements(threads: int) -> None:
    net = concatc.compile_source(BATCH_NORM, threads=threads)
    net.train_step({"image": IMAGES})
    exact = IMAGES.mean(axis=(0, 2, 3), dtype=np.float64)
    (mean,) = (np.array(v, np.float64) for k, v in net.states.items() if k.endswith("running_mean"))
    # 147456 numbers of one sign in each channel: added up in vectors, one behind the other, they are off by 6e-7.
    assert np.abs(mean / exact - 1).max() < 1.2e-7


def test_sums_of_elements_are_wide_and_contractions_are_not() -> None:
    def folds(source: str) -> list[list[str]]:
        """The types that nested sums carry, of each kernel."""
        text = concatc.compile_source(source).ir("loops")
        kernels = re.split(r"func\.func private", text)
        return [found for k in kernels if (found := re.findall(r"iter_args\(%acc\S* = %\S+\) -> \((\w+)\)", k))]

    assert folds(BATCH_NORM)[0] == ["f64", "f32", "f64", "f32"]
    assert {kind for kernel in folds(CONVOLUTION) for kind in kernel} == {"f32"}
