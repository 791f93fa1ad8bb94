"""Nets that this machine cannot hold: one message that says what they need, before any memory is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.loops import free_memory, memory

NET = """net f(n = 2, size = 4) {
    input x: f32[n, 3]
    y = linear(x, size)
    loss mean(y) as m
    output y
}
"""


@pytest.mark.parametrize("size", [10**12, 10**13])
def test_parameters_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.cnet").write_text(NET)
    np.savez("x.npz", x=np.ones((2, 3), np.float32))
    command = ["run", "f.cnet", "--dim", f"size={size}", "--data", "x.npz", "--target", "reference"]
    assert exit_code(command) == 2
    # Weight and bias are 16 bytes a column, and so are their gradients.
    message = capsys.readouterr().err
    tib = f"{2 * 16 * size / 1024**4:.1f}".removesuffix(".0")
    assert message.startswith(f"error: no memory for {tib} TiB of parameters, gradients and states: ")
    assert "\nnote: params " in message
    assert "are free" in message


def with_memory(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: size_bytes)


def test_other_blocks_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    net = concatc.compile_source(NET, target="reference", dims={"size": 64})
    net.init(seed=0)
    with_memory(monkeypatch, 1000)
    with pytest.raises(concatc.UsageError, match="of the optimizer's state"):
        net.train_step(x=np.ones((2, 3), np.float32), optimizer=concatc.Adam())
    with_memory(monkeypatch, 200)
    with pytest.raises(concatc.UsageError, match="of inputs, outputs and arena"):
        net.eval(x=np.ones((2, 3), np.float32))
    with_memory(monkeypatch, 2**30)
    assert net.eval(x=np.ones((2, 3), np.float32))["y"].shape == (2, 64)


def test_memory_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(size_bytes: int) -> None:
        raise MemoryError

    monkeypatch.setattr(memory, "allocate", refused)
    with pytest.raises(concatc.UsageError, match=r"no memory for .* of parameters, gradients and states"):
        concatc.compile_source(NET, target="reference").init()


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_a_batch_that_does_not_fit_is_refused_before_it_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setenv("CONCATC_CACHE_DIR", str(tmp_path))
    net = concatc.compile_source(NET, target=target, dims={"n": 10**8})
    net.init()
    with_memory(monkeypatch, 10**9)
    x = np.broadcast_to(np.float32(0), (10**8, 3))

    def compiled(*args: object) -> None:
        raise AssertionError("it was compiled")

    monkeypatch.setattr(type(net._source), "executable", compiled)
    for call in (net.forward, net.eval, net.train_step):
        with pytest.raises(concatc.UsageError, match=r"no memory for .* GiB of inputs.*: 953.7 MiB are free") as error:
            call(x=x)
        assert "of net f(n=100000000, size=4) needs" in str(error.value)
    with pytest.raises(concatc.UsageError, match=r"953\.7 MiB are free"):
        net.profile()


LABELLED = """net f(n = 100000000) {
    input x: f32[n, 2]
    input label: i32[n]
    input pair: i32[n, 2]
    a, b = slice(pair, axis=1, parts=2)
    loss softmax_loss(x, label)
    loss mean(embedding(reshape(concat(label, label, axis=0), [2 * n]), 5, dim=1)) as e
}
"""


def test_labels_of_large_batches_are_followed_as_a_whole() -> None:
    """One number each would be 800 MB, and sorting them took minutes."""
    checks = concatc.compile_source(LABELLED, target="reference").index_checks
    assert [(c.name, c.positions, c.extent) for c in checks] == [("label", None, 2), ("label", None, 5)]


def test_free_memory_is_within_limits_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    files = {"memory.max": "5000", "memory.current": "3000", "memory.stat": "anon 1\ninactive_file 100\n"}
    for name, text in files.items():
        (tmp_path / "a" / name).write_text(text)
    (tmp_path / "a" / "b" / "memory.max").write_text("max")
    (tmp_path / "own").write_text("0::/a/b\n")
    (tmp_path / "meminfo").write_text("MemTotal: 10 kB\nMemAvailable: 3 kB\nSwapFree: 1 kB\n")
    monkeypatch.setattr(free_memory, "GROUPS", tmp_path)
    monkeypatch.setattr(free_memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    assert free_memory.free_bytes() == 2100
    (tmp_path / "a" / "memory.max").write_text("max")
    assert free_memory.free_bytes() == 4096
