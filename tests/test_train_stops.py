"""What ends ``concatc train`` early: places that cannot be written, signals, a loss that is no number, wrong keys."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concatc
from concatc.cli.main import exit_code
from concatc.runtime.module import CompiledModule

SMALL = """net small(n = 4) {
    input x: f32[n, 5]
    input label: i32[n]
    y = linear(x, 3)
    loss softmax_loss(y, label)
    output y
}
"""
TRAIN = ("train", "small.cnet", "--data", "data.npz", "--target", "reference")
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    Path("small.cnet").write_text(SMALL)
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(40, 5)), label=rng.integers(0, 3, 40))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = exit_code([*TRAIN, *arguments])
        return code, *capsys.readouterr()

    return call


def after_steps(monkeypatch: pytest.MonkeyPatch, steps: int, act: Callable[[], None]) -> list[int]:
    """Act within that training step; the list counts the steps."""
    done: list[int] = []
    step = CompiledModule.train_step

    def counted(self: CompiledModule, *args: Any, **kwargs: Any) -> dict[str, float]:
        done.append(len(done) + 1)
        if len(done) == steps:
            act()
        return step(self, *args, **kwargs)

    monkeypatch.setattr(CompiledModule, "train_step", counted)
    return done


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (".", "cannot write .: it is a directory"),
        ("small.cnet/gone/w", "cannot write small.cnet/gone/w: small.cnet is a file, not a folder"),
        ("small.cnet/w", "cannot write small.cnet/w: small.cnet is a file, not a folder"),
    ],
)
def test_output_is_checked_before_the_first_step(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    done = after_steps(monkeypatch, 0, lambda: None)
    code, out, err = cli("-o", output)
    assert (code, out, done) == (2, "", []) and message in err
    assert sorted(p.name for p in Path().iterdir()) == ["data.npz", "small.cnet"]


def test_save_to_a_directory(cli: Cli) -> None:
    net = concatc.compile("small.cnet", target="reference")
    with pytest.raises(concatc.UsageError, match="it is a directory"):
        net.save(".")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_weights_of_whole_steps(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done = after_steps(monkeypatch, 11, lambda: signal.raise_signal(number))
    code, _, err = cli("-o", "w.safetensors")  # 8 steps an epoch
    assert code == 130 and len(done) == 11
    assert err == "interrupted in epoch 2; the weights so far are written to w.safetensors\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    net = concatc.compile("small.cnet", target="reference")
    net.init(0)
    first = next(iter(net.params.values())).copy()
    net.load("w.safetensors")
    assert not np.array_equal(first, next(iter(net.params.values())))


def test_a_signal_before_the_first_step_ends_at_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    after_steps(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGINT))
    assert cli() == (130, "", "\ninterrupted\n")
    assert not Path("small.safetensors").exists()


def test_an_interruption_as_json(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    after_steps(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGINT))
    code, out, _ = cli("--json")
    result = json.loads(out)
    assert code == 130 and result["ok"] is False and result["weights"] == "small.safetensors"


def test_a_loss_that_is_no_number_ends_training_and_keeps_the_old_weights(cli: Cli) -> None:
    Path("small.safetensors").write_bytes(b"old")
    x = np.zeros((40, 5))
    x[5] = np.nan
    np.savez("data.npz", x=x, label=np.zeros(40, int))
    code, _, err = cli()
    assert code == 1 and "the loss became nan in epoch 1; no weights were written" in err
    assert Path("small.safetensors").read_bytes() == b"old"


@pytest.mark.parametrize("wrong", [("--lr", "nan"), ("--lr", "-1"), ("--momentum", "5"), ("--weight-decay", "-1")])
def test_wrong_rates(cli: Cli, wrong: tuple[str, str]) -> None:
    code, _, err = cli(*wrong)
    assert code == 2 and "SGD: " in err and "must be a" in err


def test_key_for_an_input_that_the_net_does_not_have(cli: Cli) -> None:
    code, _, err = cli("--key", "lable=label")
    assert code == 2 and "--key lable=label: the net has no input `lable`" in err and "did you mean `label`?" in err
