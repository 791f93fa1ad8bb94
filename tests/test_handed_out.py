"""Results are copied to memory that is used again, and never while anybody can read it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.runtime.handed_out import LEAST_BYTES, HandedOut

NUMEL = LEAST_BYTES // 4
HELD: list[Callable[[Any], Any]] = [
    lambda array: array,
    lambda array: array[1:2],
    lambda array: array.reshape(-1)[3:][1:],
    lambda array: array.T.view(np.int32),
    lambda array: array.base,
    memoryview,
    lambda array: memoryview(array[1]),
    lambda array: np.asarray(memoryview(array)),
    lambda array: np.from_dlpack(array[1:]),
    lambda array: np.ctypeslib.as_ctypes(array),
    lambda array: array.ctypes,
]


def place(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def filled(value: int, rows: int = 4) -> np.ndarray:
    return np.full((rows, NUMEL // 4), value, np.float32)


@pytest.mark.parametrize("hold", HELD)
def test_what_is_held_in_any_way_is_not_written_again(hold: Callable[[Any], Any]) -> None:
    out = HandedOut()
    first = out.copy("y", filled(1))
    at, held = place(first), hold(first)
    del first
    gc.collect()
    later = [out.copy("y", filled(k)) for k in (2, 3)]
    assert at not in map(place, later), "memory that is held was handed out again"
    assert ctypes.string_at(at, 4 * NUMEL) == filled(1).tobytes()
    del held, later
    gc.collect()
    assert out.spare_bytes == 4 * NUMEL


@pytest.mark.peers
def test_a_tensor_of_torch_holds_it() -> None:
    torch = pytest.importorskip("torch")
    out = HandedOut()
    for tensor_of in (torch.from_numpy, torch.from_dlpack, torch.asarray):
        tensor = tensor_of(out.copy("y", filled(1)))[1:]
        later = out.copy("y", filled(2))
        assert tensor.data_ptr() - NUMEL != place(later)
        assert bool((tensor == 1).all())


def test_what_nobody_holds_is_written_again() -> None:
    out = HandedOut()
    places, kept = [], None
    for k in range(6):  # as `y = net.eval(x)` in a loop: the last result lives until the next one is there
        kept = out.copy("y", filled(k))
        places.append(place(kept))
        assert np.all(kept == k) and kept.flags.writeable and kept.flags.c_contiguous
    assert len(set(places)) == 2 and places[2:] == places[:4]
    del kept
    other = out.copy("y", filled(7).astype(np.int32))  # of the same number of bytes
    assert place(other) in places and other.dtype == np.int32


def test_one_array_is_kept_for_a_result() -> None:
    out = HandedOut()
    many = [out.copy(name, filled(1)) for _ in range(5) for name in ("y", "z")]
    assert out.spare_bytes == 0
    del many
    assert out.spare_bytes == 2 * 4 * NUMEL
    larger = out.copy("y", filled(1, rows=8))
    assert larger.shape == (8, NUMEL // 4) and out.spare_bytes == 4 * NUMEL, "what does not fit is let go of"


def test_small_results_and_strided_ones() -> None:
    out = HandedOut()
    scalar, few = out.copy("loss", np.asarray(np.float32(2))), out.copy("few", np.arange(3))
    assert scalar == 2 and few.base is None
    window = np.arange(2.0 * NUMEL, dtype=np.float32).reshape(4, -1)[:, : NUMEL // 4]
    assert np.array_equal(out.copy("window", window), window)
    assert out.copy("none", np.zeros((0, 7), np.float32)).shape == (0, 7)


def test_arrays_that_end_in_other_threads() -> None:
    out = HandedOut()

    def run(k: int) -> None:
        for j in range(100):
            mine = out.copy("y", filled(1000 * k + j))
            wrong.extend([] if np.all(mine == 1000 * k + j) else [(k, j)])

    wrong: list[tuple[int, int]] = []
    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and out.spare_bytes == 4 * NUMEL


def test_results_of_a_net() -> None:
    net = concatc.compile_source("net t(n = 512) {\n input x: f32[n, 32]\n y = relu(x)\n output y\n}")
    x = np.ones((512, 32), np.float32)
    first = net.eval(x=x)["y"]
    view = first[100:]
    del first
    others = [net.eval(x=k * x)["y"] for k in (2, 3)]
    assert np.all(view == 1) and [np.all(y == k) for y, k in zip(others, (2, 3), strict=True)] == [True, True]
    assert "results" not in str(net.memory)
    del others
    assert net.memory.spare_bytes == x.nbytes and "results: 64 KiB besides" in str(net.memory)
    assert np.all(net.with_dims(n=256).eval(x=x[:256])["y"] == 1)
