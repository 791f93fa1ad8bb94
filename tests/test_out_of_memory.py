"""Nets that this machine cannot hold: one message that says what they need, before any memory is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.loops import memory

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
    assert message.startswith(f"error: no memory for {tib} TiB of parameters, gradients and states\nnote: params ")
    assert "note: this machine has " in message


def with_memory(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.setattr(memory, "_machine_bytes", lambda: size_bytes)


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
