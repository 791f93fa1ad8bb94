"""Weights of losses that are made of dims follow another batch size, on the same code."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

import concatc
from concatc.artifact import write_module
from concatc.compiler import compile_net
from concatc.frontend import cnet
from concatc.frontend.cnet.quotient import Quotient
from concatc.frontend.cnet.values import arithmetic
from concatc.loss_weights import is_quotient
from tests.sized_nets import inputs_of

pytestmark = pytest.mark.usefixtures("sizes_cache")
SHARES = """
net shares(x = 64, y = 32, rate = 0.3) {
    input a: f32[x, 16]
    input b: f32[y, 16]
    input of_a: i32[x]
    input of_b: i32[y]
    layer f = linear(10)
    share = x / (x + y)
    loss softmax_loss(f(a), of_a) weight share as la
    loss softmax_loss(f(b), of_b) weight -rate * (1 - share) as lb
}
"""
SUMS = """
net sums(n = 8) {
    input x: f32[n, 4]
    h = linear(x, 2)
    loss sum(square(h)) weight 1 / size(h, 0) as la
    loss mean(h) weight 0.25 as lb
    output h
}
"""
POLE = """
net pole(n = 8) {
    input a: f32[n, 4]
    loss mean(linear(a, 2)) weight 1 / (n - 5) as la
    output a
}
"""


def shares(x: int, y: int) -> dict[str, float]:
    return {"la": x / (x + y), "lb": float(Fraction(-3, 10) * Fraction(y, x + y))}


def check(net: concatc.CompiledModule, weights: dict[str, float]) -> None:
    """Whether these are the weights that run."""
    assert net.signature.loss_weights == weights
    out = net.forward(inputs_of(net))
    total = sum(weight * out[name] for name, weight in weights.items())
    assert out["loss"] == pytest.approx(total, rel=1e-5)
    assert net.train_step(inputs_of(net))["loss"] == pytest.approx(total, rel=1e-5)


@pytest.fixture
def compiles_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nets that are elaborated from here on."""
    seen: list[str] = []
    load = cnet.load

    def watched(text: str, *args: object, **options: object) -> object:
        seen.append(text)
        return load(text, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cnet, "load", watched)
    return seen


@pytest.mark.parametrize("x, y", [(5, 2), (1, 1), (40, 70)])
def test_weights_made_of_dims_follow_on_the_same_code(compiles_once: list[str], x: int, y: int) -> None:
    net = concatc.compile_source(SHARES)
    net.init(seed=0)
    check(net, shares(64, 32))
    _ = net.with_dims(x=2, y=2)  # looks at large samples
    compiles_once.clear()
    check(net.with_dims(x=x, y=y), shares(x, y))
    assert not compiles_once
    check(net, shares(64, 32))


def test_sizes_of_blobs_are_made_of_dims(compiles_once: list[str]) -> None:
    net = concatc.compile_source(SUMS)
    net.init(seed=0)
    _ = net.with_dims(n=2)
    compiles_once.clear()
    other = net.with_dims(n=5)
    check(other, {"la": 1 / 5, "lb": 0.25})
    assert not compiles_once
    net.loss_weights["la"] = 3.0
    out = other.forward(inputs_of(other))
    assert out["loss"] == pytest.approx(3 * out["la"] + 0.25 * out["lb"], rel=1e-5)


def test_written_modules_take_other_sizes(tmp_path: Path) -> None:
    write_module(compile_net(SUMS, "sums.cnet"), tmp_path / "sums")
    net = concatc.load(tmp_path / "sums")
    net.init(seed=0)
    check(net.with_dims(n=5), {"la": 1 / 5, "lb": 0.25})
    check(net, {"la": 1 / 8, "lb": 0.25})


def test_where_a_weight_has_no_value_the_source_is_asked(tmp_path: Path) -> None:
    net = concatc.compile_source(POLE, filename="pole.cnet")
    assert net.with_dims(n=4).signature.loss_weights == {"la": -1.0}
    with pytest.raises(concatc.ConcatcError, match=r"pole\.cnet:4:36: error: division by zero"):
        net.with_dims(n=5).forward(inputs_of(net))
    write_module(compile_net(POLE, "pole.cnet"), tmp_path / "pole")
    with pytest.raises(concatc.UsageError, match="written for n=8"):
        concatc.load(tmp_path / "pole").with_dims(n=5)


def test_numbers_made_of_dims_remember_what_they_are_quotients_of() -> None:
    x, y = Quotient(64), Quotient(32)
    share = arithmetic("/", x, arithmetic("+", x, y))
    assert isinstance(share, Quotient) and share == Fraction(2, 3) and share.terms == (64, 96)
    rest = arithmetic("-", Fraction(1), share)
    assert isinstance(rest, Quotient) and rest.terms == (32, 96)
    assert not isinstance(arithmetic("//", x, y), Quotient)
    large = Quotient(1 << 61)
    assert not isinstance(arithmetic("*", large, large), Quotient)  # it is exact, and no polynomial is read off it
    assert arithmetic("*", large, large) == 1 << 122


@pytest.mark.parametrize("weight", [1.0, (1, 0), (1, 2, 3), (1.0, 2), (True, 2), (1 << 63, 1)])
def test_what_is_no_quotient(weight: object) -> None:
    assert not is_quotient(weight)
